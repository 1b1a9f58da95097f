"""Boxes and points: as a user writes them, and those chosen from a detector's results."""

import math
import re
from collections.abc import Sequence
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

# Left, top, right, bottom in pixels, one row for each box of a frame; `[0, 4]` for no box.
FrameBoxes: TypeAlias = Float[Tensor, "_ 4"]


def parse_box(text: str) -> tuple[float, float, float, float] | None:
    """A box (left, top, right, bottom) from "x, y, width, height" in pixels; None from "".

    Raises:
        ValueError: for any other text, and for a box without area.
    """
    if not text.strip():
        return None
    numbers = _numbers(text)
    if numbers is None or len(numbers) != 4:
        raise ValueError(
            f'"{text.strip()}" is no box. Write four numbers in pixels: x, y, width, height, such '
            "as 120, 80, 200, 150."
        )
    x, y, width, height = numbers
    if width <= 0 or height <= 0:
        raise ValueError(
            f"The box at {x:g}, {y:g} is {width:g} wide and {height:g} high; both must be more "
            "than 0."
        )
    return x, y, x + width, y + height


def parse_points(text: str) -> tuple[tuple[float, float], ...]:
    """Points from "x, y; x, y" in pixels, or one on each line; no points from "".

    Raises:
        ValueError: for any other text.
    """
    points = []
    for part in filter(str.strip, re.split(r"[;\n]", text)):
        numbers = _numbers(part)
        if numbers is None or len(numbers) != 2:
            raise ValueError(
                f'"{part.strip()}" is no point. Write two numbers in pixels, x, y, and a semicolon '
                "between points, such as 160, 120; 200, 140."
            )
        points.append((numbers[0], numbers[1]))
    return tuple(points)


def chosen_boxes(
    boxes: FrameBoxes,
    scores: Float[Tensor, " n"],
    *,
    threshold: float,
    best: bool = False,
    largest: float = 1.0,
    size: tuple[int, int],
) -> FrameBoxes:
    """The boxes of a frame with a score of at least `threshold`, highest score first.

    First, boxes without area are left out, and boxes that cover more than the share `largest` of
    the frame, whose `size` is (height, width). `best` keeps only the box with the highest score.
    """
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    area = width * height
    fits = (scores >= threshold) & (area > 0) & (area <= largest * math.prod(size))
    order = scores[fits].argsort(descending=True)
    return boxes[fits][order[:1] if best else order]


def frames_with_boxes(boxes: Sequence[FrameBoxes]) -> list[int]:
    """The numbers of the frames that have a box."""
    return [number for number, found in enumerate(boxes) if len(found)]


def listed(frames: Sequence[int]) -> str:
    """Frame numbers as text: "0 to 3, 7"; "none" for no frame."""
    runs: list[list[int]] = []
    for frame in frames:
        if runs and frame == runs[-1][-1] + 1:
            runs[-1].append(frame)
        else:
            runs.append([frame])
    spelled = [f"{run[0]} to {run[-1]}" if len(run) > 1 else str(run[0]) for run in runs]
    return ", ".join(spelled) or "none"


def no_boxes(frames: int) -> tuple[FrameBoxes, ...]:
    """An empty set of boxes for each frame."""
    return (torch.zeros(0, 4),) * frames


def _numbers(text: str) -> list[float] | None:
    """Finite numbers, separated by commas or blanks; None for any other text."""
    try:
        numbers = [float(part) for part in re.split(r"[\s,]+", text.strip().strip(","))]
    except ValueError:
        return None
    return numbers if all(map(math.isfinite, numbers)) else None
