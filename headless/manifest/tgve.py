"""LOVEU-TGVE-2023 (Wu et al., 2023): 76 videos, each with four prompts.

As published (github.com/showlab/loveu-tgve-2023), unpacked:

    LOVEU-TGVE-2023_Dataset.csv                           captions, in three parts by origin
    DAVIS_480p/480p_videos/NAME.mp4, youtube_480p/..., videvo_480p/...
"""

from __future__ import annotations

import csv
import io
from pathlib import Path

from ..errors import WorkflowError, listed
from ..paths import safe_parts
from .pairs import Pair

TABLE = "LOVEU-TGVE-2023_Dataset.csv"
NAME, CAPTION = "Video name", "Our GT caption"
KINDS = {
    "style": "Style Change Caption",
    "object": "Object Change Caption",
    "background": "Background Change Caption",
    "multiple": "Multiple Changes Caption",
}
# A row such as "DAVIS Videos:" begins a part; its videos lie in the folder of that name.
PARTS = {"davis": "DAVIS_480p", "youtube": "youtube_480p", "videvo": "videvo_480p"}
PART_ENDS = " videos:"


def read_pairs(folder: Path) -> list[Pair]:
    """All pairs of the benchmark, grouped by the kind of change.

    Raises:
        WorkflowError: something is missing or is not as published; every fault is named.
    """
    rows = _rows(folder / TABLE)
    part: str | None = None
    pairs: list[Pair] = []
    problems: list[str] = []
    for number, row in rows:
        name = row[NAME].strip()
        if name.lower().endswith(PART_ENDS):
            part = PARTS.get(name.lower().removesuffix(PART_ENDS))
            if part is None:
                problems.append(f"Row {number}: no folder is known for the part '{name}'.")
        elif name and part:
            try:
                pairs += _pairs(folder, part, name, row)
            except ValueError as error:
                problems.append(f"Row {number}: {error}")
        elif name and not problems:
            problems.append(f"Row {number}: '{name}' comes before the first part, 'DAVIS Videos:'.")
    if not pairs and not problems:
        problems = [f"{folder / TABLE} names no video."]
    if problems:
        raise WorkflowError(problems)
    return pairs


def _rows(file: Path) -> list[tuple[int, dict[str, str]]]:
    """The rows of the table that are not blank, by their numbers."""
    try:
        text = file.read_text("utf-8-sig")
    except FileNotFoundError:
        raise WorkflowError(
            [
                f"{file.parent} is no LOVEU-TGVE-2023: it has no {TABLE}. Name the folder that "
                "holds it and DAVIS_480p, youtube_480p and videvo_480p; if yours has the table as "
                "xlsx, save that as CSV under this name."
            ]
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise WorkflowError([f"{file} cannot be read as UTF-8 text: {error}."]) from error
    table = csv.DictReader(io.StringIO(text, newline=""))
    wanted = (NAME, CAPTION, *KINDS.values())
    missing = [name for name in wanted if name not in (table.fieldnames or ())]
    if missing:
        raise WorkflowError([f"{file} has no column {listed(missing)}."])
    return [
        (table.line_num, {name: row[name] or "" for name in wanted})
        for row in table
        if any(row[name] for name in wanted)
    ]


def _pairs(folder: Path, part: str, name: str, row: dict[str, str]) -> list[Pair]:
    (name,) = safe_parts(name, NAME)
    clip = f"{part}/480p_videos/{name}.mp4"
    if not (folder / clip).is_file():
        raise ValueError(f"{clip} is missing.")
    texts = {kind: row[column].strip() for kind, column in KINDS.items()}
    if missing := [KINDS[kind] for kind, text in texts.items() if not text]:
        raise ValueError(f"'{name}' has no {listed(missing)}.")
    caption = row[CAPTION].strip()
    return [Pair(f"{name}-{kind}", kind, clip, caption, text) for kind, text in texts.items()]
