"""More pixels: the first frame as a picture, the rest in windows that go on from it (Show-1)."""

from dataclasses import dataclass
from typing import TypeAlias

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from ..models.cascade.stage import Stage
from ..models.denoiser import Cond
from ..models.process import Latents
from .sampling import OnStep, drawn, sample_stage

Large: TypeAlias = Float[Tensor, "b c _ H W"]  # pixels, more of them than a clip's
WINDOW = 8  # frames of a call, of which the first is known


@dataclass(frozen=True)
class Enlarging:
    """How a stage enlarges: its steps, its guidance, and up to which timestep it adds noise."""

    steps: int
    cfg: float | int
    noise_level: int


IMAGE = Enlarging(70, 4, 150)  # Show-1's first frame, by DeepFloyd IF-II
VIDEO = Enlarging(125, 7, 250)


def spans(frames: int) -> list[slice]:
    """Windows of 8 frames, each of which begins with the last frame of the one before."""
    starts = range(0, max(1, frames - 1), WINDOW - 1)
    return [slice(start, min(start + WINDOW, frames)) for start in starts]


@torch.no_grad()
def enlarge(
    clip: Latents,
    image_stage: Stage,
    stage: Stage,
    cond: Cond,
    uncond: Cond,
    *,
    factor: int = 4,
    image: Enlarging = IMAGE,
    video: Enlarging = VIDEO,
    generator: torch.Generator,
    on_step: OnStep | None = None,
) -> Large:
    """A clip in -1..1 with `factor` times its sides (the authors' `run_inference.py`).

    Raises:
        ValueError: if a side is then no multiple of what the stages take.
    """
    large = big_first_frame(
        clip, image_stage, cond, uncond, factor=factor, how=image, generator=generator,
        on_step=on_step,
    )  # fmt: skip
    return enlarge_after(
        clip, large, stage, cond, uncond, how=video, generator=generator, on_step=on_step
    )


@torch.no_grad()
def big_first_frame(
    clip: Latents,
    stage: Stage,
    cond: Cond,
    uncond: Cond,
    *,
    factor: int,
    how: Enlarging,
    generator: torch.Generator,
    on_step: OnStep | None = None,
) -> Large:
    """The first frame of a clip, `factor` times as large."""
    height, width = (side * factor for side in clip.shape[-2:])
    check_size(stage, height, width, factor)
    low = upsampled(clip[:, :, :1], height, width)
    noisy = stage.noised_to(low, how.noise_level, drawn(low.shape, generator, low))
    z_T = drawn(low.shape, generator, low)
    return sample_stage(
        stage, z_T, cond, uncond, how.cfg, how.steps, beside=noisy, label=how.noise_level,
        on_step=on_step,
    )  # fmt: skip


@torch.no_grad()
def enlarge_after(
    clip: Latents,
    large: Large,
    stage: Stage,
    cond: Cond,
    uncond: Cond,
    *,
    how: Enlarging,
    generator: torch.Generator,
    on_step: OnStep | None = None,
) -> Large:
    """A clip at the size of its `large` first frame, which all windows go on from.

    Raises:
        ValueError: if that size is no whole multiple of the clip's, or does not fit the stage.
    """
    height, width = large.shape[-2:]
    factor = height // clip.shape[-2]
    if (clip.shape[-2] * factor, clip.shape[-1] * factor) != (height, width) or factor < 2:
        raise ValueError(
            f"The first frame has {width} x {height} pixels and the clip {clip.shape[-1]} x "
            f"{clip.shape[-2]}: it must be 2, 3, 4, ... times as large in both directions."
        )
    check_size(stage, height, width, factor)
    known, made = large, []
    for span in spans(clip.shape[2]):
        low = upsampled(clip[:, :, span], height, width)
        noisy = stage.noised_to(low, how.noise_level, drawn(low.shape, generator, low))
        told = torch.cat([known, noisy[:, :, 1:]], dim=2)
        z_T = drawn(low.shape, generator, low)
        part = sample_stage(
            stage, z_T, cond, uncond, how.cfg, how.steps, beside=told, label=how.noise_level,
            on_step=on_step,
        )  # fmt: skip
        # The model draws the known frame anew; of one that two windows share, the later is kept.
        made = [*(before[:, :, : WINDOW - 1] for before in made), part]
        known = part[:, :, -1:]
    return torch.cat(made, dim=2)


def upsampled(clip: Latents, height: int, width: int) -> Large:
    """Each frame at another size, bilinear between the centres of its corner pixels."""
    frames = rearrange(clip, "b c f h w -> (b f) c h w")
    larger = functional.interpolate(frames, (height, width), mode="bilinear", align_corners=True)
    return rearrange(larger, "(b f) c h w -> b c f h w", b=len(clip))


def check_size(stage: Stage, height: int, width: int, factor: int) -> None:
    """Raise a ValueError unless a stage can make frames of this size, by this factor."""
    if factor < 2 or height % stage.multiple or width % stage.multiple:
        raise ValueError(
            f"{factor} times as large, frames are {width} x {height}, and {stage.name} enlarges by "
            f"2 or more to sides that are multiples of {stage.multiple}. Choose another factor."
        )
