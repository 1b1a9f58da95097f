"""The tables of the first page, copied cell by cell from the reports.

python benchmarks/first_page.py         writes them anew into README.md

A table stands in README.md under a line `<!-- table: NAME -->`, and under it of when the report is.
Nothing is rounded or computed here.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from measuring import markdown

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"


class Shown(NamedTuple):
    """A table of the first page: where its cells stand, and its names of rows and columns."""

    report: str
    corner: str
    rows: Mapping[str, str]  # what it calls a row, and how a row of the report begins
    columns: Sequence[str]  # by the names that the report gives them
    section: str = ""  # the heading of the report under which it stands


_REGIME = {f"{row} | {steps}": f"{begins} | {steps}" for row, begins in (
    ("DDS", "DDS"), ("DDS, mask", "+ mask"), ("DDS, mask, S-SSM", "+ S-SSM")
) for steps in (30, 200)}  # fmt: skip
TABLES = {
    "distillation": Shown(
        "distillation_report", "variant",
        {
            "no edit: the autoencoder alone": "no edit",
            "DDS": "DDS",
            "ASSD": "ASSD",
            "ASSD, fusion": "ASSD + fusion",
            "ASSD, fusion, joint guidance": "ASSD + fusion + joint",
            "DDS, mask": "+ mask",
            "DDS, mask, S-SSM": "+ S-SSM",
            "DDS, mask, S-SSM, T-SSM (DreamMotion)": "+ T-SSM",
            "DDS, flow smoothing": "+ flow smoothing",
            "DDS, flow smoothing, preservation": "+ preservation",
            "DDS, flow smoothing, preservation, consistency": "+ consistency",
        },
        ("target read, %", "PSNR to the truth inside, dB", "change outside the object, x 1000",
         "flicker, x 1000", "IoU of the object, %"),
    ),
    "papers_regime": Shown(
        "papers_regime_report", "variant | steps", _REGIME,
        ("target read, %", "PSNR to the truth inside, dB", "change outside the object, x 1000",
         "IoU of the object, %"),
        "DreamMotion",
    ),
    "reconstruction": Shown(
        "videodirector_report", "reconstruction",
        {
            "DDIM inversion": "DDIM inversion, cfg",
            "with shared null-text": "+ shared null-text",
            "with multi-frame null-text": "+ multi-frame null-text",
            "with STDG, no null-text": "+ STDG, no null-text",
            "both": "both",
            "the autoencoder alone": "the VAE alone",
        },
        ("PSNR to the clip, dB",),
    ),
    "videodirector": Shown(
        "videodirector_report", "edit",
        {
            "full method": "full",
            "without null-text": "without null-text",
            "without STDG": "without STDG",
            "without SA-I": "without SA-I",
            "without SA-II": "without SA-II",
            "without cross-attention control": "without cross-attention control",
            "no control": "no control",
        },
        ("target read, %", "other attributes kept, %", "PSNR outside the edit, dB",
         "PSNR to the truth inside, dB", "flicker, x 1000"),
        "Edits",
    ),
    "ei2": Shown(
        "ei2_report", "variant",
        {
            "Tune-A-Video, norms over the clip": "Tune-A-Video, norms over the clip",
            "its norms frame by frame (`layer-norm`)": "the same, norms frame by frame (TAV)",
            "the same with STAM": "TAV + IC + SN: STAM + sparse-causal",
            "EI2 (STAM, FFAM r = 2)": "EI2: STAM + FFAM, r = 2",
            "STAM, full space-time": "STAM + full space-time",
            "EI2, not tuned": "EI2, not tuned",
        },
        ("target read, %", "frame consistency, %", "flicker, x 1000", "motion kept, %"),
    ),
}  # fmt: skip


def tables_of(page: str) -> Iterator[list[list[str]]]:
    """Every table of a page in Markdown, its head first, without the rule below the head."""
    for block in re.findall(r"(?m)(?:^\|.*\n?)+", page):
        rows = [[cell.strip() for cell in line[1:-1].split("|")] for line in block.splitlines()]
        yield [rows[0], *rows[2:]]


def cell_of(page: str, begins: str, column: str) -> str:
    """What a page's first table with this column and a row that begins so has there.

    Raises:
        ValueError: if no table has it.
    """
    cells = [part.strip() for part in begins.split("|")]
    for head, *rows in tables_of(page):
        for row in rows:
            if column in head and row[: len(cells)] == cells:
                return row[head.index(column)]
    raise ValueError(f"The report has no row {begins!r} with a column {column!r}.")


def table(shown: Shown, reports: Path) -> str:
    """One table of the first page."""
    page = (reports / shown.report / "README.md").read_text("utf-8")
    day, commit = made_on(page)
    page = page[page.index(f"## {shown.section}") :] if shown.section else page
    rows = [
        (title, *(cell_of(page, begins, column) for column in shown.columns))
        for title, begins in shown.rows.items()
    ]
    head, _, *body = markdown((shown.corner, *shown.columns), rows)
    said = f"*From the report of {day}, at commit {commit}.*"
    return "\n".join([head, re.sub(r"[^|]+", "---", head), *body, "", said]) + "\n"


def made_on(page: str) -> tuple[str, str]:
    """The day on which a report was written, and the commit."""
    found = re.search(r"(?m)^Written by .* on (\S+) at commit (\w+)", page)
    if found is None:
        raise ValueError("The report does not say when it was written, and at which commit.")
    return found[1], found[2]


def with_tables(readme: str, reports: Path = ROOT / "benchmarks") -> str:
    """The first page with the reports' figures.

    Raises:
        ValueError: if it has no place for a table, or a report has not what a table shows.
    """
    for name, shown in TABLES.items():
        text = table(shown, reports)
        place = rf"(?m)(?<=^<!-- table: {name} -->\n)(?:(?:^\|.*\n)+\n^\*From the report.*\n)?"
        readme, count = re.subn(place, lambda _, text=text: text, readme)
        if count != 1:
            raise ValueError(f"README.md has {count} lines <!-- table: {name} -->; it needs one.")
    return readme


def main() -> None:
    README.write_text(with_tables(README.read_text("utf-8")), "utf-8")


if __name__ == "__main__":
    main()
