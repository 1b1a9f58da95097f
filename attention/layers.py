"""What a change of attention is, for any family of models, and what a family offers for it.

A plan is data: which layers, and what to do there. Nothing is counted behind anyone's back: what a
change must know about the moment, such as the clips of the batch, it is told.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple, Protocol, TypeAlias, runtime_checkable

from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

KINDS = MappingProxyType(
    {
        "spatial": "spatial self-attention",
        "cross": "text cross-attention",
        "temporal": "temporal self-attention",
    }
)
# Queries `[b, h, n, d]`, keys and values `[b, h, m, d]`, to what the heads read `[b, h, n, d]`.
Attend: TypeAlias = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Site:
    """An attention layer: its full name in the model, and its kind, a key of `KINDS`.

    `block` is the number of its block in its half of the model; 0 where there are no such blocks.
    """

    name: str
    kind: str
    block: int = 0


class Layer(NamedTuple):
    """An attention layer as it runs: where it is, and which clips it sees.

    `rows` are the clips' numbers in the order of the batch, which holds the same number of samples
    for each, one after the other: frames, or for temporal attention positions; one where attention
    reads all frames at once. `keys` are given where those that attention reads have positions put
    into them, or belong to all frames: the keys before, a sample for each frame.
    """

    site: Site
    rows: tuple[int, ...]
    keys: Float[Tensor, "b h n d"] | None = None


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
# A control in one model. Given the counterpart of each clip of a call that it changes, and which of
# the frames the call sees, its line of a plan.
Held: TypeAlias = Callable[[Mapping[int, int], slice], Entry]


@runtime_checkable
class Layers(Protocol):
    """The attention layers of one model."""

    def find(self, pattern: str, kind: str) -> tuple[Site, ...]:
        """The layers of a kind that a pattern names, in the order in which they run.

        `pattern` is a named set of the family ("decoder", "late") or is matched as file names are
        (`*`, `?`, `[12]`); several are separated by blanks or commas.

        Raises:
            ValueError: if `kind` is unknown, or a pattern names no layer of that kind.
        """
        ...

    def last(self, count: int) -> tuple[Site, ...]:
        """The last `count` spatial self-attention layers, in the order in which they run.

        Raises:
            ValueError: if `count` is less than 1 or more than there are.
        """
        ...

    def installed(self, plan: Plan, rows: Sequence[int]) -> AbstractContextManager[None]:
        """Within the `with`, attention is changed by a plan; then it is as it was.

        `rows` are the numbers of the clips in every call of the model within.
        """
        ...

    def checkpointed(self) -> AbstractContextManager[None]:
        """Within the `with`, layers keep no activations for their gradients: they run again."""
        ...

    def map_size(self, tokens: int, height: int, width: int) -> tuple[int, int]:
        """Height and width of a layer's map of tokens, for latents of a height and width.

        Raises:
            ValueError: if a layer of this model cannot have that many tokens.
        """
        ...

    def marked_of_read(
        self, site: Site, marked: Bool[Tensor, "f n"], height: int, width: int
    ) -> Bool[Tensor, "f m"]:
        """Which of the tokens that each frame reads at a layer are marked, or mix in one that is.

        `marked` are those of each frame itself, a map of `height` x `width`.
        """
        ...


@runtime_checkable
class Clip(Protocol):
    """How a clip lies on a model's latents: what a control may ask about it."""

    latent: tuple[int, int, int]  # frames, height, width

    def covered_tokens(
        self, mask: Float[Tensor, "n H W"], height: int, width: int
    ) -> Float[Tensor, "f tokens"]:
        """The share of each token of a layer, a map of `height` x `width`, that a mask covers.

        Raises:
            ValueError: if the mask does not fit the clip.
        """
        ...


@runtime_checkable
class Control(Protocol):
    """A way in which an edit's attention is held to its source's.

    It acts from `start` to `end`, shares of the steps of a run. `reads` names the clips of the edit
    that read the source: "cond", the one under its prompt, "uncond", the one without, or both.
    """

    name: str
    start: float
    end: float
    reads: tuple[str, ...]

    def on(self, layers: Layers, clip: Clip) -> Held:
        """The control in a model with these layers, for this clip.

        Raises:
            ValueError: if the model does not have the layers it needs, or it does not fit the clip.
        """
        ...


def check_times(control: Control) -> None:
    """Refuse a control that ends before it starts, or acts outside the run.

    Raises:
        ValueError: with the control's name and times.
    """
    if not 0 <= control.start <= control.end <= 1:
        raise ValueError(
            f"{control.name} acts from {control.start:.0%} to {control.end:.0%} of the steps; the "
            "start must not lie after the end, and both must lie within 0 % and 100 %."
        )


def attend(
    q: Float[Tensor, "b h n d"], k: Float[Tensor, "b h m d"], v: Float[Tensor, "b h m d"]
) -> Float[Tensor, "b h n d"]:
    """softmax(q k^T / sqrt(d)) v, through torch's fused kernels, which never store the maps."""
    return functional.scaled_dot_product_attention(q, k, v)
