"""FlowDirector's correction of directions: an edit does not go where the source goes anyway."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from ..models.process import Latents
from .delta_denoising import velocity_of
from .terms import Needs, Predictions


def corrected(
    gradient: Float[Tensor, "b c f h w"],
    velocity: Float[Tensor, "b c f h w"],
    enlarged: float | int,
) -> Float[Tensor, "b c f h w"]:
    """A gradient without its part along the source's velocity, or with more of it against it.

    At every place the gradient is split over the channels into a part along `velocity` and one
    across. The part along it is dropped where it points the same way, and multiplied by `enlarged`
    where it points back (direction-aware flow correction of FlowDirector, 2506.05046).

    Deviation: we split place by place, so that windows and the size of a clip change nothing; the
    authors' code does not hold this part.
    """
    squared = velocity.square().sum(dim=1, keepdim=True)
    share = (gradient * velocity).sum(dim=1, keepdim=True)
    share = share / squared.clamp(min=torch.finfo(squared.dtype).tiny)
    return gradient + torch.where(share > 0, -1.0, enlarged - 1.0) * share * velocity


@dataclass(frozen=True)
class DirectionCorrection:
    """`corrected` for a term, with the velocity of the source under its prompt."""

    enlarged: float | int = 1.25
    needs: ClassVar[Needs] = Needs(source=True)

    def __post_init__(self) -> None:
        if not (math.isfinite(self.enlarged) and self.enlarged >= 0):
            raise ValueError(f"enlarged is {self.enlarged}; it must be a number of 0 or more.")

    def __call__(self, gradient: Latents, predictions: Predictions) -> Latents:
        return corrected(gradient, velocity_of(predictions.source), self.enlarged)
