"""Sampling a stage of a cascade: from noise to frames, kept in the range of pixels on the way."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ..inversion.sampling import ddim_sample
from ..models.cascade.stage import Stage
from ..models.denoiser import Cond
from ..models.process import Latents, Level, Prediction

OnStep = Callable[[Latents], None]


def sample_stage(
    stage: Stage,
    z_T: Latents,
    cond: Cond,
    uncond: Cond,
    cfg: float | int,
    steps: int,
    *,
    beside: Float[Tensor, "1 o f h w"] | None = None,
    label: int | None = None,
    on_step: OnStep | None = None,
) -> Latents:
    """Frames in -1..1 from noise, by DDIM with guidance.

    Deviation: Show-1 samples by DDPM, with fresh noise at every step and the variance that the
    model has learnt. Here every step is the line of `process.move`, as in all of the pack, and the
    learnt variance is left out. Predicted frames are clipped as the stage's scheduler says.
    """
    denoiser = stage.denoiser(beside, label)

    def predict(z: Latents, level: Level) -> Prediction:
        return stage.clipped(denoiser.guided(z, level, cond, uncond, cfg), z, level)

    def show(done: int, z: Latents) -> None:
        if on_step is not None:
            on_step(z)

    z = ddim_sample(z_T, predict, stage.process.grid(steps), show)
    return z.clamp(-1, 1)


def drawn(shape: Sequence[int], generator: torch.Generator, like: Tensor) -> Latents:
    """Noise of a shape, drawn on the CPU, in the format and on the device of `like`."""
    return torch.randn(*shape, generator=generator).to(like)
