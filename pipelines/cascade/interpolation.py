"""The frames between keyframes, one pair after the other, all from the same noise (Show-1)."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from ..models.cascade.stage import Stage
from ..models.denoiser import Cond
from .sampling import OnStep, drawn, sample_stage

SPAN = 5  # frames of a call: two keyframes and three between


@torch.no_grad()
def interpolate(
    keyframes: Float[Tensor, "1 c f h w"],
    stage: Stage,
    cond: Cond,
    uncond: Cond,
    *,
    steps: int,
    cfg: float | int,
    generator: torch.Generator,
    on_step: OnStep | None = None,
) -> Float[Tensor, "1 c F h w"]:
    """A clip of `4 f - 3` frames from `f` keyframes in -1..1.

    The stage is told the two ends, blended linearly between, and a mask of which frames are known.
    Every pair starts from the same noise. The model draws the keyframes anew, too; of one that two
    pairs share, the later is kept (the authors' `run_inference.py`).

    Raises:
        ValueError: for fewer than two keyframes.
    """
    _, channels, count, height, width = keyframes.shape
    if count < 2:
        raise ValueError(
            f"There is {count} keyframe, and frames are made between two. Wire a clip of 2 "
            "keyframes or more; Show-1 makes 8."
        )
    noise = drawn((1, channels, SPAN, height, width), generator, keyframes)
    clip = keyframes.new_zeros(1, channels, (SPAN - 1) * (count - 1) + 1, height, width)
    for i in range(count - 1):
        beside = told_between(keyframes[:, :, i : i + 2])
        part = sample_stage(stage, noise, cond, uncond, cfg, steps, beside=beside, on_step=on_step)
        first = (SPAN - 1) * i
        clip[:, :, first : first + SPAN] = part
    return clip


def told_between(ends: Float[Tensor, "1 c 2 h w"]) -> Float[Tensor, "1 o 5 h w"]:
    """What a stage is told of two keyframes: `[b, c + 1, 5, h, w]`, blended, and the mask."""
    size = (SPAN, *ends.shape[-2:])
    blended = functional.interpolate(ends, size, mode="trilinear", align_corners=True)
    mask = torch.zeros_like(blended[:, :1])
    mask[:, :, [0, -1]] = 1
    return torch.cat([blended, mask], dim=1)
