"""Removing an object and adding one, with the exact truth beside it.

python benchmarks/removal.py            16 clips of the shape world, each with a second object
python benchmarks/removal.py --report   also writes benchmarks/removal_report

Each row is a task with the settings of a graph, its own or the other's. Settings were chosen on the
eight scenes that come after those that are reported.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from measuring import (
    Column,
    Outcome,
    Results,
    clip_of,
    latents_of,
    loaded,
    made,
    prompts_of,
    shipped,
    table_of,
    write_report,
)
from rescore.headless.demo import save_strip
from rescore.pipelines.distillation.delta_denoising import DeltaDenoising
from rescore.pipelines.distillation.score_distillation import Settings, distil
from rescore.pipelines.distillation.terms import Weighted
from rescore.pipelines.masks.restoration import kept_outside
from rescore.pipelines.masks.shapes import grow
from rescore.pipelines.models.grid import ClipGrid
from rescore.shapeworld.edits import prompts, second_object
from rescore.shapeworld.scene import Scene, caption
from rescore.shapeworld.score import flicker, psnr

REPORT = Path(__file__).resolve().parent / "removal_report"
MODEL = "shapeworld-wan"
GRAPHS = {"remove": "remove_object", "add": "add_object"}
_SETTINGS = ("steps", "step_size", "cfg", "t_min", "t_max", "order")
_OF_THE_TERM = ("weighting", "eta")


@dataclass(frozen=True)
class Row:
    """A task, whose settings it is done with, and whether within a mask."""

    title: str
    task: str
    settings: str
    masked: bool = True


ROWS = {
    "remove": Row("remove", "remove", "remove"),
    "remove, free": Row("remove, without a mask", "remove", "remove", masked=False),
    "remove, as add": Row("remove, with the settings of adding", "remove", "add"),
    "add": Row("add", "add", "add"),
    "add, as remove": Row("add, with the settings of removing", "add", "remove"),
}
COLUMNS = {
    "hit": Column("nearer to the truth than to the clip, %", 0, 100),
    "psnr_before": Column("PSNR to the truth before, dB", 1),
    "psnr_edit": Column("after, dB", 1),
    "psnr_keep": Column("PSNR outside the object, dB", 1),
    "flicker": Column("flicker, x 1000", 1, 1000),
}


@dataclass(frozen=True)
class Figures:
    """What came of one clip; PSNRs where the second object changes it, or where it does not."""

    hit: bool
    psnr_before: float
    psnr_edit: float
    psnr_keep: float
    flicker: float


def _shipped(task: str, node: str, names: Sequence[str]) -> dict[str, Any]:
    """What a node of a task's graph has in these inputs."""
    return {name: shipped(GRAPHS[task], node, name) for name in names}


@torch.inference_mode()
def all_rows(scene: Scene) -> dict[str, Outcome]:
    """Every row's figures of one scene, and its clip."""
    return {name: _one(scene, row) for name, row in ROWS.items()}


def _one(scene: Scene, row: Row) -> Outcome:
    model, both = loaded(MODEL), second_object(scene)
    source, target = both.present, both.absent
    if row.task == "add":
        source, target = target, source
    frames, *size = source.clip.shape[:3]
    z = latents_of(model, source.clip)
    mask = (grow(both.change.float(), 3) > 0).float() if row.masked else None
    edited = distil(
        z,
        [Weighted(DeltaDenoising(**_shipped(row.settings, "DeltaDenoising", _OF_THE_TERM)))],
        model.denoiser,
        prompts_of(model, source.caption, target.caption),
        Settings(**_shipped(row.settings, "ScoreDistillation", _SETTINGS)),
        mask=mask,
        grid=ClipGrid(
            tuple(z.shape[2:]), tuple(size), model.vae_factor, model.vae_stride, pictures=frames
        ),
    ).z
    clip, before = (clip_of(model, latents, frames) for latents in (edited, z))
    if mask is not None:
        clip, before = (_outside(made, source.clip, mask) for made in (clip, before))
    where, keep = both.change, ~both.change
    after = psnr(clip, target.clip, where)
    figures = Figures(
        hit=after > psnr(clip, source.clip, where),
        psnr_before=psnr(before, target.clip, where),
        psnr_edit=after,
        psnr_keep=psnr(clip, source.clip, keep),
        flicker=flicker(clip, target),
    )
    return Outcome(figures, clip)


def _outside(clip: torch.Tensor, source: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The clip with the source's pixels where the mask is black, as Edited Video makes it."""
    both = (frames.permute(3, 0, 1, 2)[None] for frames in (clip, source))
    return kept_outside(*both, mask)[0].permute(1, 2, 3, 0)


def _strips(scene: Scene, outcomes: Mapping[str, Outcome]) -> None:
    both = second_object(scene)
    clips = {"with": both.present.clip, "without": both.absent.clip}
    REPORT.mkdir(exist_ok=True)
    save_strip(clips | {row: one.clip for row, one in outcomes.items()}, REPORT / "strips.jpg")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--clips", type=int, default=16)
    parser.add_argument("--report", action="store_true", help=f"write {REPORT.name}")
    options = parser.parse_args()
    torch.set_num_threads(1)
    scenes, results = prompts(options.clips, second=True), Results()
    for number, scene in enumerate(scenes, 1):
        outcomes = all_rows(scene)
        print(f"{number}/{len(scenes)} {caption(scene)}", flush=True)
        for row, outcome in outcomes.items():
            results.figures.setdefault(row, []).append(outcome.figures)
            print(f"    {row}: {outcome.figures}", flush=True)
        if options.report and number == 1:
            _strips(scene, outcomes)
    table = table_of(results, COLUMNS, {name: row.title for name, row in ROWS.items()}, "task")
    print("\n".join(table))
    if not options.report:
        return
    page = [
        "# Removing an object and adding one",
        "",
        made("python benchmarks/removal.py --report"),
        f"{len(scenes)} clips of 8 frames with a second object, held out; delta denoising by "
        f"`{MODEL}` with the settings of the graphs `remove_object` and `add_object`, within a "
        "mask 3 pixels wider than the object. PSNR to the truth where the object changes the clip, "
        "and to the clip outside the object. With a mask the clip's own pixels are put back where "
        "it is black: all that differs outside the object lies in these 3 pixels around it.",
        "",
        *table,
        "",
        "The clip with the object, without it, and the rows in the order of the table:",
        "",
        "![strips](strips.jpg)",
    ]
    settings = {
        task: _shipped(task, "ScoreDistillation", _SETTINGS)
        | _shipped(task, "DeltaDenoising", _OF_THE_TERM)
        for task in GRAPHS
    }
    write_report(REPORT, page, {"settings": settings, "edits": results.as_dict()})


if __name__ == "__main__":
    main()
