"""Two ways that need nothing but the model: noise and denoise, invert and denoise."""

from functools import partial

import torch
from rescore.pipelines.inversion.ddim_inversion import ddim_invert
from rescore.pipelines.inversion.sampling import ddim_sample
from rescore.pipelines.models.denoiser import Denoiser, Prompts
from rescore.pipelines.models.process import Latents, noised


def noise_and_denoise(
    z_0: Latents,
    denoiser: Denoiser,
    prompts: Prompts,
    *,
    strength: float,
    steps: int,
    cfg: float,
    seed: int = 0,
) -> Latents:
    """The clip noised to a share of the levels and denoised under the target prompt.

    SDEdit (Meng et al., 2022, Sec. 3), as every "video to video" does it: of `steps` levels the
    last `strength` are walked.
    """
    levels = denoiser.process.grid(steps)[: round(strength * steps) + 1]
    noise = torch.randn(z_0.shape, generator=torch.Generator().manual_seed(seed))
    return ddim_sample(noised(z_0, noise, levels[-1]), _edit(denoiser, prompts, cfg), levels)


def invert_and_denoise(
    z_0: Latents, denoiser: Denoiser, prompts: Prompts, *, steps: int, cfg: float
) -> Latents:
    """The clip inverted under its own prompt and denoised under the target's."""
    levels = denoiser.process.grid(steps)
    path = ddim_invert(z_0, partial(denoiser, cond=prompts.source), levels)
    return ddim_sample(path.latents[-1], _edit(denoiser, prompts, cfg), levels)


def _edit(denoiser: Denoiser, prompts: Prompts, cfg: float):
    return partial(denoiser.guided, cond=prompts.target, uncond=prompts.negative, cfg=cfg)
