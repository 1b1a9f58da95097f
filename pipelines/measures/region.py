"""Which pixels of a clip a measure looks at."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..models.grid import check_masks, resized

Side: TypeAlias = Literal["outside", "inside", "everywhere"]


@dataclass(frozen=True, eq=False)
class Region:
    """Pixels of a clip, and their name to write after a measure's ("" for all pixels)."""

    name: str
    where: Bool[Tensor, "f H W"]

    def title(self, measure: str) -> str:
        """The name of a measure over this region."""
        return f"{measure} {self.name}".strip()


def region(
    mask: Float[Tensor, "n h w"] | None,
    frames: int,
    height: int,
    width: int,
    side: Side = "outside",
    *,
    threshold: float = 0.5,
) -> Region:
    """The pixels outside or inside a mask, or all pixels.

    Pixels with a mask of `threshold` or less are outside. The mask is for the whole clip (n = 1) or
    for each frame. A mask of another size is resized smoothly before the threshold. Without a mask
    the region is all pixels.

    Raises:
        ValueError: if the number of masks is neither 1 nor the number of frames, a value is not in
            0..1, or no pixel of any frame is left.
    """
    if mask is None or side == "everywhere":
        return Region("", torch.ones(frames, height, width, dtype=torch.bool))
    check_masks(mask, frames)
    white = (resized(mask, height, width) > threshold).expand(frames, -1, -1)
    where = white if side == "inside" else ~white
    if not bool(where.any()):
        colour = "black" if side == "inside" else "white"
        raise ValueError(
            f"The mask is {colour} everywhere, so no pixel lies {side} of it. Check the mask, "
            "change its threshold, or measure everywhere."
        )
    return Region(side, where)
