"""Install a plan of changes in a UNet for the length of a `with`."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from diffusers.models.attention_processor import Attention, AttnProcessor, AttnProcessor2_0
from torch import Tensor, nn

from ..layers import Attend, Change, Entry, Layer, Plan, Site, attend
from .processor import HeadsProcessor

# Processors of plain attention, which a change may replace.
_PLAIN = (AttnProcessor, AttnProcessor2_0, HeadsProcessor)


@contextmanager
def installed(unet: nn.Module, plan: Plan, rows: Sequence[int]) -> Iterator[None]:
    """Within the `with`, the model's attention is changed by a plan; after it, it is as before.

    If several entries name the same layer, the last one is called first, and calls the others
    through its `attend`. `rows` are the numbers of the clips in every call inside the `with`.

    At the end, also after an exception, all layers get their old processors back. A nested `with`
    may change other layers, but not the same.

    Raises:
        ValueError: if a layer does not exist, is already changed, or has an attention that is not
            plain, so that a change would lose a part of it.
    """
    layers = {site: _layer(unet, site) for entry in plan for site in entry.sites}
    before = {site: layer.processor for site, layer in layers.items()}
    try:
        for site, layer in layers.items():
            here = [entry for entry in plan if site in entry.sites]
            layer.set_processor(Installed(site, here, before[site], tuple(rows)))
        yield
    finally:
        for site, layer in layers.items():
            layer.set_processor(before[site])


class Installed(HeadsProcessor):
    """The processor of a layer while a plan is installed."""

    def __init__(self, site: Site, plan: Plan, before: object, rows: tuple[int, ...]) -> None:
        # `attend` is a method here. As an attribute it would make a reference cycle, and records of
        # the changes, perhaps with a whole graph, would stay until Python collects garbage.
        self.site, self.plan, self.before, self.rows = site, plan, before, rows

    def again(self) -> "Installed":
        """A processor for the second run of the layer, with the same changes as now.

        A graph may refer to it, because it refers to no record that has a graph.
        """
        plan = [Entry(entry.sites, entry.again or entry.change) for entry in self.plan]
        return Installed(self.site, plan, self.before, self.rows)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """The attention of the layer, with all changes of the plan."""
        layer = Layer(self.site, self.rows)
        inner = self.before.attend if isinstance(self.before, HeadsProcessor) else attend
        for entry in self.plan:
            inner = partial(_change, entry.change, layer, inner)
        return inner(q, k, v)


def _change(change: Change, layer: Layer, inner: Attend, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return change(layer, q, k, v, inner)


def _layer(unet: nn.Module, site: Site) -> Attention:
    """The layer at a site, after a check that its attention can be changed."""
    try:
        layer = unet.get_submodule(site.name)
    except AttributeError:
        raise ValueError(
            f"This model has no attention layer {site.name}: the sites are another model's."
        ) from None
    if isinstance(layer.processor, Installed):
        raise ValueError(
            f"The attention of {site.name} is already changed by another plan. Put both changes "
            "into one plan."
        )
    kind = type(layer.processor)
    # AttnProcessor2_0 always uses the usual scale, even if the layer has another.
    unusual = kind is AttnProcessor and layer.scale != (layer.inner_dim // layer.heads) ** -0.5
    if kind not in _PLAIN or unusual:
        raise ValueError(
            f"The attention of {site.name} is not plain attention ({kind.__name__}"
            f"{' with a scale of its own' if unusual else ''}), and a change would lose what it "
            "does. Load the model without attention add-ons."
        )
    return layer
