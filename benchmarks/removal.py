"""Removing an object and adding one, with the exact truth beside it.

python benchmarks/removal.py            16 clips of the shape world, each with a second object
python benchmarks/removal.py --report   also writes benchmarks/removal_report

Each row is a task with the settings of a graph, its own or the other's. Settings were chosen on the
eight scenes that come after those that are reported.
"""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from einops import rearrange
from measuring import (
    Column,
    Outcome,
    Results,
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
from rescore.pipelines.models.wan.model import WanModel
from rescore.shapeworld.edits import prompts, second_object
from rescore.shapeworld.scene import Scene, caption
from rescore.shapeworld.score import flicker, psnr

REPORT = Path(__file__).resolve().parent / "removal_report"
MODEL = "shapeworld-wan"
GRAPHS = {"remove": "remove_object", "add": "add_object"}
_SETTINGS = ("steps", "step_size", "cfg", "t_min", "t_max", "order")


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


def settings_of(task: str) -> Settings:
    """Those of the shipped graph."""
    named = {name: shipped(GRAPHS[task], "ScoreDistillation", name) for name in _SETTINGS}
    return Settings(**named)


def term_of(task: str) -> DeltaDenoising:
    """That of the shipped graph."""
    named = {name: shipped(GRAPHS[task], "DeltaDenoising", name) for name in ("weighting", "eta")}
    return DeltaDenoising(**named)


@torch.inference_mode()
def all_rows(scene: Scene) -> dict[str, Outcome]:
    """Every row's figures of one scene, and its clip."""
    return {name: _one(scene, row) for name, row in ROWS.items()}


def _one(scene: Scene, row: Row) -> Outcome:
    model, both = loaded(MODEL), second_object(scene)
    source, target = both.present, both.absent
    if row.task == "add":
        source, target = target, source
    size = tuple(source.clip.shape[1:3])
    z = model.latents_in(model.encode_clip(rearrange(source.clip, "f h w c -> 1 c f h w")))
    mask = (grow(both.change.float(), 3) > 0).float() if row.masked else None
    edited = distil(
        z,
        [Weighted(term_of(row.settings))],
        model.denoiser,
        prompts_of(model, source.caption, target.caption),
        settings_of(row.settings),
        mask=mask,
        grid=ClipGrid(
            tuple(z.shape[2:]), size, model.vae_factor, model.vae_stride, pictures=len(source.clip)
        ),
    ).z
    clip, before = (_decoded(model, latents, source.clip) for latents in (edited, z))
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


def _decoded(model: WanModel, z: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
    """The clip of latents, at the size of the source's."""
    frames, *size = source.shape[:3]
    clip = model.decode_clip(model.latents_out(z), size=tuple(size), frames=frames)
    return rearrange(clip, "1 c f h w -> f h w c")


def _outside(clip: torch.Tensor, source: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The clip with the source's pixels where the mask is black, as Edited Video makes it."""
    both = (frames.permute(3, 0, 1, 2)[None] for frames in (clip, source))
    return kept_outside(*both, mask)[0].permute(1, 2, 3, 0)


def _strips(scene: Scene, outcomes: Mapping[str, Outcome]) -> None:
    both = second_object(scene)
    clips = {"with": both.present.clip, "without": both.absent.clip}
    REPORT.mkdir(exist_ok=True)
    save_strip(clips | {row: one.clip for row, one in outcomes.items()}, REPORT / "strips.png")


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
    used = {name: settings_of(name) for name in GRAPHS}
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
        "![strips](strips.png)",
    ]
    settings = {
        task: {name: getattr(value, name) for name in _SETTINGS} for task, value in used.items()
    }
    write_report(REPORT, page, {"settings": settings, "edits": results.as_dict()})


if __name__ == "__main__":
    main()
