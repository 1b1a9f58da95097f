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
    """An attention layer: its full name in the model, and its kind, a key of `KINDS`."""

    name: str
    kind: str


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
# A control in one model: given the counterpart of each clip it changes, its line of a plan.
Control: TypeAlias = Callable[[Mapping[int, int]], Entry]


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
class Controls(Protocol):
    """A way in which an edit's attention is held to its source's."""

    def on(self, layers: Layers) -> Control:
        """The control in a model with these layers.

        Raises:
            ValueError: if the model has not the layers it needs.
        """
        ...


def attend(
    q: Float[Tensor, "b h n d"], k: Float[Tensor, "b h m d"], v: Float[Tensor, "b h m d"]
) -> Float[Tensor, "b h n d"]:
    """softmax(q k^T / sqrt(d)) v, through torch's fused kernels, which never store the maps."""
    return functional.scaled_dot_product_attention(q, k, v)
