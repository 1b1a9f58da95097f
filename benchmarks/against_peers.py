"""What a user could take instead: every method of this pack and three others on the same clips.

    python benchmarks/against_peers.py              16 clips; goes on where it was stopped
    python benchmarks/against_peers.py --clips 4 --rows DreamMotion "SDEdit, 0.6"
    python benchmarks/against_peers.py --clips 0    writes the page from what is there

The pack's methods run as their graphs ship; what their own reports hold of the same settings is
taken from there, and so are the methods for flow models, on the tiny Wan. The others are told again
in `benchmarks/peers`, with the graphs' guidance and number of sampling steps. DreamMotion,
VideoDirector and what is called masked are given a mask of the edit, all others none. Edits of
colour, shape and background, split "test".
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import distillation
import ei2
import torch
import videodirector_rows
from kept import Kept, asking, compute
from measuring import (
    FIGURES,
    Column,
    clip_of,
    each,
    latents_of,
    loaded,
    made,
    markdown,
    means,
    prompts_of,
    shipped,
    still_prompts_of,
    write_page,
)
from peers.plain import invert_and_denoise, noise_and_denoise
from peers.token_propagation import edit_by_propagation
from rescore.pipelines.tuning.tuned_edit import invert_and_edit
from rescore.shapeworld.edits import Edit, edited, suite
from rescore.shapeworld.score import estimate, score
from torch import Tensor

REPORT = Path(__file__).resolve().parent / "peers_report"
COLUMNS = {
    "hit": Column("target read, %", 0, 100),
    "psnr_edit": Column("PSNR to the truth inside, dB", 1),
    "psnr_keep": Column("PSNR outside the edit, dB", 1),
    "contamination": Column("change outside the object, x 1000", 1, 1000),
    "flicker": Column("flicker, x 1000", 1, 1000),
    "iou": Column("IoU of the object, %", 0, 100),
    "kept": Column("other attributes kept, %", 0, 100),
}
Figures: TypeAlias = Mapping[str, float]  # of one row and clip, by `COLUMNS`


@dataclass(frozen=True)
class Run:
    """What the peers share with the graphs: guidance of the loops, and how long sampling is."""

    cfg: float = shipped("dreammotion", "ScoreDistillation", "cfg")
    steps: int = shipped("videodirector", "DDIMInversion", "steps")


def runs_of_methods() -> dict[str, Any]:
    """The settings of the pack's own methods, by the names that tables of several give them."""
    return {
        "loops": distillation.Run(),
        "ei2": ei2.Run(),
        "videodirector": videodirector_rows.Run(),
    }


def given(edit: Edit):
    """The latents, the model and the prompts of a peer on the video model."""
    model, truth = loaded(distillation.MODEL), edited(edit)
    prompts = prompts_of(model, truth.source_prompt, truth.target_prompt)
    return latents_of(model, truth.source.clip), model.denoiser, prompts


def sdedit(strength: float, edit: Edit, run: Run) -> Tensor:
    settings = {"strength": strength, "steps": run.steps, "cfg": run.cfg}
    return clip_of(loaded(distillation.MODEL), noise_and_denoise(*given(edit), **settings))


def inversion(edit: Edit, run: Run) -> Tensor:
    z = invert_and_denoise(*given(edit), steps=run.steps, cfg=run.cfg)
    return clip_of(loaded(distillation.MODEL), z)


def token_flow(edit: Edit, run: Run) -> Tensor:
    model = loaded(ei2.MODEL)
    z_0, prompts = latents_of(model, edited(edit).source.clip), still_prompts_of(model, edit)
    cfg = ei2.Run().cfg  # what the graph of the same model has
    z = edit_by_propagation(z_0, model.denoiser, prompts, steps=run.steps, cfg=cfg)
    return clip_of(model, z)


def distilled(row: str, edit: Edit, _: Run) -> Tensor:
    z = distillation.edit_once(distillation.ROWS[row], edit, distillation.Run())
    return clip_of(loaded(distillation.MODEL), z)


def videodirector(edit: Edit, _: Run) -> Tensor:
    clip = videodirector_rows.Clip(edit, videodirector_rows.Run())
    controls, base = videodirector_rows.EDITS["full"]
    return clip.edited(controls, clip.null_text(*videodirector_rows.LADDER[base]))


def tuned(row: str, edit: Edit, _: Run) -> Tensor:
    run, (z_0, prompts) = ei2.Run(), ei2.given(edit)
    with torch.enable_grad():
        (model,) = ei2.tuned(ei2.inflated(row), z_0, prompts, run, (run.steps,))
    settings = {"steps": run.sampling, "cfg": run.cfg, "describe": True}
    return clip_of(model, invert_and_edit(z_0, model.denoiser, prompts, **settings))


ROWS = {
    "SDEdit, 0.4": partial(sdedit, 0.4),
    "SDEdit, 0.6": partial(sdedit, 0.6),
    "SDEdit, 0.8": partial(sdedit, 0.8),
    "DDIM inversion": inversion,
    "TokenFlow-like": token_flow,
    "DDS": partial(distilled, "DDS"),
    "DDS, masked": partial(distilled, "+ mask"),
    "DreamMotion": partial(distilled, "+ T-SSM"),
    "ASSD": partial(distilled, "ASSD + fusion + joint"),
    "Flow-enhanced": partial(distilled, "+ consistency"),
    "VideoDirector": videodirector,
    "Tune-A-Video": partial(tuned, "tune-a-video"),
    "EI2": partial(tuned, "ei2"),
}
PEERS = tuple(ROWS)[:5]
# What can be had on a flow model, by the rows of its report.
ON_WAN = {
    "delta denoising": "delta denoising, eta 0.25",
    "with flow smoothing": "+ flow smoothing",
    "masked": "+ mask",
    **{
        name: name
        for name in (
            "FlowEdit", "Wan-Edit", "DRFS", "FlowAlign", "DFVEdit", "FlowDirector", "DynaEdit"
        )
    },
}  # fmt: skip
OTHERS = {*PEERS, *list(ON_WAN)[3:]}  # squares in the picture
# Where else the same is measured: the folder of the report, its row, and the settings it must have.
ELSEWHERE = {
    "DDS": ("distillation_report", "DDS", distillation.Run()),
    "DDS, masked": ("distillation_report", "+ mask", distillation.Run()),
    "DreamMotion": ("distillation_report", "+ T-SSM", distillation.Run()),
    "ASSD": ("distillation_report", "ASSD + fusion + joint", distillation.Run()),
    "Flow-enhanced": ("distillation_report", "+ consistency", distillation.Run()),
    "VideoDirector": ("videodirector_report", "full", videodirector_rows.Run()),
    "Tune-A-Video": ("ei2_report", "tune-a-video", ei2.Run()),
    "EI2": ("ei2_report", "ei2", ei2.Run()),
}


def measured(row: str, clip: int) -> dict[str, float]:
    """The figures of one way of editing on one clip."""
    edit = suite("edits", clip + 1)[clip]
    # Null-text has a graph, which inference tensors cannot be part of.
    with torch.no_grad():
        scores = score(ROWS[row](edit, Run()).clamp(0, 1), edit)
    return {name: float(getattr(scores, name)) for name in COLUMNS}


def take_over(kept: Kept, reports: Path = REPORT.parent) -> None:
    """The figures that the methods' own reports hold, of those clips that are missing here."""
    for row, (folder, name, run) in ELSEWHERE.items():
        found = json.loads((reports / folder / FIGURES).read_text("utf-8"))
        clips = found["edits"].get(name, []) if found["settings"] == asdict(run) else []
        for _, clip in kept.missing((row, clip) for clip in range(len(clips))):
            kept.add(row, clip, {column: float(clips[clip][column]) for column in COLUMNS})


def on_wan(reports: Path = REPORT.parent) -> dict[str, list[Figures]]:
    """The figures that the report on flow models holds, clip by clip."""
    found = json.loads((reports / "flow_models_report" / FIGURES).read_text("utf-8"))["edits"]
    return {row: found[name] for row, name in ON_WAN.items()}


def table(rows: Mapping[str, Sequence[Figures]]) -> list[str]:
    """A line a row: means with their standard errors over clips."""
    cells = [(row, *means(COLUMNS, partial(each, clips))) for row, clips in rows.items()]
    return markdown(("", *(column.title for column in COLUMNS.values())), cells)


def draw(panels: Mapping[str, Mapping[str, Sequence[Figures]]], file: Path) -> None:
    """Keeping against editing: a point a row, with the standard errors over clips."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    picture, axes = pyplot.subplots(1, len(panels), figsize=(8 * len(panels), 5))
    for panel, (title, rows) in zip(axes, panels.items(), strict=True):
        points = {}
        for row, clips in rows.items():
            x, y = (estimate(each(clips, figure)) for figure in ("psnr_keep", "psnr_edit"))
            mark = "s" if row in OTHERS else "o"
            panel.errorbar(x.mean, y.mean, y.error, x.error, fmt=mark, alpha=0.8, elinewidth=0.6)
            points[row] = x.mean, y.mean
        for row, (x, y) in points.items():
            # Names do not cover the points beside them, nor one another.
            near = [(a, b) for a, b in points.values() if abs(a - x) < 1.2 and abs(b - y) < 0.49]
            left = any(a > x and abs(b - y) < 0.3 for a, b in near)
            place = (-6 if left else 6, 3 - 9 * sum(b > y for _, b in near))
            side = "right" if left else "left"
            panel.annotate(row, (x, y), place, textcoords="offset points", ha=side, fontsize=8)
        panel.margins(0.12)
        panel.set(
            title=title,
            xlabel="keeping: PSNR outside the edit, dB",
            ylabel="editing: PSNR to the truth inside, dB",
        )
    picture.tight_layout()
    picture.savefig(file, dpi=90)
    pyplot.close(picture)


def report(kept: Kept) -> list[str]:
    """The page, from what is there."""
    rows = [row for row in ROWS if row in kept.figures]
    clips = kept.shared(rows)
    here = {row: [kept.figures[row][clip] for clip in clips] for row in rows}
    wan = on_wan()
    panels = {"tiny text-to-video and image models, 8 frames": here, "tiny Wan, 9 frames": wan}
    draw(panels, REPORT / "keeping_and_editing.png")
    return [
        "# Every method beside what a user could take instead",
        "",
        made("python benchmarks/against_peers.py"),
        f"{len(clips)} clips of 8 frames of the split test; means with their standard errors.",
        "",
        *table(here),
        "",
        "On a flow model, the tiny Wan, edits of the same kinds in clips of 9 frames. Model and "
        "autoencoder are others, so that rows compare within a table alone "
        "([all of them](../flow_models_report/README.md)):",
        "",
        *table(wan),
        "",
        "Squares are other people's methods, circles delta denoising and the five papers':",
        "",
        "![keeping against editing](keeping_and_editing.png)",
    ]


def main() -> None:
    parser = asking(__doc__, clips=16)
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    runs = {"peers": Run(), **runs_of_methods()}
    kept = Kept(REPORT / "figures.json", {name: asdict(run) for name, run in runs.items()})
    take_over(kept)
    tasks = [(row, clip) for clip in range(options.clips) for row in options.rows]
    compute(kept, measured, tasks, jobs=options.jobs)
    write_page(REPORT, report(kept))


if __name__ == "__main__":
    main()
