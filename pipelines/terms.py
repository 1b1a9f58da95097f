"""What a distillation term is: what it is shown at a step, what it may ask for, what it returns."""

from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeAlias, runtime_checkable

from jaxtyping import Float
from torch import Tensor

Latents: TypeAlias = Float[Tensor, "b c f h w"]


class Draw(NamedTuple):
    """One timestep and one noise, shared by all terms of a step, and the clips noised with them."""

    t: int
    noise: Latents
    z_t: Latents  # the edited latents, noised
    z_t_source: Latents  # the source latents, noised alike


class Predictions(NamedTuple):
    """Guided noise predictions of a step; None where no term asked for them."""

    eps_target: Latents | None = None  # for `z_t` under the target prompt
    eps_source: Latents | None = None  # for `z_t_source` under the source prompt


class Result(NamedTuple):
    """A term's gradient on the edited latents, and the number to plot for it."""

    gradient: Latents
    value: float


@runtime_checkable
class Term(Protocol):
    """One reason to change the latents.

    `needs` names the fields of `Predictions` the term reads, so that the loop makes no model call
    that nothing asked for, and none twice.
    """

    name: str
    needs: frozenset[str]

    def __call__(
        self, draw: Draw, predictions: Predictions, z: Latents, z_source: Latents
    ) -> Result:
        """The gradient at the edited latents `z`; `z_source` are those of the source clip."""
        ...


@dataclass(frozen=True)
class Weighted:
    """A term as it hangs on the wire: how much it counts, where, and during which part of a run."""

    term: Term
    weight: float = 1.0
    # Each one mask of 0..1 for the clip or one per frame, at any resolution; their product counts.
    masks: tuple[Float[Tensor, "_ _ _"], ...] = ()
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
        return self.weight != 0 and self.start * steps <= step < self.end * steps
