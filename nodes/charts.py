"""Line charts as pictures, for nodes that show numbers."""

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_SIZE = (768, 432)
_MARGINS = (72, 48, 24, 64)  # left, top, right, bottom
_FAINT = "#b4cbe3"
_COLOURS = ("#1f5fa8", "#d1601f", "#2f8f4e", "#8a4fa3", "#7a7a7a")


def line_chart(
    title: str,
    series: Mapping[str, Sequence[float]],
    labels: Sequence[str] = (),
    faint: Sequence[str] = (),
) -> "torch.Tensor":
    """A line chart over steps, or over `labels`, as IMAGE `[1, height, width, 3]` in 0..1.

    The series named in `faint` are drawn in a pale colour. Values that are not finite leave a gap.
    Without any value, the axis goes from 0 to 1.
    """
    import numpy as np
    import torch
    from PIL import Image, ImageDraw

    scale = 2  # drawn at twice the size, then reduced, for smooth lines
    width, height = _SIZE
    picture = Image.new("RGB", (width * scale, height * scale), "white")
    draw = ImageDraw.Draw(picture)
    left, top, right, bottom = _MARGINS
    right, bottom = width - right, height - bottom
    low, high = _range([value for values in series.values() for value in values])
    count = max([len(labels), *(len(values) for values in series.values()), 2])

    def place(index: float, value: float) -> tuple[float, float]:
        x = left + (right - left) * index / (count - 1)
        y = bottom - (bottom - top) * (value - low) / (high - low)
        return x * scale, y * scale

    def write(x: float, y: float, text: str, size: int = 13, anchor: str = "la") -> None:
        font = _font(size * scale)
        draw.text((x * scale, y * scale), text, fill="#303030", font=font, anchor=anchor)

    for part in range(5):
        value = low + (high - low) * part / 4
        _, y = place(0, value)
        draw.line([(left * scale, y), (right * scale, y)], fill="#dddddd", width=scale)
        write(left - 8, y / scale, f"{value:.3g}", anchor="rm")
    every = max(1, -(-count // 10))
    ticks = labels or [str(i + 1) for i in range(count)]
    for index in range(0, len(ticks), every):
        write(place(index, low)[0] / scale, bottom + 8, ticks[index], anchor="ma")
    write(left, 14, title, size=16)
    for number, (name, values) in enumerate(series.items()):
        colour = _FAINT if name in faint else _COLOURS[number % len(_COLOURS)]
        for line in _unbroken(values):
            points = [place(i, values[i]) for i in line]
            dots = points if len(points) == 1 or labels else []
            draw.line(points, fill=colour, width=2 * scale, joint="curve")
            for x, y in dots:
                draw.ellipse([x - 6, y - 6, x + 6, y + 6], fill=colour)
        x, y = left + 180 * number, height - 24
        draw.rectangle([coordinate * scale for coordinate in (x, y, x + 12, y + 12)], fill=colour)
        write(x + 18, y + 6, name, anchor="lm")
    smooth = np.asarray(picture.resize(_SIZE, Image.Resampling.LANCZOS), dtype=np.float32)
    return torch.from_numpy(smooth / 255)[None]


def running_mean(values: Sequence[float], window: int) -> list[float]:
    """For each value, the mean of it and the values before it, at most `window` in all."""
    means = []
    for end in range(1, len(values) + 1):
        seen = values[max(0, end - window) : end]
        means.append(sum(seen) / len(seen))
    return means


def _range(values: Sequence[float]) -> tuple[float, float]:
    """The lowest and the highest value of an axis, which always includes 0."""
    seen = [value for value in values if isfinite(value)] or [1.0]
    low, high = min(0.0, *seen, 0.0), max(0.0, *seen, 0.0)
    return low, high if high > low else low + 1


def _unbroken(values: Sequence[float]) -> list[list[int]]:
    """The indices of finite values, as runs without a gap."""
    runs: list[list[int]] = [[]]
    for index, value in enumerate(values):
        if isfinite(value):
            runs[-1].append(index)
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]


def _font(size: int):
    from PIL import ImageFont

    return ImageFont.load_default(size)
