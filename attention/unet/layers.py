"""`attention.layers.Layers` for diffusers' UNets."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from jaxtyping import Bool
from torch import Tensor, nn

from ..layers import Plan, Site
from .checkpointing import checkpointed
from .install import installed
from .sites import find_sites, last_spatial_sites, map_size
from .video_block import marked_of_read


@dataclass(frozen=True, eq=False)
class UNetLayers:
    """The attention layers of a UNet; see `Layers` for the methods."""

    unet: nn.Module

    def find(self, pattern: str, kind: str) -> tuple[Site, ...]:
        return find_sites(self.unet, pattern, kind)

    def last(self, count: int) -> tuple[Site, ...]:
        return last_spatial_sites(self.unet, count)

    def installed(self, plan: Plan, rows: Sequence[int]) -> AbstractContextManager[None]:
        return installed(self.unet, plan, rows)

    def checkpointed(self) -> AbstractContextManager[None]:
        return checkpointed(self.unet)

    def map_size(self, tokens: int, height: int, width: int) -> tuple[int, int]:
        return map_size(tokens, height, width)

    def marked_of_read(
        self, site: Site, marked: Bool[Tensor, "f n"], height: int, width: int
    ) -> Bool[Tensor, "f m"]:
        return marked_of_read(self.unet, site, marked, height, width)
