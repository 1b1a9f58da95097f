"""A tiny AnimateDiff: a real `UNetMotionModel` with random weights, as a function of text."""

from functools import cache

import torch
from diffusers import UNetMotionModel
from einops import rearrange, repeat
from tiny_models import TEXT_WIDTH, tiny_adapter, tiny_unet
from torch import Tensor, nn

__all__ = ["TEXT_WIDTH", "eps_theta", "unet"]


@cache
def unet() -> nn.Module:
    """The model, in eval mode and not trainable. The tests share it: leave it as it is."""
    with torch.random.fork_rng():
        model = UNetMotionModel.from_unet2d(tiny_unet("2D"), tiny_adapter())
    return model.eval().requires_grad_(False)


def eps_theta(z: Tensor, t: int, cond: Tensor) -> Tensor:
    """What it predicts for clips and their texts, `[b, l, d]` or one per frame `[b, f, l, d]`."""
    if cond.ndim == 3:
        cond = repeat(cond, "b l d -> b f l d", f=z.shape[2])
    return unet()(z, t, rearrange(cond, "b f l d -> (b f) l d")).sample
