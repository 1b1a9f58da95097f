"""`attention.layers.Layers` for diffusers' UNets."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import ClassVar

from diffusers.models.attention_processor import (
    Attention,
    AttnAddedKVProcessor,
    AttnAddedKVProcessor2_0,
    AttnProcessor,
    AttnProcessor2_0,
)
from jaxtyping import Bool
from torch import Tensor, nn

from ..layers import Plan, Site, last_of, layer_at
from .checkpointing import checkpointed
from .processor import HeadsProcessor
from .sites import find_sites, map_size
from .video_block import marked_of_read

# Processors of plain attention, which `HeadsProcessor` computes, too.
_PLAIN = (AttnProcessor, AttnProcessor2_0, AttnAddedKVProcessor, AttnAddedKVProcessor2_0)


@dataclass(frozen=True, eq=False)
class UNetLayers:
    """The attention layers of a UNet; see `Layers` for the methods."""

    unet: nn.Module
    one_size: ClassVar[bool] = False

    def find(self, pattern: str, kind: str) -> tuple[Site, ...]:
        return find_sites(self.unet, pattern, kind)

    def last(self, count: int) -> tuple[Site, ...]:
        return last_of(self.find("*", "spatial"), count)

    @contextmanager
    def installed(self, plan: Plan, rows: Sequence[int]) -> Iterator[None]:
        """See `Layers.installed`.

        At the end, also after an exception, all layers get their old processors back. A nested
        `with` may change other layers, but not the same.

        Raises:
            ValueError: if a layer does not exist, is already changed, or has an attention that is
                not plain, so that a change would lose a part of it.
        """
        layers = {site: self._changeable(site) for entry in plan for site in entry.sites}
        before = {site: layer.processor for site, layer in layers.items()}
        try:
            for site, layer in layers.items():
                layer.set_processor(HeadsProcessor(site, plan, tuple(rows)))
            yield
        finally:
            for site, layer in layers.items():
                layer.set_processor(before[site])

    def checkpointed(self) -> AbstractContextManager[None]:
        return checkpointed(self.unet)

    def map_size(self, tokens: int, height: int, width: int) -> tuple[int, int]:
        return map_size(tokens, height, width)

    def marked_of_read(
        self, site: Site, marked: Bool[Tensor, "f n"], height: int, width: int
    ) -> Bool[Tensor, "f m"]:
        return marked_of_read(self.unet, site, marked, height, width)

    def _changeable(self, site: Site) -> Attention:
        """The layer at a site, after a check that its attention can be changed."""
        layer = layer_at(self.unet, site)
        kind = type(layer.processor)
        if kind is HeadsProcessor:
            raise ValueError(
                f"The attention of {site.name} is already changed by another plan. Put both "
                "changes into one plan."
            )
        # AttnProcessor2_0 always uses the usual scale, even if the layer has another.
        unusual = kind is AttnProcessor and layer.scale != (layer.inner_dim // layer.heads) ** -0.5
        if kind not in _PLAIN or unusual:
            raise ValueError(
                f"The attention of {site.name} is not plain attention ({kind.__name__}"
                f"{' with a scale of its own' if unusual else ''}), and a change would lose what "
                "it does. Load the model without attention add-ons."
            )
        return layer
