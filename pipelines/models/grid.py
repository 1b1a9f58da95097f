"""How a clip's pictures lie on the grid of its latents, and masks brought there."""

from dataclasses import dataclass

import torch
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from .process import Latents


@dataclass(frozen=True)
class ClipGrid:
    """The latents of a clip, `latent` = (frames, height, width), and the pictures they stand for.

    A latent pixel stands for `factor` x `factor` pixels. Pictures whose size is no multiple of it
    were padded at the right and lower edges. The first latent frame stands for one picture, each
    later one for `stride` pictures: 1 in models that encode each picture by itself, 4 in Wan and
    HunyuanVideo. A clip with fewer `pictures` than that was padded at its end.
    """

    latent: tuple[int, int, int]
    pixels: tuple[int, int]  # height and width of the pictures, without padding
    factor: int = 1
    stride: int = 1
    pictures: int | None = None

    @classmethod
    def of(cls, z: Latents) -> "ClipGrid":
        """The grid of latents without padding, of which each pixel stands for one pixel."""
        return cls(tuple(z.shape[2:]), tuple(z.shape[3:]))

    @property
    def frames(self) -> int:
        """How many pictures the clip has."""
        return self.pictures or self.padded_frames

    @property
    def padded_frames(self) -> int:
        """How many pictures the latents stand for, with the padding at the end of the clip."""
        return 1 + self.stride * (self.latent[0] - 1)

    def latent_frames(self, pictures: int) -> int:
        """How many latent frames a number of pictures needs."""
        return 1 - (1 - pictures) // self.stride

    @property
    def shown(self) -> tuple[float, float]:
        """The share of the grid, vertical and horizontal, that is no padding (the valid region)."""
        height, width = (
            size / (cells * self.factor)
            for size, cells in zip(self.pixels, self.latent[1:], strict=True)
        )
        return height, width

    def covered(self, mask: Float[Tensor, "n H W"]) -> Float[Tensor, "1 1 f h w"]:
        """The share of each latent pixel that a mask covers, 0..1; see `latent_mask`.

        Where a latent frame stands for several pictures, the largest of their shares.

        Raises:
            ValueError: if the number of masks is neither 1 nor the number of pictures, or a value
                lies outside 0..1.
        """
        return self._per_latent(latent_mask(mask, self.frames, *self.latent[1:], shown=self.shown))

    def covered_tokens(
        self, mask: Float[Tensor, "n H W"], height: int, width: int
    ) -> Float[Tensor, "f tokens"]:
        """As `covered`, for the tokens of an attention layer: `height` x `width` in each frame."""
        shares = self._per_latent(latent_mask(mask, self.frames, height, width, shown=self.shown))
        return rearrange(shares, "1 1 f h w -> f (h w)")

    def cells(self, values: Float[Tensor, "f h w"]) -> Float[Tensor, "F H W"]:
        """A map of latent pixels enlarged to pixels, in blocks of equal values, without padding."""
        blocks = repeat(values, "f h w -> f (h a) (w b)", a=self.factor, b=self.factor)
        return self._as_pictures(blocks)

    def on_pixels(self, values: Float[Tensor, "f h w"]) -> Float[Tensor, "F H W"]:
        """A map of latent pixels enlarged to pixels, bilinear, without padding."""
        whole = functional.interpolate(
            rearrange(values, "f h w -> f 1 h w"), scale_factor=float(self.factor), mode="bilinear"
        )
        return self._as_pictures(rearrange(whole, "f 1 h w -> f h w"))

    def _as_pictures(self, values: Float[Tensor, "f _ _"]) -> Float[Tensor, "F H W"]:
        shown = values[:, : self.pixels[0], : self.pixels[1]]
        later = repeat(shown[1:], "f h w -> (f n) h w", n=self.stride)
        return torch.cat([shown[:1], later])[: self.frames]

    def _per_latent(self, shares: Float[Tensor, "1 1 F h w"]) -> Float[Tensor, "1 1 f h w"]:
        if self.stride == 1:
            return shares
        # Padding at the end repeats the last picture.
        padding = shares[:, :, -1:].expand(-1, -1, self.padded_frames - self.frames, -1, -1)
        shares = torch.cat([shares, padding], dim=2)
        later = rearrange(shares[:, :, 1:], "1 1 (f n) h w -> 1 1 f n h w", n=self.stride)
        return torch.cat([shares[:, :, :1], later.amax(dim=3)], dim=2)


def check_masks(mask: Float[Tensor, "n H W"], frames: int) -> None:
    """Raise ValueError unless there is one mask for the whole clip or one for each frame."""
    if len(mask) not in (1, frames):
        raise ValueError(
            f"The mask has {len(mask)} frames and the clip has {frames}. Give one mask for each "
            "frame of this clip, or a single one for all of it, such as a picture (Load Image (as "
            "Mask)) or a box (Box Mask)."
        )
    check_values(mask)


def check_values(mask: Float[Tensor, "n H W"]) -> None:
    """Raise ValueError unless masks have pixels, and hold numbers from 0 to 1 alone."""
    if not mask.numel():
        raise ValueError(f"The mask is empty: its shape is {list(mask.shape)}.")
    low, high = map(float, mask.aminmax())
    if not (low >= 0 and high <= 1):  # also where one of them is no number
        raise ValueError(
            f"The mask holds values outside 0..1: they go from {low:g} to {high:g}. Clamp or "
            "normalise it first."
        )


def resized(mask: Float[Tensor, "n h w"], height: int, width: int) -> Float[Tensor, "n H W"]:
    """A mask at another size, smooth; no white spot is so small that nothing of it is left."""
    if mask.shape[1:] == (height, width):
        return mask
    pictures = rearrange(mask, "n h w -> n 1 h w")
    scaled = functional.interpolate(pictures, (height, width), mode="bilinear", antialias=True)
    return rearrange(scaled, "n 1 H W -> n H W").clamp(0, 1)


def latent_mask(
    mask: Float[Tensor, "n H W"],
    frames: int,
    height: int,
    width: int,
    *,
    shown: tuple[float, float] = (1.0, 1.0),
) -> Float[Tensor, "1 1 f h w"]:
    """The share of each latent pixel that a mask covers, 0..1.

    `mask` holds 0..1, for the whole clip (n = 1) or for each frame, at any resolution. The covered
    area is averaged: even the smallest spot of the mask counts, and a latent pixel that the mask
    does not touch is exactly 0. `shown` is the share of the latent grid, (vertical, horizontal),
    that the clip fills: less than 1 where it was padded to whole latent pixels.

    Raises:
        ValueError: if the number of masks is neither 1 nor the number of frames, or a value lies
            outside 0..1.
    """
    check_masks(mask, frames)
    rows = _overlaps(mask.shape[1], height, shown[0]).to(mask)
    columns = _overlaps(mask.shape[2], width, shown[1]).to(mask)
    covered = torch.einsum("nHW,hH,wW->nhw", mask, rows, columns).clamp(max=1)
    return rearrange(covered, "n h w -> 1 1 n h w").expand(-1, -1, frames, -1, -1)


def _overlaps(pixels: int, cells: int, shown: float) -> Float[Tensor, "{cells} {pixels}"]:
    """The share of each cell that each pixel covers; the pixels fill the share `shown` of them."""
    edges = torch.linspace(0, cells * shown, pixels + 1, dtype=torch.float64)
    cell = rearrange(torch.arange(cells, dtype=torch.float64), "cells -> cells 1")
    return (torch.minimum(edges[1:], cell + 1) - torch.maximum(edges[:-1], cell)).clamp(min=0)
