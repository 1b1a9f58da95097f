"""Reading a manifest: one line is one run of the graph, as JSON Lines or CSV.

A line has an `id`, perhaps a `group`, and values for inputs of the graph under `NODE.INPUT`, where
NODE is an id, or a title or class that only one node has:

    {"id": "bus-1", "group": "colour", "Clip to edit.file": "bus.mp4", "KSampler.steps": 20}

In CSV the first row names the columns; an empty cell leaves the graph's own value.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import WorkflowError, listed, printable
from ..overrides import CommandLineText
from ..workflow import strict_json

LARGEST_FILE = 256 * 2**20  # bytes
LONGEST_ID = 100
ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
# What Windows takes for a device, whatever follows the first dot.
DEVICES = {"con", "prn", "aux", "nul", *(f"{d}{n}" for d in ("com", "lpt") for n in range(10))}


@dataclass(frozen=True)
class Line:
    """One run: its id, the group it is counted in, and values under `NODE.INPUT`.

    `number` is where it begins in the manifest.
    """

    number: int
    id: str
    group: str = ""
    settings: dict[str, object] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"line {self.number} ('{printable(self.id)}')"


def read_manifest(path: Path) -> list[Line]:
    """The lines of a manifest, `.csv` or JSON Lines.

    Raises:
        WorkflowError: unreadable, empty, or with a sentence for every bad line, by its number.
    """
    text = _read(path)
    entries = _csv_rows(text) if path.suffix.lower() == ".csv" else _json_lines(text)
    lines: list[Line] = []
    problems: list[str] = []
    numbers: dict[str, int] = {}
    for number, entry in entries:
        try:
            line = _line(number, entry)
        except ValueError as error:
            problems.append(f"Line {number}: {error}")
            continue
        # On some systems names of files differ in more than capitals or not at all.
        first = numbers.setdefault(line.id.casefold(), number)
        if first != number:
            problems.append(
                f"Line {number}: its id '{printable(line.id)}' is that of line {first} already; "
                "give each line an id of its own."
            )
        lines.append(line)
    if not lines and not problems:
        problems = [
            f'{path} is empty. Write a line for each run, as {{"id": "a", "NODE.INPUT": value}}.'
        ]
    if problems:
        raise WorkflowError(problems)
    return lines


def _read(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            data = file.read(LARGEST_FILE + 1)
    except OSError as error:
        raise WorkflowError([f"Cannot read the manifest {path}: {error.strerror}."]) from error
    if len(data) > LARGEST_FILE:
        raise WorkflowError([f"{path} is larger than {LARGEST_FILE >> 20} MiB; not a manifest."])
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise WorkflowError([f"{path} is not UTF-8 text; save it as UTF-8."]) from None


def _json_lines(text: str) -> Iterator[tuple[int, object]]:
    """Number and object of every line that is not blank; a ValueError in place of one not JSON."""
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                yield number, strict_json(line)
            except RecursionError:
                yield number, ValueError("it is nested too deeply.")
            except ValueError as error:
                yield number, ValueError(f"it is not valid JSON: {printable(error, 200)}.")


def _csv_rows(text: str) -> Iterator[tuple[int, object]]:
    """Number and object of every row below the first that is not blank, cells as typed."""
    rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    columns: list[str] = []
    end = 0
    while True:
        number = end + 1
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            yield number, ValueError(f"it is not valid CSV: {printable(error, 200)}.")
            return
        end = rows.line_num
        if not any(cell.strip() for cell in row):
            continue
        if not columns:
            columns = [name.strip() for name in row]
            twice = {name for name in columns if columns.count(name) > 1}
            if "id" not in columns or twice:
                fault = f"names {listed(sorted(twice))} twice" if twice else "has no column 'id'"
                yield number, ValueError(f"the first row {fault}; it has {listed(columns)}.")
                return
        elif len(row) != len(columns):
            yield (
                number,
                ValueError(f"it has {len(row)} cells, and the first row names {len(columns)}."),
            )
        else:
            cells = zip(columns, row, strict=True)
            yield (
                number,
                {
                    name: cell if name in ("id", "group") else CommandLineText(cell)
                    for name, cell in cells
                    if cell or name == "id"
                },
            )


def _line(number: int, entry: object) -> Line:
    """One line's object as a `Line`, or a ValueError that says what is wrong with it."""
    if isinstance(entry, ValueError):
        raise entry
    if not isinstance(entry, dict):
        raise ValueError('it is no object; write {"id": "a", "NODE.INPUT": value}.')
    if "id" not in entry:
        raise ValueError("it has no 'id'; its results lie under that name.")
    settings = {name: value for name, value in entry.items() if name not in ("id", "group")}
    if unknown := [name for name in settings if "." not in name]:
        raise ValueError(
            f"{listed(unknown)} is neither id, group nor NODE.INPUT, as in 'Save the edit.format'."
        )
    group = entry.get("group", "")
    if not isinstance(group, str) or not group.isprintable() or len(group) > LONGEST_ID:
        raise ValueError(f"its group must be text of at most {LONGEST_ID} letters.")
    return Line(number, checked_id(entry["id"]), group, settings)


def checked_id(name: object) -> str:
    """An id that is the name of a folder on every system, or a ValueError."""
    if not isinstance(name, str) or not ID.fullmatch(name) or len(name) > LONGEST_ID:
        raise ValueError(
            f"its id '{printable(name)}' is no plain name. Use up to {LONGEST_ID} letters, digits, "
            "dots, dashes and underscores, beginning with a letter or digit; no path."
        )
    if name.endswith(".") or name.split(".")[0].lower() in DEVICES:
        raise ValueError(f"its id '{name}' is no name of a folder on Windows; choose another.")
    return name
