"""A table of measures as a picture."""

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from ..pipelines.measures.table import Table

_SCALE = 2  # drawn at twice the size, to be sharp on any screen
_SIZE, _SMALL, _LINE, _PAD = 13 * _SCALE, 11 * _SCALE, 30 * _SCALE, 10 * _SCALE
_INK, _GREY, _RULE, _BEST, _BAND = "#202020", "#7a7a7a", "#c8c8c8", "#d8efdc", "#f4f4f4"


def table_picture(table: "Table", reference: str = "") -> "torch.Tensor":
    """The table as IMAGE `[1, height, width, 3]`: a row for each edit, a column for each measure.

    Triangles show whether higher or lower is better, and the best edits of each column are marked.
    The row `reference` comes first, in grey.
    """
    import numpy as np
    import torch
    from PIL import Image, ImageDraw, ImageFont

    from ..pipelines.measures.table import best, columns, labels, value

    font, small = ImageFont.load_default(_SIZE), ImageFont.load_default(_SMALL)
    measures = columns(table)
    rows = sorted(labels(table), key=lambda label: label != reference)
    cells = [[_number(value(table, label, m.name)) for m in measures] for label in rows]

    first = _PAD * 2 + max(font.getlength(text) for text in ("edit", *rows))
    widths = [
        _PAD * 3
        + max(
            font.getlength(measure.name) + _SIZE,
            small.getlength(measure.unit),
            *(font.getlength(row[i]) for row in cells),
        )
        for i, measure in enumerate(measures)
    ]
    rights = [round(first + sum(widths[: i + 1])) for i in range(len(widths))]
    head = _LINE * 7 // 4
    size = (rights[-1] if rights else round(first)), head + _LINE * len(rows) + _PAD
    picture = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(picture)

    draw.text((_PAD, _PAD), "edit", fill=_GREY, font=font)
    for measure, right in zip(measures, rights, strict=True):
        end = right - _PAD
        _triangle(draw, end - _SIZE / 2, _PAD, measure.better == "higher")
        draw.text((end - _SIZE, _PAD), measure.name, fill=_INK, font=font, anchor="ra")
        draw.text((end, _PAD + _SIZE * 1.5), measure.unit, fill=_GREY, font=small, anchor="ra")
    draw.line([(0, head), (size[0], head)], fill=_RULE, width=_SCALE)
    for j, (label, row) in enumerate(zip(rows, cells, strict=True)):
        top, ink = head + _LINE * j, _GREY if label == reference else _INK
        if j % 2:
            draw.rectangle([0, top + _SCALE, size[0], top + _LINE], fill=_BAND)
        draw.text((_PAD, top + _LINE / 2), label, fill=ink, font=font, anchor="lm")
        for i, measure in enumerate(measures):
            left = rights[i] - widths[i]
            if label in best(table, measure.name, reference):
                box = [left + _PAD / 2, top + 3 * _SCALE, rights[i] - _PAD / 2, top + _LINE - 2]
                draw.rounded_rectangle(box, radius=4 * _SCALE, fill=_BEST)
            place = rights[i] - _PAD, top + _LINE / 2
            draw.text(place, row[i], fill=ink, font=font, anchor="rm")
    return torch.from_numpy(np.asarray(picture, dtype=np.float32) / 255)[None]


def _number(value: float | None) -> str:
    """A value with about four digits; a dash if nothing was measured."""
    if value is None or math.isnan(value):
        return "-"
    return f"{value:.2f}" if 10 <= abs(value) < 10000 else f"{value:#.4g}"


def _triangle(draw, x: float, top: float, upwards: bool) -> None:
    """Draw a triangle that points up if higher is better, down if lower is."""
    half, tall = _SIZE * 0.32, _SIZE * 0.55
    base, tip = (top + tall, top) if upwards else (top, top + tall)
    shift = _SIZE * 0.28
    points = [(x - half, base + shift), (x + half, base + shift), (x, tip + shift)]
    draw.polygon(points, fill=_GREY)
