"""Content preservation: pulls back to the source all that is not edited.

Inspired by the abstract of "Training-Free Video Editing via Optical Flow-Enhanced Score
Distillation" (Zhu et al.), which names such a loss; the definition is ours.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from ..models.process import Latents
from .terms import Draw, Needs, Predictions, Result


def preservation_gradient(
    z: Float[Tensor, "b c f h w"],
    z_source: Float[Tensor, "b c f h w"],
    edited: Float[Tensor, "b 1 f h w"],
) -> Float[Tensor, "b c f h w"]:
    """The gradient of half the squared distance to the source outside an edit mask of 0..1."""
    return (1 - edited) * (z - z_source)


def accumulated_edit_mask(
    z: Float[Tensor, "b c f h w"], z_source: Float[Tensor, "b c f h w"], threshold: float
) -> Float[Tensor, "b 1 f h w"]:
    """Where a clip has been edited so far: 1 where it changed much, 0 elsewhere.

    The distance of the latents from the source is the gradient accumulated by all steps so far. Its
    root mean square over channels is averaged over 3 x 3 places, so that single latent pixels do
    not decide. It is then compared with `threshold` times its 99 % quantile over the clip. If
    nothing has changed, the mask is 0.

    Raises:
        ValueError: unless 0 < threshold < 1.
    """
    _check_threshold(threshold)
    frames = z.shape[2]
    squared = rearrange((z - z_source).square().mean(dim=1), "b f h w -> (b f) 1 h w")
    smoothed = functional.avg_pool2d(squared, 3, stride=1, padding=1, count_include_pad=False)
    change = rearrange(smoothed, "(b f) c h w -> b c f h w", f=frames).sqrt()
    # Sorted, because `torch.quantile` takes no more than 2^24 numbers.
    ordered = change.flatten(1).sort(dim=1).values
    highest = ordered[:, round(0.99 * (ordered.shape[1] - 1))]
    return (change > threshold * rearrange(highest, "b -> b 1 1 1 1")).to(z.dtype)


@dataclass(frozen=True)
class ContentPreservation:
    """Content preservation as a term. Its number is the mean square of the gradient.

    With a `threshold`, the edit mask comes from the gradient accumulated so far. Without one,
    nothing counts as edited, and the mask of the term says what is preserved.
    """

    threshold: float | None = 0.3
    name: str = "content preservation"
    needs: ClassVar[Needs] = Needs()
    holds: ClassVar[bool] = True
    whole_clip: ClassVar[bool] = True  # what counts as much change is that of the clip

    def __post_init__(self) -> None:
        if self.threshold is not None:
            _check_threshold(self.threshold)

    def __call__(
        self, draw: Draw, predictions: Predictions, z: Latents, z_source: Latents
    ) -> Result:
        if self.threshold is None:
            edited = torch.zeros_like(z[:, :1])
        else:
            edited = accumulated_edit_mask(z, z_source, self.threshold)
        gradient = preservation_gradient(z, z_source, edited)
        return Result(gradient, float(gradient.square().mean()))


def _check_threshold(threshold: float) -> None:
    if not 0 < threshold < 1:
        raise ValueError(
            f"The edit threshold is {threshold}; it must lie between 0 (everything that changed "
            "counts as edited) and 1."
        )
