"""Delta denoising and its kind on a flow model: the rules of several papers on one loop.

    python benchmarks/flow_models.py              16 clips, every row of the table, and the rest
    python benchmarks/flow_models.py --quick      3 clips
    python benchmarks/flow_models.py --part eta   keeping against editing over eta and cfg
                                                  (or table, or strength: what the slider does)
    python benchmarks/flow_models.py --report     also writes benchmarks/flow_models_report

Edits of colour, shape and background on shapeworld-wan, the same seed in every row; one thread.
Every edit is kept in runs/flow_models as soon as it is made, and not made again by a later call.
The table is of the split "test"; eta and cfg are compared on the split "tune".
"""

import argparse
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import mean

import torch
from flow_models_rows import (
    ADDED,
    CFGS,
    ETAS,
    FRAMES,
    GRID,
    MODEL,
    Method,
    Run,
    Truth,
    methods_of,
    of_eta,
    of_strength,
    terms_of,
)
from kept import RUNS, named, on_disk
from measuring import (
    Column,
    Outcome,
    Results,
    change,
    clip_of,
    latents_of,
    loaded,
    markdown,
    opening,
    prompts_of,
    shown,
    table_of,
    write_report,
)
from rescore.pipelines.distillation.score_distillation import distil
from rescore.pipelines.models.denoiser import Denoiser
from rescore.shapeworld.edits import Edit, edited, suite
from rescore.shapeworld.score import Scores, score
from torch import Tensor

REPORT = Path(__file__).resolve().parent / "flow_models_report"
PARTS = ("table", "eta", "strength")
KEPT = RUNS / "flow_models"
COLUMNS = {
    "hit": Column("target read, %", 0, 100),
    "psnr_edit": Column("PSNR to the truth inside, dB", 1),
    "psnr_keep": Column("PSNR to the source elsewhere, dB", 1),
    "contamination": Column("change outside the object, x 1000", 1, 1000),
    "flicker": Column("flicker, x 1000", 1, 1000),
    "kept": Column("other attributes kept, %", 0, 100),
    "calls": Column("clips through the model", 0),
    "seconds": Column("processor seconds", 1),
}


@dataclass(frozen=True)
class Figures(Scores):
    """The figures of one edit, and what it cost."""

    calls: int  # clips that went through the model
    seconds: float  # of the processor, for the loop alone


class Counted:
    """A denoiser that counts the clips that go through it."""

    def __init__(self, denoiser: Denoiser) -> None:
        self.inner, self.clips = denoiser.output, 0
        self.denoiser = replace(denoiser, output=self)

    def __call__(self, z: Tensor, t: float, cond: Tensor) -> Tensor:
        self.clips += len(z)
        return self.inner(z, t, cond)


@torch.inference_mode()
def outcome(edit: Edit, method: Method | Truth | None, run: Run) -> Outcome:
    """What a method makes of an edit; without one, what the autoencoder alone does."""
    model, truth = loaded(MODEL), edited(edit)
    begins = truth.target if isinstance(method, Truth) else truth.source
    z = latents_of(model, begins.clip)
    counted, seconds = Counted(model.denoiser), 0.0
    if isinstance(method, Method):
        terms = terms_of(method, edit, run)
        began = time.process_time()
        z = distil(
            z,
            terms,
            counted.denoiser,
            prompts_of(model, truth.source_prompt, truth.target_prompt),
            method.settings,
            mask=truth.paint.float() if "mask" in method.parts else None,
            grid=GRID,
        ).z
        seconds = time.process_time() - began
    made = clip_of(model, z)
    figures = Figures(**vars(score(made, edit)), calls=counted.clips, seconds=seconds)
    return Outcome(figures, made)


def kept_outcome(edit: Edit, method: Method | Truth | None, run: Run) -> Outcome:
    """The same, from the disk where it has been made before."""
    needs_run = isinstance(method, Method) and method.parts
    file = KEPT / f"{named(edit, method, run if needs_run else None)}.pt"
    return on_disk(file, lambda: outcome(edit, method, run))


def over_rows(
    edits: Sequence[Edit], methods: Mapping[str, Method | Truth | None], run: Run
) -> Results:
    """All rows of all edits, one after the other."""
    results, began = Results(), time.monotonic()
    for number, edit in enumerate(edits, 1):
        results.add(edit, {row: kept_outcome(edit, m, run) for row, m in methods.items()})
        seconds = time.monotonic() - began
        print(f"{number}/{len(edits)} {edit.attribute}, after {seconds:.0f} s", flush=True)
    return results


def plot(results: Results, file: Path) -> None:
    """Keeping against editing: a line for each eta, a point for each cfg."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    _, axes = pyplot.subplots(figsize=(7, 4.5))
    for name in ETAS:
        rows = [f"eta {name}, cfg {cfg:g}" for cfg in CFGS]
        points = [
            [mean(results.values(row, figure)) for row in rows]
            for figure in ("psnr_keep", "psnr_edit")
        ]
        axes.plot(*points, marker="o", label=f"eta {name}")
        for cfg, x, y in zip(CFGS, *points, strict=True):
            axes.annotate(f"{cfg:g}", (x, y), textcoords="offset points", xytext=(4, 4))
    axes.set(
        xlabel="keeping: PSNR to the source outside the edit, dB",
        ylabel="editing: PSNR to the truth inside, dB",
        title="Eta by colour, cfg at the points",
    )
    axes.legend()
    file.parent.mkdir(parents=True, exist_ok=True)
    pyplot.savefig(file, dpi=90, bbox_inches="tight")


def gains(results: Results, base: str, rows: Sequence[str]) -> list[str]:
    """What each part changes, against the row it was added to, clip by clip."""
    cells = [
        (
            row,
            *(
                shown(
                    change(results.values(base, figure), results.values(row, figure)),
                    column.digits,
                    column.factor,
                )
                for figure, column in COLUMNS.items()
            ),
        )
        for row in rows
    ]
    return markdown(("change by", *(column.title for column in COLUMNS.values())), cells)


def by_kind(results: Results, edits: Sequence[Edit]) -> list[str]:
    """The PSNR inside for each kind of edit: what can be known of the truth differs."""
    kinds = list(dict.fromkeys(edit.attribute for edit in edits))
    rows = []
    for row in results.figures:
        values = list(zip(edits, results.values(row, "psnr_edit"), strict=True))
        means = (mean(value for edit, value in values if edit.attribute == kind) for kind in kinds)
        rows.append((row, *(f"{value:.1f}" for value in means)))
    return markdown(("PSNR to the truth inside, dB", *kinds), rows)


def options_of(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--clips", type=int, default=16, help="of the table")
    parser.add_argument("--tune-clips", type=int, default=6, help="of the other parts")
    parser.add_argument("--quick", action="store_true", help="3 clips in every part")
    parser.add_argument("--part", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--rows", nargs="+", choices=list(methods_of(Run())), help="of the table")
    parser.add_argument("--report", action="store_true", help=f"write {REPORT.name}")
    options = parser.parse_args(arguments)
    if options.quick:
        options.clips = options.tune_clips = 3
    return options


def main() -> None:
    options, run = options_of(), Run()
    torch.set_num_threads(1)
    edits = suite("edits", options.clips, frames=FRAMES)
    tuned = suite("edits", options.tune_clips, frames=FRAMES, split="tune")
    page = [*opening("Delta denoising on a flow model", edits, "test", run), ""]
    figures = {"settings": asdict(run)}
    if "table" in options.part:
        methods = methods_of(run)
        methods = {row: methods[row] for row in methods if row in (options.rows or methods)}
        results = over_rows(edits, methods, run)
        page += [*table_of(results, COLUMNS, {row: row for row in methods}), ""]
        page += [*by_kind(results, edits), ""]
        for base, rows in ADDED.items():
            if {base, *rows} <= set(methods):
                page += [*gains(results, base, rows), ""]
        if options.report:
            results.first = results.first[:1]  # there are many rows
            page += [*results.save_strips(REPORT), ""]
        figures["edits"] = results.as_dict()
    for part, title, methods in (
        ("eta", "Eta and cfg", of_eta(run)),
        ("strength", "*Edit Strength*", of_strength(run)),
    ):
        if part not in options.part:
            continue
        results = over_rows(tuned, methods, run)
        page += [f"{title}, over {len(tuned)} clips of the split tune:", ""]
        page += [*table_of(results, COLUMNS, {row: row for row in methods}), ""]
        figures[part] = results.as_dict()
        if part == "eta" and options.report:
            plot(results, REPORT / "eta_and_cfg.png")
            page += ["![keeping against editing](eta_and_cfg.png)", ""]
    print("\n".join(page))
    if options.report:
        write_report(REPORT, page, figures)


if __name__ == "__main__":
    main()
