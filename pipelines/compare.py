"""Clips put together for the eye."""

import torch
from jaxtyping import Float
from torch import Tensor


def side_by_side(
    first: Float[Tensor, "b c f H W"],
    second: Float[Tensor, "b c f2 H2 W2"],
    *,
    vertical: bool = False,
    gap: int = 0,
) -> Float[Tensor, "b c f _ _"]:
    """Two clips with pixels in 0..1 in one picture, with `gap` white pixels between them.

    Raises:
        ValueError: if the clips differ in length or size.
    """
    if first.shape != second.shape:
        shapes = [f"{s[2]} frames of {s[4]} x {s[3]}" for s in (first.shape, second.shape)]
        raise ValueError(
            f"The clips differ: {shapes[0]} and {shapes[1]}. "
            "Both must have the same length and size."
        )
    dim = -2 if vertical else -1
    shape = list(first.shape)
    shape[dim] = gap
    return torch.cat([first, first.new_ones(shape), second], dim=dim)
