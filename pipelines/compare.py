"""Clips side by side in one picture."""

import torch
from jaxtyping import Float
from torch import Tensor


def require_alike(first: Float[Tensor, "... f H W"], second: Float[Tensor, "... f2 H2 W2"]) -> None:
    """Check that two clips can be compared frame by frame and pixel by pixel.

    Raises:
        ValueError: if they differ in length or size, or have no frames.
    """
    shapes = [f"{s[-3]} frames of {s[-1]} x {s[-2]}" for s in (first.shape, second.shape)]
    if first.shape != second.shape:
        raise ValueError(
            f"The clips differ: {shapes[0]} and {shapes[1]}. "
            "Both must have the same length and size."
        )
    if first.numel() == 0:
        raise ValueError(f"The clips are empty ({shapes[0]}); there is nothing to compare.")


def side_by_side(
    first: Float[Tensor, "b c f H W"],
    second: Float[Tensor, "b c f2 H2 W2"],
    *,
    vertical: bool = False,
    gap: int = 0,
) -> Float[Tensor, "b c f _ _"]:
    """Two clips with pixels in 0..1 in one picture, with `gap` white pixels between them.

    Raises:
        ValueError: if the clips differ in length or size, or are empty.
    """
    require_alike(first, second)
    dim = -2 if vertical else -1
    shape = list(first.shape)
    shape[dim] = gap
    return torch.cat([first, first.new_ones(shape), second], dim=dim)
