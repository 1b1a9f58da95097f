"""Show how terms would change a clip, without changing it."""

from collections.abc import Sequence

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from ..models.denoiser import Denoiser, Prompts
from ..models.grid import ClipGrid
from ..models.process import Latents
from ..windows import Windows
from .score_distillation import Descent, Settings, draw_step
from .terms import Weighted


def inspect_gradient(
    z: Latents,
    terms: Sequence[Weighted],
    denoiser: Denoiser,
    prompts: Prompts,
    settings: Settings,
    *,
    windows: Windows | None = None,
    grid: ClipGrid | None = None,
) -> tuple[Float[Tensor, "f h w"], Float[Tensor, "f h w"], dict[str, float]]:
    """The energy of the first step's gradient at the source clip, the adaptive mask, and numbers.

    Energy is the root mean square over channels, divided by its maximum. The mask is the share of
    channels that the first ASSD term would smooth; 0 without such a term. The numbers are those of
    the terms, by name. Equal `t_min` and `t_max` of the settings choose the level. For `windows`
    and `grid` see `distil`.

    Raises:
        ValueError: without terms.
        FloatingPointError: for a term whose gradient is not finite.
    """
    if not terms:
        raise ValueError("No term is connected; wire at least one, such as Delta Denoising.")
    generator = torch.Generator().manual_seed(settings.seed)
    draw = draw_step(z, z, denoiser.process, settings, generator)
    descent = Descent(terms, denoiser, prompts, settings, z, windows=windows, grid=grid)
    gradient, numbers, smoothed = descent.gradient(draw, z, z, range(len(terms)), 0, 1)
    mask = torch.zeros_like(z[:, 0]) if smoothed is None else smoothed.mean(dim=1)
    return energy_of(gradient), rearrange(mask, "1 f h w -> f h w"), numbers


def energy_of(gradient: Float[Tensor, "1 c f h w"]) -> Float[Tensor, "f h w"]:
    """The root mean square over channels, divided by its maximum; 0 for a gradient of zeros."""
    energy = rearrange(gradient.square().mean(dim=1).sqrt(), "1 f h w -> f h w")
    return energy / energy.max().clamp(min=torch.finfo(energy.dtype).tiny)
