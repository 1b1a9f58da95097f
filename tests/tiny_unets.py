"""The three kinds of UNet at tiny size: real diffusers classes with random weights, none 0."""

from collections.abc import Sequence
from functools import cache

import torch
from diffusers import UNetMotionModel
from einops import rearrange, repeat
from rescore.attention.layers import Plan
from rescore.attention.unet.layers import UNetLayers
from rescore.shapeworld.models import build_image_unet, build_motion_adapter, build_video_unet
from torch import Tensor, nn

KINDS = ("image", "video", "motion")
BUILD = {
    "image": build_image_unet,
    "video": build_video_unet,
    "motion": lambda: UNetMotionModel.from_unet2d(build_image_unet(), build_motion_adapter()),
}
# A clip's size in latent pixels: as unequal as two halvings allow.
HEIGHT, WIDTH = 8, 12
WORDS, TEXT_WIDTH = 7, 64


@cache
def unet(kind: str) -> nn.Module:
    """One of `KINDS`, in eval mode and not trainable. The tests share it: leave it as it is."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = BUILD[kind]().eval().requires_grad_(False)
        # Fresh temporal layers end in zeros, and would hide whatever happens inside them.
        for parameter in model.parameters():
            if not parameter.any():
                parameter.normal_(std=0.1)
    return model


def inputs(clips: int, frames: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Noisy latents `[b, 4, f, h, w]` and text embeddings `[b, l, d]`."""
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(clips, 4, frames, HEIGHT, WIDTH, generator=generator)
    return z, torch.randn(clips, WORDS, TEXT_WIDTH, generator=generator)


def call(
    kind: str, z: Tensor, cond: Tensor, plan: Plan = (), rows: Sequence[int] | None = None
) -> Tensor:
    """What the model predicts for clips, `[b, c, f, h, w]`, each with a text embedding.

    Under a plan the clips are known by the numbers `rows` (0, 1, ...).
    """
    with UNetLayers(unet(kind)).installed(plan, range(len(z)) if rows is None else rows):
        return _call(kind, z, cond)


def _call(kind: str, z: Tensor, cond: Tensor) -> Tensor:
    frames = z.shape[2]
    time = torch.tensor(423)
    if kind == "video":
        return unet(kind)(z, time, cond).sample
    per_frame = repeat(cond, "b l d -> (b f) l d", f=frames)
    if kind == "motion":
        return unet(kind)(z, time, per_frame).sample
    images = rearrange(z, "b c f h w -> (b f) c h w")
    return rearrange(
        unet(kind)(images, time, per_frame).sample, "(b f) c h w -> b c f h w", f=frames
    )
