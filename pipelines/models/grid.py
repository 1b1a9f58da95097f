"""Masks of any resolution, brought to the grid of the latents."""

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor


def latent_mask(
    mask: Float[Tensor, "n H W"],
    frames: int,
    height: int,
    width: int,
    *,
    shown: tuple[float, float] = (1.0, 1.0),
) -> Float[Tensor, "1 1 f h w"]:
    """The share of each latent pixel that a mask covers, 0..1.

    `mask` holds 0..1, for the whole clip (n = 1) or for each frame, at any resolution. Covered area
    is averaged, so nothing that the mask touches is lost, however small, and a latent pixel that it
    does not touch is exactly 0. `shown` is the share of the latent grid, (vertical, horizontal),
    that the visible clip fills: less than 1 where the clip was padded to whole latent pixels.

    Raises:
        ValueError: if the number of masks is neither 1 nor the number of frames, or a value lies
            outside 0..1.
    """
    if mask.shape[0] not in (1, frames):
        raise ValueError(
            f"The mask has {mask.shape[0]} frames and the clip has {frames}. Give one mask for the "
            "whole clip, or one for each frame."
        )
    if not bool(torch.isfinite(mask).all()) or float(mask.min()) < 0 or float(mask.max()) > 1:
        raise ValueError("The mask holds values outside 0..1. Clamp or normalise it first.")
    rows = _overlaps(mask.shape[1], height, shown[0]).to(mask)
    columns = _overlaps(mask.shape[2], width, shown[1]).to(mask)
    covered = torch.einsum("nHW,hH,wW->nhw", mask, rows, columns).clamp(max=1)
    return rearrange(covered, "n h w -> 1 1 n h w").expand(-1, -1, frames, -1, -1)


def _overlaps(pixels: int, cells: int, shown: float) -> Float[Tensor, "{cells} {pixels}"]:
    """The share of each cell that each pixel covers, where the pixels fill `shown` of the cells."""
    edges = torch.linspace(0, cells * shown, pixels + 1, dtype=torch.float64)
    cell = rearrange(torch.arange(cells, dtype=torch.float64), "cells -> cells 1")
    return (torch.minimum(edges[1:], cell + 1) - torch.maximum(edges[:-1], cell)).clamp(min=0)
