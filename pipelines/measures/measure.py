"""The result of a measure, and checks of the clips that are measured."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

_BEYOND = 1e-3  # how far outside 0..1 pixels may lie by rounding


@dataclass(frozen=True)
class Measure:
    """One number about a clip or an edit, and the single values that it summarises.

    `values` are in the order of time, NaN where there was nothing to measure; `each` says what one
    value belongs to, such as a frame. `better` says whether a higher or a lower number is better.
    """

    name: str
    value: float
    unit: str
    better: Literal["higher", "lower"]
    values: tuple[float, ...] = ()
    each: str = "frame"


def check_clip(clip: Tensor, name: str) -> None:
    """Check that a clip can be measured.

    Raises:
        ValueError: if it is no `[1, 3, f, H, W]` with pixels in 0..1, or has none.
    """
    if clip.ndim != 5 or clip.shape[:2] != (1, 3):
        raise ValueError(f"The {name} has shape {list(clip.shape)}; [1, 3, f, H, W] is expected.")
    if not clip.numel():
        raise ValueError(
            f"The {name} has {clip.shape[2]} frame(s) of {clip.shape[4]} x {clip.shape[3]}; this "
            "measure needs at least a frame."
        )
    if not bool(torch.isfinite(clip).all()):
        raise ValueError(
            f"The {name} holds NaN or infinite pixels, so nothing can be measured. Look for the "
            "node that made them; fp32 or bf16 as precision often helps."
        )
    low, high = (float(edge) for edge in clip.aminmax())
    if low < -_BEYOND or high > 1 + _BEYOND:
        raise ValueError(
            f"The {name} holds pixels from {low:.3g} to {high:.3g}; 0..1 is expected. Clamp it, or "
            "bring it to that range first."
        )


def check_pair(source: Tensor, edited: Tensor) -> None:
    """Check that two clips can be compared, frame by frame and pixel by pixel.

    Raises:
        ValueError: if one cannot be measured, or they differ in length or size.
    """
    check_clip(source, "source clip")
    check_clip(edited, "edited clip")
    if source.shape != edited.shape:
        sizes = [f"{s[2]} frames of {s[4]} x {s[3]}" for s in (source.shape, edited.shape)]
        raise ValueError(
            f"The source has {sizes[0]} and the edit {sizes[1]}. Measure clips of the same length "
            "and size: cut or scale one of them first."
        )


def mean(values: Sequence[float]) -> float:
    """The mean of the values that are not NaN; NaN if there are none."""
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan
