"""What a distillation term is: what it is shown at a step, what it may ask for, what it returns."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple, Protocol, TypeAlias, runtime_checkable

from jaxtyping import Bool, Float
from torch import Tensor

from ..models.grid import ClipGrid
from ..models.process import Latents, Level, Prediction
from ..steps import acts

# By the name of an attention layer, something of its keys: `[b, f, n, c]`, float32.
Keys: TypeAlias = Mapping[str, Tensor]


class Draw(NamedTuple):
    """One level and one noise, shared by all terms of a step, and the clips noised with them."""

    level: Level
    noise: Latents
    z_t: Latents  # the edited latents, noised
    z_t_source: Latents  # the source latents, noised alike


@dataclass(frozen=True)
class Needs:
    """What a term reads of a step. What no term reads is not computed."""

    target: bool = False  # the guided prediction for the edited clip
    source: bool = False  # and for the source clip
    keys: str = ""  # whose keys of both it compares: spatial layers, as `Layers.find` takes them


class Predictions(NamedTuple):
    """What the model says about a step; None where a term did not ask for it."""

    # Guided predictions,
    target: Prediction | None = None  # for `z_t` under the target prompt
    source: Prediction | None = None  # for `z_t_source` under the source prompt
    # and the keys of spatial self-attention in the prompted half of each.
    keys_target: Keys | None = None
    keys_source: Keys | None = None


class Result(NamedTuple):
    """A term's gradient on the edited latents, and the number to plot for it.

    The gradient of a loss on keys is one on `keys_target` instead: the loop computes a single
    vector-Jacobian product through the model for all terms. `smoothed` is for display: where a term
    smoothed its reference.
    """

    gradient: Latents | None
    value: float
    on_keys: Keys = MappingProxyType({})
    smoothed: Bool[Tensor, "b c f h w"] | None = None


@runtime_checkable
class Term(Protocol):
    """One reason to change the latents. It is shown what it needs, and nothing else.

    A term that does nothing on a single frame has an attribute `compares_frames`, which is true.
    One that does not work with every model has a method `check(denoiser)`, which raises a
    ValueError.
    """

    name: str
    needs: Needs

    def __call__(
        self, draw: Draw, predictions: Predictions, z: Latents, z_source: Latents
    ) -> Result:
        """The gradient at the edited latents `z`; `z_source` are those of the source clip."""
        ...


@runtime_checkable
class Refinement(Protocol):
    """Something done to gradients before they move the latents, such as smoothing in time.

    One that does nothing on a single frame has a `name` and `compares_frames`, as a term.
    """

    def on_grid(self, z: Latents, grid: ClipGrid) -> Callable[[Latents], Latents]:
        """The function that is applied to gradients on latents like `z`."""
        ...


@dataclass(frozen=True)
class Weighted:
    """A term as it hangs on the wire: how much it counts, where, and during which part of a run."""

    term: Term
    weight: float = 1.0
    # Each 0..1, one for the clip or one per frame, at any resolution; they are multiplied.
    masks: tuple[Float[Tensor, "_ _ _"], ...] = ()
    refinements: tuple[Refinement, ...] = ()  # one after the other, before the masks
    start: float = 0.0  # share of the steps after which the term sets in
    end: float = 1.0  # and after which it ends

    def __post_init__(self) -> None:
        if not 0 <= self.start <= self.end <= 1:
            raise ValueError(
                f"The term {self.term.name!r} runs from {self.start:.0%} to {self.end:.0%} of the "
                "steps; start must not lie after end, and both between 0 % and 100 %."
            )

    def active(self, step: int, steps: int) -> bool:
        """Whether the term takes part in step number `step` of `steps`."""
        return self.weight != 0 and acts(self.start, self.end, step, steps)
