"""What the benchmarks share: their options, clips over processes, figures by row, tables, pages."""

import argparse
import json
import math
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import date
from functools import cache, partial
from itertools import repeat
from os import cpu_count
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from einops import rearrange
from kept import named, on_disk, processes
from rescore.headless.demo import save_strip
from rescore.pipelines.models.codec import decode_video, encode_video
from rescore.pipelines.models.denoiser import Prompts
from rescore.pipelines.models.process import Latents
from rescore.pipelines.models.unet.backbone import Backbone
from rescore.shapeworld.edits import SPLITS, Edit, edited
from rescore.shapeworld.models import load_shapeworld
from rescore.shapeworld.scene import caption
from rescore.shapeworld.score import Estimate, estimate, psnr
from scipy.stats import t as student
from torch import Tensor

Run = TypeVar("Run")
Result = TypeVar("Result")

FIGURES = "figures.json"  # of a report, beside its page
CONCLUSIONS = "CONCLUSIONS.md"  # written by hand, beside the page, which ends with it
BOLD = "Changes in bold are beyond chance (Student's t, 95 %)."
SHOWN = 3  # edits whose clips a report shows

# --- settings -----------------------------------------------------------------------------------

GRAPHS = Path(__file__).resolve().parents[1] / "workflows" / "api"


def shipped(graph: str, node: str, name: str) -> Any:
    """The value that an input of a node has in a graph that comes with the pack.

    What is measured is what is shipped: this is where the settings of all benchmarks come from.

    Raises:
        ValueError: unless the graph has the input exactly once, as a value and not as a wire.
    """
    nodes = json.loads((GRAPHS / f"{graph}.json").read_text("utf-8")).values()
    found = [one["inputs"][name] for one in nodes if one["class_type"] == f"ReScore{node}"]
    if len(found) != 1 or isinstance(found[0], list):
        raise ValueError(f"The graph {graph} gives {name} of {node} as {found}; it must give one.")
    return found[0]


# --- clips and models ---------------------------------------------------------------------------

loaded = cache(load_shapeworld)  # a model, once a process


def latents_of(model: Any, clip: Tensor) -> Latents:
    """A clip `[f, h, w, 3]` in 0..1 as the model's latents."""
    pixels = rearrange(clip, "f h w c -> 1 c f h w")
    if model.whole_clips:
        return model.latents_in(model.encode_clip(pixels))
    return model.latents_in(encode_video(pixels, model.encode_frames, model.vae_factor))


def clip_of(model: Any, z: Latents, frames: int | None = None) -> Tensor:
    """The way back; `frames` of the clip, where the model has padded it."""
    unscaled = model.latents_out(z)
    if model.whole_clips:
        clip = model.decode_clip(unscaled, size=None, frames=frames)
    else:
        clip = decode_video(unscaled, model.decode_frames)
    return rearrange(clip, "1 c f h w -> f h w c").cpu()


def prompts_of(model: Backbone, source: str, target: str) -> Prompts:
    """Both prompts and an empty negative one, as the model's text encoder reads them."""
    return Prompts(*(model.encode_prompt(text).embedding for text in (source, target, "")))


def still_prompts_of(model: Backbone, edit: Edit) -> Prompts:
    """The prompts of an edit for a model of images: they say nothing of motion."""
    return prompts_of(model, *(caption(side, motion=False) for side in (edit.source, edit.target)))


def whole_psnr(clip: Tensor, truth: Tensor) -> float:
    """PSNR in dB over all pixels of two clips `[f, h, w, 3]`."""
    return psnr(clip, truth, torch.ones(truth.shape[:3], dtype=torch.bool))


# --- options ------------------------------------------------------------------------------------


def parse(
    doc: str,
    run: type[Run],
    report: Path,
    *,
    clips: int,
    quick: Mapping[str, int],
    rows: Iterable[str] = (),
    switches: Mapping[str, str] = {},
    arguments: Sequence[str] | None = None,
) -> tuple[argparse.Namespace, Run]:
    """The options of a command that measures rows on clips, and the settings among them.

    `clips` is the default; `quick` are other defaults, of clips and settings, for --quick;
    `switches` are options of its own, with what they say in the help.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawTextHelpFormatter)
    few = " and ".join(f"{value} {name}" for name, value in quick.items())
    parser.add_argument("--quick", action="store_true", help=few)
    parser.add_argument("--clips", type=int, default=clips)
    if rows := tuple(rows):
        parser.add_argument("--rows", nargs="+", choices=rows, default=rows)
    parser.add_argument("--split", choices=SPLITS, default="test")
    parser.add_argument("--jobs", "--workers", type=int, default=cpu_count(), help="processes")
    parser.add_argument("--report", action="store_true", help=f"write {report.name}")
    for name, said in switches.items():
        parser.add_argument(f"--{name}", action="store_true", help=said)
    add_settings(parser, run)
    if parser.parse_args(arguments).quick:
        parser.set_defaults(**quick)
    options = parser.parse_args(arguments)
    if rows:
        options.rows = tuple(row for row in rows if row in options.rows)  # in the tables' order
    return options, settings_of(options, run)


def add_settings(parser: argparse.ArgumentParser, run: type) -> None:
    """An option for every field of the dataclass `run`, absent unless it is given."""
    group = parser.add_argument_group("settings")
    for field in fields(run):
        option = f"--{field.name.replace('_', '-')}"
        group.add_argument(option, type=field.type, help=f"default {field.default}")


def settings_of(options: argparse.Namespace, run: type[Run]) -> Run:
    """What was given of these options, and the defaults of `run` for the rest."""
    given = {field.name: getattr(options, field.name) for field in fields(run)}
    return run(**{name: value for name, value in given.items() if value is not None})


# --- measuring ----------------------------------------------------------------------------------


def over_clips(
    work: Callable[..., Result], edits: Sequence[Edit], *rest: object, jobs: int, keep: Path
) -> Iterator[tuple[Edit, Result]]:
    """Every edit with `work(edit, *rest)`, in order; says how far it is.

    Each result is a file in a folder of `keep` as soon as it is there, and is read from it when the
    same command is called again: what was stopped goes on. The folder's name tells the settings
    `rest`, not the code: remove it when that changed.
    """
    folder, began = keep / named(work.__name__, *rest), time.monotonic()
    files = {edit: folder / f"{named(edit)}.pt" for edit in edits}
    missing = [edit for edit, file in files.items() if not file.exists()]
    with processes(jobs) as pool:
        done = pool.map(work, missing, *map(repeat, rest))
        for number, edit in enumerate(edits, 1):
            made = next(done) if edit in missing else None  # also if it has come there meanwhile
            result = on_disk(files[edit], lambda made=made: made)
            seconds = time.monotonic() - began
            print(f"{number}/{len(edits)} {edit.attribute}, after {seconds:.0f} s", flush=True)
            yield edit, result


@dataclass(frozen=True)
class Outcome:
    """What came of one edit in one row."""

    figures: Any  # a dataclass of numbers; `hit` among them, whether the target is read
    clip: Tensor  # [f, h, w, 3]


class Results:
    """The figures of every row, clip by clip, and the clips of the first few edits."""

    def __init__(self) -> None:
        self.figures: dict[str, list[Any]] = {}
        self.first: list[tuple[Edit, Mapping[str, Outcome]]] = []

    def add(self, edit: Edit, outcomes: Mapping[str, Outcome]) -> None:
        """Take in the rows of one more edit, and say in which of them its target is read."""
        for row, outcome in outcomes.items():
            self.figures.setdefault(row, []).append(outcome.figures)
        if len(self.first) < SHOWN:
            self.first.append((edit, outcomes))
        right = [row for row, outcome in outcomes.items() if outcome.figures.hit]
        print(f"    read right: {', '.join(right) or 'nowhere'}", flush=True)

    def values(self, row: str, figure: str) -> list[float]:
        """One figure of a row, clip by clip."""
        return [float(getattr(one, figure)) for one in self.figures[row]]

    def as_dict(self) -> dict[str, list[dict[str, Any]]]:
        return {row: [asdict(one) for one in values] for row, values in self.figures.items()}

    def save_strips(self, folder: Path) -> list[str]:
        """Write the clips that are kept as one picture into a report; lines that show it."""
        clips = {}
        for i, (edit, outcomes) in enumerate(self.first):
            clips[f"{i} source"] = edited(edit).source.clip
            clips |= {f"{i} {row}": outcome.clip for row, outcome in outcomes.items()}
        folder.mkdir(parents=True, exist_ok=True)
        save_strip(clips, folder / "strips.jpg", zoom=1)
        return [
            f"Source of each of the first {len(self.first)} edits, and each row's result, in the "
            "order of the tables:",
            "",
            "![strips](strips.jpg)",
        ]


# --- tables -------------------------------------------------------------------------------------


class Column(NamedTuple):
    """How a table shows a figure."""

    title: str
    digits: int
    factor: float = 1.0


def shown(value: Estimate, digits: int, factor: float = 1.0) -> str:
    """A mean with its standard error, as a table shows it; of a single figure there is none."""
    mean = f"{factor * value.mean:.{digits}f}"
    return mean if math.isnan(value.error) else f"{mean} ± {factor * value.error:.{digits}f}"


def change(before: Sequence[float], after: Sequence[float]) -> Estimate:
    """The mean change from one row to another, clip by clip."""
    return estimate([b - a for a, b in zip(before, after, strict=True)])


def beyond_chance(found: Estimate) -> bool:
    """Whether a mean is told from 0: by Student's t, in 19 cases out of 20."""
    return abs(found.mean) > student.ppf(0.975, found.count - 1) * found.error


def changed(found: Estimate, digits: int, factor: float = 1.0) -> str:
    """A change as a table shows it: in bold where it is `beyond_chance`."""
    told = shown(found, digits, factor)
    return f"**{told}**" if beyond_chance(found) else told


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A table, line by line."""
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]


def each(clips: Iterable[Mapping[str, Any]], figure: str) -> list[float]:
    """One figure, clip by clip."""
    return [float(one[figure]) for one in clips]


def means(columns: Mapping[str, Column], values: Callable[[str], Sequence[float]]) -> list[str]:
    """The cells of a row: the means, with their errors, of what `values` gives of each figure."""
    return [
        shown(estimate(values(figure)), column.digits, column.factor)
        for figure, column in columns.items()
    ]


def table_of(
    results: Results,
    columns: Mapping[str, Column],
    rows: Mapping[str, str],
    corner: str = "",
) -> list[str]:
    """Means over clips with standard errors; `rows` are titles by row, `columns` go by figure."""
    cells = [
        [title, *means(columns, partial(results.values, row))]
        for row, title in rows.items()
        if row in results.figures
    ]
    return markdown((corner, *(column.title for column in columns.values())), cells)


# --- reports ------------------------------------------------------------------------------------


def made(command: str) -> str:
    """With what, when and from which state of the code a table was made."""
    root = Path(__file__).resolve().parent
    commit = subprocess.run(
        ["git", "-C", str(root), "rev-parse", "--short", "HEAD"],
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    return f"Written by `{command}` on {date.today()}" + (
        f" at commit {commit}." if commit else "."
    )


def opening(title: str, edits: Sequence[Edit], split: str, run: Any) -> list[str]:
    """How a page begins: the command as it was called, and what it measured."""
    command = ["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]]
    frames = edits[0].source.frames
    settings = (f"{name.replace('_', ' ')} {value:g}" for name, value in asdict(run).items())
    return [
        f"# {title}",
        "",
        made(shlex.join(command)),
        f"{len(edits)} clips of {frames} frames from the split {split}; {', '.join(settings)}.",
        "Means with their standard errors over clips.",
    ]


def with_conclusions(page: str, file: Path) -> str:
    """A page with its conclusions, if there are any: advice first, reasons last."""
    if not file.exists():
        return page
    title, _, body = page.partition("\n\n")
    advice, _, reasons = file.read_text("utf-8").strip().partition("\n\n")
    said = f"\n\n## What it says\n\n{reasons}" if reasons else ""
    return f"{title}\n\n{advice}\n\n{body}{said}"


def write_page(folder: Path, lines: Sequence[str]) -> None:
    """The README.md of a report.

    Where somebody wrote `CONCLUSIONS.md` in the folder, its first paragraph, what a user should
    do, begins the page under its title, and the rest ends it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    page = with_conclusions("\n".join(lines).rstrip(), folder / CONCLUSIONS)
    (folder / "README.md").write_text(page + "\n", "utf-8")


def write_report(folder: Path, lines: Sequence[str], figures: Mapping[str, Any]) -> None:
    """A page and the numbers it was made from."""
    write_page(folder, lines)
    (folder / FIGURES).write_text(json.dumps(figures, indent=1) + "\n", "utf-8")
