"""What a batch has made, for people: tables in text, and one static page with every line."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path, PurePosixPath
from statistics import fmean, stdev

from .check import Checked
from .results import Results

ALL = "all"
VIDEO = (".mp4", ".webm", ".mov", ".mkv", ".avi", ".m4v")
PICTURE = (".png", ".jpg", ".jpeg", ".gif", ".webp", ".bmp")
WIDE = 1e4  # numbers from here on are shown with an exponent

Table = tuple[list[str], list[list[str]]]  # head and rows


@dataclass
class Group:
    """The lines of a group: how many ended how, what they took, and what was measured of them."""

    done: int = 0
    failed: int = 0
    seconds: list[float] = field(default_factory=list)
    memory: int = 0
    measures: dict[str, list[float]] = field(default_factory=dict)

    def add(self, record: Mapping | None, failure: Mapping | None) -> None:
        """Count one more line, by its record or that of its failure."""
        if record is None:
            self.failed += failure is not None
            return
        self.done += 1
        self.seconds.append(record["seconds"]["total"])
        self.memory = max(self.memory, *record.get("peak_memory", {}).values(), 0)
        for name, value in measured(record):
            self.measures.setdefault(name, []).append(value)


def measured(record: Mapping) -> Iterator[tuple[str, float]]:
    """The measures of a line, `edit: measure (unit)` and value; what has no value is left out."""
    for edit, measures in record.get("measures", {}).items():
        for name, entry in measures.items():
            if entry["value"] is not None:
                unit = f" ({entry['unit']})" if entry["unit"] else ""
                yield f"{edit}: {name}{unit}", float(entry["value"])


def groups_of(results: Results, lines: Iterable[Checked]) -> dict[str, Group]:
    """The groups in the order they come, and all lines together at the end."""
    groups: dict[str, Group] = {}
    everything = Group()
    for line in (checked.line for checked in lines):
        record, failure = results.record(line.id), results.failure(line.id)
        for group in (groups.setdefault(line.group, Group()), everything):
            group.add(record, failure)
    return groups | {ALL: everything} if len(groups) > 1 else {ALL: everything}


def tables(groups: Mapping[str, Group]) -> list[Table]:
    """How the lines ended by group, and the measures by group, as means with standard errors."""
    ends = (
        ["group", "done", "failed", "seconds a line", "peak memory, MiB"],
        [
            [name, str(g.done), str(g.failed), mean_of(g.seconds), f"{g.memory / 2**20:.0f}"]
            for name, g in groups.items()
        ],
    )
    names = dict.fromkeys(name for group in groups.values() for name in group.measures)
    if not names:
        return [ends]
    rows = [[name, *(mean_of(g.measures.get(name, [])) for g in groups.values())] for name in names]
    return [ends, (["measure", *groups], rows)]


def mean_of(values: Sequence[float]) -> str:
    """Mean and standard error, `1.25 ± 0.04`; the mean alone of one value or infinite ones."""
    if not values:
        return ""
    mean = fmean(values)
    if len(values) < 2 or not math.isfinite(mean):
        return number(mean)
    error = stdev(values) / math.sqrt(len(values))
    digits = max(0, 1 - math.floor(math.log10(error))) if error > 0 else 2
    if max(abs(mean), error) >= WIDE:
        return f"{mean:.3g} \u00b1 {error:.2g}"
    return f"{mean:.{digits}f} \u00b1 {error:.{digits}f}"


def number(value: float) -> str:
    """Four digits of a number."""
    return f"{value:.4g}"


def as_text(table: Table) -> str:
    """A table in columns, the first to the left and the others to the right."""
    head, rows = table
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    lines = [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in (head, *rows)
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


# --- the page -----------------------------------------------------------------------------------

STYLE = """
body { font: 15px/1.4 system-ui, sans-serif; margin: 2em auto; max-width: 80em; padding: 0 1em }
table { border-collapse: collapse; margin: 1em 0 }
th, td { border-bottom: 1px solid #ccc; padding: .2em .8em; text-align: right }
th:first-child, td:first-child { text-align: left }
section { border-top: 2px solid #888; margin-top: 1.5em }
figure { display: inline-block; margin: 0 1em 0 0; vertical-align: top }
video, img { background: #eee; max-height: 20em; max-width: 36em; min-height: 6em }
.failed { color: #b00020 }
code { overflow-wrap: anywhere }
"""
# All clips of a line begin together.
SCRIPT = """
for (const line of document.querySelectorAll("section")) {
  const clips = [...line.querySelectorAll("video")];
  line.addEventListener("mouseenter", () => clips.forEach(clip => {
    clip.currentTime = 0; clip.play().catch(() => {});
  }));
  line.addEventListener("mouseleave", () => clips.forEach(clip => clip.pause()));
}
"""


def write_report(results: Results, lines: Sequence[Checked]) -> Path:
    """Write `report.html`; it shows source files where they lie, and results beside them."""
    groups = groups_of(results, lines)
    everything = groups[ALL]
    title = f"{everything.done} of {len(lines)} lines done, {everything.failed} failed"
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        f"<title>{title}</title><style>{STYLE}</style></head><body>",
        f"<h1>{title}</h1>",
        *(_table(table) for table in tables(groups)),
        "<p>Point at a line to play its clips together.</p>",
        *(_section(results, checked) for checked in lines),
        f"<script>{SCRIPT}</script></body></html>",
    ]
    return results.write("report.html", "\n".join(parts) + "\n")


def _table(table: Table) -> str:
    head, rows = table
    cells = ["".join(f"<th>{escape(cell)}</th>" for cell in head)]
    cells += ["".join(f"<td>{escape(cell)}</td>" for cell in row) for row in rows]
    return "<table>" + "\n".join(f"<tr>{row}</tr>" for row in cells) + "</table>"


def _section(results: Results, checked: Checked) -> str:
    """One line: its clips side by side, its values and measures, or why it failed."""
    line = checked.line
    record, failure = results.record(line.id), results.failure(line.id)
    group = f" &middot; {escape(line.group)}" if line.group else ""
    parts = [f'<section id="{escape(line.id)}"><h2>{escape(line.id)}{group}</h2>']
    if failure is not None:
        parts.append(f'<p class="failed">{escape(failure["sentence"])}</p>')
    elif record is None:
        parts.append("<p>Not run yet.</p>")
    parts += [_figure(path, results.out, name) for name, path in checked.files.items()]
    if record is not None:
        folder = results.done_folder / line.id
        parts += [_figure(folder / name, results.out, name) for name in sorted(record["files"])]
        values = [[name, number(value)] for name, value in measured(record)]
        parts.append(_table((["measure", "value"], values)) if values else "")
        parts.append(f"<p>{record['seconds']['total']:.1f} s</p>")
        parts += [f"<p>Warning: {escape(text)}</p>" for text in record["warnings"]]
    settings = "".join(
        f"<li>{escape(name)}: <code>{escape(str(value))}</code></li>"
        for name, value in line.settings.items()
    )
    return "\n".join([*parts, f"<ul>{settings}</ul></section>"])


def _figure(path: Path, out: Path, name: str) -> str:
    """A clip or a picture, or a link to a file that is neither."""
    address = escape(_address(path, out))
    kind = path.suffix.lower()
    if kind in VIDEO:
        shown = f'<video src="{address}" controls loop muted preload="metadata"></video><br>'
    elif kind in PICTURE:
        shown = f'<img src="{address}" loading="lazy" alt=""><br>'
    else:
        shown = ""
    caption = f'<figcaption><a href="{address}">{escape(name)}</a></figcaption>'
    return f"<figure>{shown}{caption}</figure>"


def _address(path: Path, out: Path) -> str:
    """A file as the page links to it: relative, or absolute on another drive."""
    try:
        relative = os.path.relpath(path.resolve(), out.resolve())
    except ValueError:
        return path.resolve().as_uri()
    return PurePosixPath("/", Path(relative).as_posix()).as_uri().removeprefix("file:///")
