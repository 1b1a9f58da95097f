"""Encode and decode a clip of any length and size with an image autoencoder, in small chunks."""

from collections.abc import Callable
from typing import TypeAlias

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

# Frames in -1..1, `[n, 3, H, W]`, to the mean and standard deviation of their latents.
EncodeFrames: TypeAlias = Callable[[Tensor], tuple[Tensor, Tensor]]
DecodeFrames: TypeAlias = Callable[[Tensor], Tensor]  # and back, `[n, c, h, w]` to `[n, 3, H, W]`


@torch.no_grad()
def encode_video(
    clip: Float[Tensor, "b 3 f H W"],
    encode_frames: EncodeFrames,
    factor: int,
    *,
    frames_per_chunk: int = 8,
    generator: torch.Generator | None = None,
    on_chunk: Callable[[int, int], None] | None = None,
) -> Float[Tensor, "b c f h w"]:
    """Latents of a clip with pixels in 0..1, as the encoder gives them (unscaled), float32.

    `frames_per_chunk` frames are encoded at a time, and only these are mapped to -1..1. So memory
    grows with the clip only by the clip and its latents. If a side is no multiple of `factor`
    (pixels per latent pixel), the right or lower edge is repeated; `decode_video` crops it again.
    Latents are the mean of the posterior. With a `generator` they are a sample of it, with noise
    drawn on the CPU frame by frame: the size of the chunks does not change the result.

    Raises:
        ValueError: if the clip has no frame, or a pixel is not a finite number.
    """
    check_frames(clip)
    height, width = (-(-size // factor) for size in clip.shape[-2:])
    padding = (0, width * factor - clip.shape[-1], 0, height * factor - clip.shape[-2])
    frames = rearrange(clip, "b c f h w -> (b f) c h w")
    latents = []
    for first in range(0, len(frames), frames_per_chunk):
        chunk = frames[first : first + frames_per_chunk]
        check_pixels(chunk, first)
        mean, std = encode_frames(functional.pad(chunk * 2 - 1, padding, mode="replicate"))
        if generator is not None:
            noise = [torch.randn(mean.shape[1:], generator=generator) for _ in mean]
            mean = mean + std * torch.stack(noise).to(mean)
        latents.append(mean.float())
        if on_chunk is not None:
            on_chunk(first + len(chunk), len(frames))
    return rearrange(torch.cat(latents), "(b f) c h w -> b c f h w", b=clip.shape[0])


@torch.no_grad()
def decode_video(
    latents: Float[Tensor, "b c f h w"],
    decode_frames: DecodeFrames,
    *,
    size: tuple[int, int] | None = None,
    frames_per_chunk: int = 8,
    on_chunk: Callable[[int, int], None] | None = None,
) -> Float[Tensor, "b 3 f H W"]:
    """The clip of unscaled latents, pixels in 0..1, float32 on the CPU, where clips are kept.

    `size` (height, width) crops what `encode_video` padded. `frames_per_chunk` frames are decoded
    at a time, directly into the result.

    Raises:
        ValueError: if `size` is larger than the decoded frames.
        FloatingPointError: if a decoded frame is not finite.
    """
    b, _, f = latents.shape[:3]
    clip: Tensor | None = None
    frames = rearrange(latents, "b c f h w -> (b f) c h w")
    for first in range(0, len(frames), frames_per_chunk):
        pixels = decode_frames(frames[first : first + frames_per_chunk]).float()
        check_decoded(pixels, first)
        if clip is None:
            height, width = shown_size(pixels, size)
            # Channels last, as ComfyUI keeps images: no copy is needed to hand them over.
            clip = torch.empty(len(frames), height, width, pixels.shape[1])
        chunk = rearrange(pixels[..., :height, :width], "n c h w -> n h w c")
        clip[first : first + len(chunk)] = (chunk / 2 + 0.5).clamp(0, 1)
        if on_chunk is not None:
            on_chunk(first + len(chunk), len(frames))
    if clip is None:
        raise ValueError("The latents hold no frames.")
    return rearrange(clip, "(b f) h w c -> b c f h w", b=b, f=f)


def check_frames(clip: Float[Tensor, "b 3 f H W"]) -> None:
    """Raise a ValueError if a clip has no frames."""
    if clip.shape[2] == 0:
        raise ValueError("The clip has no frames. Load a clip with at least one.")


def check_pixels(frames: Float[Tensor, "n 3 H W"], first: int) -> None:
    """Raise a ValueError unless all pixels are finite; `first` is the number of the first frame."""
    if not bool(torch.isfinite(frames).all()):
        raise ValueError(
            f"The clip holds NaN or infinite pixels in frames {first} to "
            f"{first + len(frames) - 1}. Repair the node that made it; nothing is replaced here."
        )


def check_decoded(pixels: Float[Tensor, "n 3 H W"], first: int) -> None:
    """Raise a FloatingPointError unless decoded frames, from number `first` on, are finite."""
    if not bool(torch.isfinite(pixels).all()):
        raise FloatingPointError(
            f"Decoding gave NaN or infinite pixels in frames {first} to "
            f"{first + len(pixels) - 1}. If the model runs in float16, load it in bfloat16 or "
            "float32."
        )


def shown_size(pixels: Float[Tensor, "n 3 H W"], size: tuple[int, int] | None) -> tuple[int, int]:
    """The height and width to crop decoded frames to: `size`, or their own without one.

    Raises:
        ValueError: if the frames are smaller than `size`.
    """
    height, width = size or pixels.shape[-2:]
    if height > pixels.shape[-2] or width > pixels.shape[-1]:
        raise ValueError(
            f"The latents show {pixels.shape[-1]} x {pixels.shape[-2]} pixels, less than "
            f"the {width} x {height} asked for. They belong to another clip."
        )
    return height, width
