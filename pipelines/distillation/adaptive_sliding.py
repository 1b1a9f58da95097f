"""Adaptive sliding score distillation: delta denoising against a reference smoothed over time."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..models.process import Latents
from .terms import Draw, Needs, Predictions, Result

Weights: TypeAlias = Sequence[float | int] | Float[Tensor, " width"]


def sliding_window(
    eps_source: Float[Tensor, "b c f h w"], weights: Weights
) -> Float[Tensor, "b c f h w"]:
    """Each frame of the reference prediction, averaged with its neighbours in time.

    Implements SS of ASSD (Zhu et al., 2024, Eq. 8). The middle weight belongs to the frame itself,
    the weights before it to earlier frames. The weights are normalised; at the ends of the clip,
    over the frames that exist. So a prediction that does not change in time stays as it is.

    Raises:
        ValueError: for an even number of weights; for more weights than frames (three are always
            allowed); for weights that are not finite, or that sum to zero, in total or over the
            frames that exist at an end of the clip.
    """
    frames, weights = eps_source.shape[2], [float(weight) for weight in weights]
    _check_weights(weights)
    widest = max(frames, 3)
    if len(weights) > widest:
        raise ValueError(
            f"The sliding window is {len(weights)} frames wide and the clip has {frames}. Give at "
            f"most {widest - 1 + widest % 2} weights."
        )
    mix = torch.zeros(frames, frames, dtype=torch.float64)
    for offset, weight in enumerate(weights, start=-(len(weights) // 2)):
        # Row i takes frame i + offset, where there is one.
        existing = torch.full((max(frames - abs(offset), 0),), weight, dtype=torch.float64)
        if len(existing):
            mix += torch.diagflat(existing, offset)
    total = mix.sum(dim=1, keepdim=True)
    if bool((total.abs() <= 1e-9 * mix.abs().sum(dim=1, keepdim=True)).any()):
        raise ValueError(
            f"The window weights {tuple(weights)} sum to zero over the frames that exist at an end "
            "of the clip. Give the middle frame more weight."
        )
    return torch.einsum("ij,bcjhw->bcihw", (mix / total).to(eps_source), eps_source)


def adaptive_mask(
    eps_target: Float[Tensor, "b c f h w"], eps_source: Float[Tensor, "b c f h w"], tau: float | int
) -> Bool[Tensor, "b c f h w"]:
    """Where the reference is smoothed: the difference is below its maximum over time minus tau.

    Implements Eq. 9 of ASSD literally: m = |eps_target - eps_source| < max(...) - tau, with the
    maximum over the frames. With a larger `tau` less is smoothed; the paper's text says the
    opposite. The frame of the maximum is never smoothed, and neither is a clip of one frame.
    """
    difference = (eps_target - eps_source).abs()
    return difference < difference.amax(dim=2, keepdim=True) - tau


def assd_gradient(
    eps_target: Float[Tensor, "b c f h w"],
    eps_source: Float[Tensor, "b c f h w"],
    weights: Weights,
    tau: float | int,
) -> Float[Tensor, "b c f h w"]:
    """The gradient of ASSD: delta denoising, with the smoothed reference inside the mask.

    Implements Eq. 10 of ASSD (Zhu et al., 2024). For `weights`, `tau` and errors see
    `sliding_window` and `adaptive_mask`.
    """
    smoothed = sliding_window(eps_source, weights)
    mask = adaptive_mask(eps_target, eps_source, tau)
    return eps_target - torch.where(mask, smoothed, eps_source)


@dataclass(frozen=True)
class AdaptiveSliding:
    """ASSD as a term, to use instead of delta denoising. Its number is the RMS of the gradient.

    The paper gives a window of 3, but no weights and no tau: these defaults are ours.
    """

    weights: tuple[float | int, ...] = (0.25, 0.5, 0.25)
    tau: float | int = 0.1
    name: str = "adaptive sliding"
    needs: ClassVar[Needs] = Needs(target=True, source=True)

    def __post_init__(self) -> None:
        _check_weights(self.weights)
        if not (math.isfinite(self.tau) and self.tau >= 0):
            raise ValueError(f"tau is {self.tau}; it must be a number of 0 or more.")

    def __call__(
        self, draw: Draw, predictions: Predictions, z: Latents, z_source: Latents
    ) -> Result:
        pair = predictions.target.eps, predictions.source.eps
        gradient = assd_gradient(*pair, self.weights, self.tau)
        smoothed = adaptive_mask(*pair, self.tau)
        return Result(gradient, float(gradient.square().mean().sqrt()), smoothed=smoothed)


def _check_weights(weights: Sequence[float | int]) -> None:
    if len(weights) % 2 == 0:
        raise ValueError(
            f"The sliding window has {len(weights)} weights; it needs an odd number, so that one "
            "of them is the middle frame's."
        )
    if not all(map(math.isfinite, weights)):
        raise ValueError(f"The window weights {tuple(weights)} must all be finite numbers.")
    if abs(math.fsum(weights)) <= 1e-9 * math.fsum(map(abs, weights)):
        raise ValueError(
            f"The window weights {tuple(weights)} sum to zero; they must be worth something."
        )
