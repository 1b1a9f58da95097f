"""Keyframes of a clip: some of its frames, at the size at which a cascade begins."""

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from ..models.grid import check_masks


def cut(frames: Float[Tensor, "... H W"], height: int, width: int) -> Float[Tensor, "... _ _"]:
    """The largest part, about the middle, of the aspect of `width` x `height`."""
    h, w = frames.shape[-2:]
    tall, wide = min(h, round(w * height / width)), min(w, round(h * width / height))
    top, left = (h - tall) // 2, (w - wide) // 2
    return frames[..., top : top + tall, left : left + wide]


def chosen(count: int, frames: int) -> Tensor:
    """Which of `count` frames are keyframes: `frames` of them, spread evenly, both ends included.

    Raises:
        ValueError: if there are fewer.
    """
    if count < frames:
        raise ValueError(
            f"The clip has {count} frames, and {frames} keyframes were asked for. Ask for fewer, "
            "or load a longer clip."
        )
    return torch.linspace(0, count - 1, frames, dtype=torch.float64).round().long()


def picked(
    clip: Float[Tensor, "1 3 F H W"], frames: int, height: int, width: int
) -> Float[Tensor, "1 3 {frames} {height} {width}"]:
    """The keyframes of a clip, each pixel the mean of what it covers.

    Raises:
        ValueError: if the clip has fewer frames.
    """
    pixels = rearrange(clip[:, :, chosen(clip.shape[2], frames)], "1 c f h w -> f c h w")
    small = functional.interpolate(pixels, (height, width), mode="area")
    return rearrange(small, "f c h w -> 1 c f h w")


def masks_of_keyframes(
    masks: Float[Tensor, "n H W"], count: int, frames: int
) -> Float[Tensor, "m H W"]:
    """The masks of the keyframes of a clip of `count` frames; a single one holds for all.

    Raises:
        ValueError: if there is neither one mask nor one for each frame of the clip.
    """
    check_masks(masks, count)
    return masks if len(masks) == 1 else masks[chosen(count, frames)]
