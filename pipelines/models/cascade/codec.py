"""Clips that are their own latents: what a stage of pixels has in place of an autoencoder."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from ..codec import check_decoded, check_frames, check_pixels, shown_size
from ..process import Latents

LARGEST = 256  # pixels of a side; keyframes are 64 x 40 or 128 x 80


@dataclass(frozen=True)
class PixelCodec:
    """Pixels in 0..1 to -1..1 and back. Sides are padded to multiples of `multiple`."""

    multiple: int

    def encode(
        self,
        clip: Float[Tensor, "1 3 F H W"],
        *,
        generator: torch.Generator | None = None,
        on_chunk: Callable[[int, int], None] | None = None,
    ) -> Latents:
        """The clip in -1..1, float32, its right and lower edge repeated to whole multiples.

        There is nothing to draw with a `generator`.

        Raises:
            ValueError: if the clip has no frame, a side is longer than `LARGEST`, or a pixel is not
                a finite number.
        """
        check_frames(clip)
        height, width = clip.shape[-2:]
        if max(height, width) > LARGEST:
            raise ValueError(
                f"The clip has {width} x {height} pixels, and this model works on pixels, 64 x 40 "
                f"or 128 x 80 of them, {LARGEST} a side at most. Make keyframes of it first, with "
                "Pick Keyframes."
            )
        check_pixels(rearrange(clip, "1 c f h w -> f c h w"), 0)
        padding = (0, -width % self.multiple, 0, -height % self.multiple, 0, 0)
        if on_chunk is not None:
            on_chunk(clip.shape[2], clip.shape[2])
        return functional.pad(clip.float() * 2 - 1, padding, mode="replicate")

    def decode(
        self,
        latents: Latents,
        *,
        size: tuple[int, int] | None = None,
        frames: int | None = None,
        on_chunk: Callable[[int, int], None] | None = None,
    ) -> Float[Tensor, "1 3 F H W"]:
        """The clip in 0..1, float32 on the CPU; `size` (height, width) crops what was padded.

        Raises:
            ValueError: if these are no pixels, or show less than `size`.
            FloatingPointError: if a pixel is not finite.
        """
        _, channels, count = latents.shape[:3]
        if channels != 3 or count == 0:
            raise ValueError(
                f"The latents have {channels} channels and {count} frames; a model of pixels has 3 "
                "channels. Decode them with the model that made them."
            )
        pixels = rearrange(latents[:, :, :frames], "1 c f h w -> f c h w")
        check_decoded(pixels, 0)
        height, width = shown_size(pixels, size)
        shown = rearrange(pixels[..., :height, :width], "f c h w -> f h w c").float().cpu()
        if on_chunk is not None:
            on_chunk(count, count)
        return rearrange((shown / 2 + 0.5).clamp(0, 1).contiguous(), "f h w c -> 1 c f h w")
