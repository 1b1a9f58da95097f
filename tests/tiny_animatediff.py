"""A tiny AnimateDiff: a real `UNetMotionModel` with random weights, as a denoiser."""

from functools import cache

import torch
from diffusers import UNetMotionModel
from einops import rearrange, repeat
from rescore.attention.unet.layers import UNetLayers
from rescore.pipelines.models.denoiser import Denoiser
from rescore.pipelines.models.process import Process
from tiny_models import TEXT_WIDTH, tiny_adapter, tiny_unet
from torch import Tensor, nn

__all__ = ["TEXT_WIDTH", "denoiser", "unet"]


@cache
def unet() -> nn.Module:
    """The model, in eval mode and not trainable. The tests share it: leave it as it is."""
    with torch.random.fork_rng():
        model = UNetMotionModel.from_unet2d(tiny_unet("2D"), tiny_adapter())
    return model.eval().requires_grad_(False)


def denoiser(process: Process) -> Denoiser:
    """It as a loop sees it, with texts `[b, l, d]` or one per frame `[b, f, l, d]`."""

    def output(z: Tensor, t: float, cond: Tensor) -> Tensor:
        if cond.ndim == 3:
            cond = repeat(cond, "b l d -> b f l d", f=z.shape[2])
        return unet()(z, round(t), rearrange(cond, "b f l d -> (b f) l d")).sample

    return Denoiser("tiny", process, "epsilon", output, layers=UNetLayers(unet()))
