"""The one place where attention is patched: a plan holds for the length of a `with`, never longer.

A plan is data: which layers, and what to do there. Nothing is counted behind anyone's back: what a
change must know about the moment (the timestep, the rows of the batch) it is given.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from functools import partial
from typing import NamedTuple, TypeAlias

from diffusers.models.attention_processor import Attention, AttnProcessor, AttnProcessor2_0
from torch import Tensor, nn

from .processor import Attend, HeadsProcessor, attend
from .sites import Site

# What may be replaced without losing what it does: plain attention.
_PLAIN = (AttnProcessor, AttnProcessor2_0, HeadsProcessor)


class Layer(NamedTuple):
    """An attention layer as it runs: where it is, and which clips it sees.

    `rows` are the clips' numbers in the order of the batch, which holds the same number of samples
    for each, one after the other: frames, or for temporal attention positions.
    """

    site: Site
    rows: tuple[int, ...]


# What to do at a layer: given q `[b, h, n, d]`, k and v `[b, h, m, d]` it returns what the heads
# read, `[b, h, n, d]`, in place of the last argument, which is what the layer would do without it.
Change: TypeAlias = Callable[[Layer, Tensor, Tensor, Tensor, Attend], Tensor]


class Entry(NamedTuple):
    """One line of a plan: do this at these layers.

    A change that keeps something with its graph names a stand-in for where a checkpoint runs the
    layer `again`: the same computation, which keeps nothing. A graph holds whatever it runs again;
    through the change it would hold itself, and would never be freed.
    """

    sites: Sequence[Site]
    change: Change
    again: Change | None = None


Plan: TypeAlias = Sequence[Entry]


@contextmanager
def installed(unet: nn.Module, plan: Plan, rows: Sequence[int], frames: int) -> Iterator[None]:
    """Within the `with`, the model's attention is changed by a plan; then it is as it was.

    At a layer that several entries name, the later one is asked first and reaches the earlier ones
    through its `attend`. `rows` numbers the clips of every call within, one number each; `frames`
    is their length. A model that is short of memory may take them in several slices, in order: a
    layer is told which it sees.

    Exactly the processors that were there come back, also after an exception. A `with` inside this
    one may change other layers, but none of these.

    Raises:
        ValueError: if a layer does not exist, already is changed, or does more than plain
            attention, so that a change would lose something; from within, if the model is called
            with more clips than `rows` names.
    """
    layers = {site: _layer(unet, site) for entry in plan for site in entry.sites}
    before = {site: layer.processor for site, layer in layers.items()}
    clips = _Clips(tuple(rows), frames)
    watches = [
        unet.register_forward_pre_hook(clips.enter, with_kwargs=True),
        unet.register_forward_hook(clips.leave),
    ]
    try:
        for site, layer in layers.items():
            here = [entry for entry in plan if site in entry.sites]
            layer.set_processor(Installed(site, here, before[site], clips))
        yield
    finally:
        for site, layer in layers.items():
            layer.set_processor(before[site])
        for watch in watches:
            watch.remove()


class _Clips:
    """Which clips the model is working on."""

    def __init__(self, rows: tuple[int, ...], frames: int) -> None:
        self.rows = self.waiting = rows
        self.present: tuple[int, ...] = ()
        self.frames = frames
        self.running = False

    def enter(self, unet: nn.Module, args: tuple, kwargs: dict) -> None:
        """Before each call of the model: its batch are the next clips."""
        if self.running or not self.waiting:
            # The call before failed, for want of memory, or it was the last slice: all over again.
            self.waiting = self.rows
        self.running = True
        sample = args[0] if args else kwargs["sample"]
        # A video model is given clips, an image model the frames of clips.
        count, rest = divmod(len(sample), 1 if sample.ndim == 5 else self.frames)
        if rest or count > len(self.waiting):
            raise ValueError(
                f"The model was called with a batch of {len(sample)}, but {len(self.rows)} clips "
                f"of {self.frames} frames were announced to its attention."
            )
        self.present, self.waiting = self.waiting[:count], self.waiting[count:]

    def leave(self, *_: object) -> None:
        """After each call of the model that succeeds."""
        self.running = False


class Installed(HeadsProcessor):
    """What stands in a layer while a plan is installed."""

    def __init__(self, site: Site, plan: Plan, before: object, clips: _Clips) -> None:
        # `attend` is a method here: held as an attribute it would be a circle, and everything that
        # the changes recorded, a whole graph perhaps, would wait for Python's garbage collector.
        self.site, self.plan, self.before, self.clips = site, plan, before, clips

    def again(self) -> "Installed":
        """What runs the layer a second time as it is at the moment: for these clips, by this plan.

        For a graph to hold: it reaches nothing that has been kept with a graph.
        """
        plan = [Entry(entry.sites, entry.again or entry.change) for entry in self.plan]
        return Installed(self.site, plan, self.before, copy(self.clips))

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """What the layer did before, as the changes change it."""
        layer = Layer(self.site, self.clips.present)
        inner = self.before.attend if isinstance(self.before, HeadsProcessor) else attend
        for entry in self.plan:
            inner = partial(_change, entry.change, layer, inner)
        return inner(q, k, v)


def _change(change: Change, layer: Layer, inner: Attend, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return change(layer, q, k, v, inner)


def _layer(unet: nn.Module, site: Site) -> Attention:
    """The layer at a site, if its attention can be changed."""
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
    # AttnProcessor2_0 has no other scale than the usual one, whatever the layer says.
    unusual = kind is AttnProcessor and layer.scale != (layer.inner_dim // layer.heads) ** -0.5
    if kind not in _PLAIN or unusual:
        raise ValueError(
            f"The attention of {site.name} is not plain attention ({kind.__name__}"
            f"{' with a scale of its own' if unusual else ''}), and a change would lose what it "
            "does. Load the model without attention add-ons."
        )
    return layer
