"""Measures of several edits as a table, as CSV and as JSON."""

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from .measure import Measure

_LONGEST = 80  # characters of a label
_FORMULA = ("=", "+", "-", "@")  # a text that begins so is a formula for spreadsheets


@dataclass(frozen=True)
class Entry:
    """One measure of one edit."""

    label: str
    measure: Measure


Table: TypeAlias = tuple[Entry, ...]


def collect(table: Table, label: str, measures: Sequence[Measure]) -> Table:
    """The table with more measures, of a new edit or of one that it already has.

    Raises:
        ValueError: if the label is no plain text, or the edit already has such a measure.
    """
    label = label.strip()
    if not label or len(label) > _LONGEST or not label.isprintable() or label[0] in _FORMULA:
        raise ValueError(
            f"{label[:_LONGEST]!r} is no label for an edit. Use 1 to {_LONGEST} characters of "
            f"plain text, not beginning with {' '.join(_FORMULA)}, which spreadsheets would run."
        )
    for measure in measures:
        if any(e.label == label and e.measure.name == measure.name for e in table):
            raise ValueError(
                f"{label!r} has {measure.name!r} already. Give each edit a label of its own, and "
                "each measure once."
            )
        table = (*table, Entry(label, measure))
    return table


def labels(table: Table) -> list[str]:
    """The labels of the edits, in the order in which they were added."""
    return list(dict.fromkeys(entry.label for entry in table))


def columns(table: Table) -> list[Measure]:
    """For each column, the first measure of its name, in the order in which they were added."""
    first: dict[str, Measure] = {}
    for entry in table:
        first.setdefault(entry.measure.name, entry.measure)
    return list(first.values())


def value(table: Table, label: str, name: str) -> float | None:
    """The value of a measure for an edit; None if it was not measured."""
    found = (e.measure.value for e in table if (e.label, e.measure.name) == (label, name))
    return next(found, None)


def best(table: Table, name: str, reference: str = "") -> set[str]:
    """The edits with the best value of a measure; several if they are equal.

    Empty if less than two edits have it; NaN is none. The row `reference`, usually the source, does
    not count.
    """
    values = {
        entry.label: entry.measure.value
        for entry in table
        if entry.measure.name == name and entry.label != reference
        if not math.isnan(entry.measure.value)
    }
    if len(values) < 2:
        return set()
    higher = next(e.measure.better for e in table if e.measure.name == name) == "higher"
    top = (max if higher else min)(values.values())
    return {label for label, number in values.items() if number == top}


def to_csv(table: Table) -> str:
    """One row for each edit, one column for each measure; a missing value or NaN is empty."""
    names = columns(table)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["edit", *(title(measure) for measure in names)])
    for label in labels(table):
        row = (value(table, label, measure.name) for measure in names)
        writer.writerow([label, *(_cell(number) for number in row)])
    return text.getvalue()


def _cell(number: float | None) -> str:
    return "" if number is None or math.isnan(number) else repr(number)


def to_json(table: Table) -> str:
    """All measures with their values over time. Infinity is written "inf" or "-inf", NaN null."""
    edits: dict[str, Any] = {label: {} for label in labels(table)}
    for label, measure in ((entry.label, entry.measure) for entry in table):
        edits[label][measure.name] = {
            "value": _plain(measure.value),
            "unit": measure.unit,
            "better": measure.better,
            "each": measure.each,
            "values": [_plain(number) for number in measure.values],
        }
    return json.dumps(edits, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def title(measure: Measure) -> str:
    """The name of a measure, with its unit if it has one."""
    return f"{measure.name} ({measure.unit})" if measure.unit else measure.name


def _plain(number: float) -> float | str | None:
    """A number for JSON, which has neither infinity nor NaN."""
    if math.isnan(number):
        return None
    return number if math.isfinite(number) else str(number)
