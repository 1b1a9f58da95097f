"""Keyframes of a clip: some of its frames, at the size at which a cascade begins."""

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional


def cut(clip: Float[Tensor, "1 3 F H W"], height: int, width: int) -> Float[Tensor, "1 3 F _ _"]:
    """The largest part, about the middle, of the aspect of `width` x `height`."""
    h, w = clip.shape[-2:]
    tall, wide = min(h, round(w * height / width)), min(w, round(h * width / height))
    top, left = (h - tall) // 2, (w - wide) // 2
    return clip[..., top : top + tall, left : left + wide]


def picked(
    clip: Float[Tensor, "1 3 F H W"], frames: int, height: int, width: int
) -> Float[Tensor, "1 3 {frames} {height} {width}"]:
    """Frames spread evenly from the first to the last, each pixel the mean of what it covers.

    Raises:
        ValueError: if the clip has fewer frames.
    """
    count = clip.shape[2]
    if count < frames:
        raise ValueError(
            f"The clip has {count} frames, and {frames} keyframes were asked for. Ask for fewer, "
            "or load a longer clip."
        )
    chosen = torch.linspace(0, count - 1, frames, dtype=torch.float64).round().long()
    pixels = rearrange(clip[:, :, chosen], "1 c f h w -> f c h w")
    small = functional.interpolate(pixels, (height, width), mode="area")
    return rearrange(small, "f c h w -> 1 c f h w")
