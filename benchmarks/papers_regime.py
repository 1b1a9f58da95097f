"""What adds up over a long run: every part of score distillation at 10, 30, 60, 100 and 200 steps.

    python benchmarks/papers_regime.py                      16 clips, all groups; goes on where it
                                                            was stopped
    python benchmarks/papers_regime.py --groups DreamMotion --rows DDS "+ mask" --clips 6
    python benchmarks/papers_regime.py --clips 0            writes the page from what is there

A row is one run of 200 steps a clip, read off on its way. DreamMotion has its paper's step size and
guidance (0.4, 9), ASSD its paper's step size (0.1; it names no guidance: 9, too), the flow-enhanced
method those of its graph; all weights are those of the shipped graphs. Edits of colour, shape and
background on shapeworld-t2v, split "test", the same draws in every row.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import lru_cache, partial
from pathlib import Path

import torch
from distillation import COLUMNS, GROUPS, INSIDE, MODEL, Run, edit_once
from kept import Kept, asking, compute
from measuring import (
    BOLD,
    change,
    changed,
    clip_of,
    loaded,
    made,
    markdown,
    means,
    write_page,
)
from remembering import remembering
from rescore.pipelines.distillation.score_distillation import Progress
from rescore.pipelines.distillation.settings import Settings
from rescore.pipelines.models.denoiser import Denoiser
from rescore.pipelines.models.process import Latents
from rescore.shapeworld.edits import Edit, suite
from rescore.shapeworld.score import estimate, score

REPORT = Path(__file__).resolve().parent / "papers_regime_report"
FILE = REPORT / "figures.json"
TUNE = REPORT / "figures_tune.json"  # of the split tune, from when weights were chosen
READ_AT = (10, 30, 60, 100, 200)
PAPER = Settings()  # DreamMotion's, Sec. 4
# At the paper's step size the graph's weight of T-SSM overshoots: a step reaches as far as there.
REACH = Run().step_size / PAPER.step_size
REGIMES = {
    "DreamMotion": Run(PAPER.steps, PAPER.step_size, PAPER.cfg, temporal=REACH * Run().temporal),
    "ASSD": Run(PAPER.steps, 0.1, PAPER.cfg, joint=1.0),  # both models count alike (Eq. 15)
    "Flow-enhanced": Run(PAPER.steps),
}
TOLD = {"DreamMotion": ("spatial", "temporal"), "ASSD": ("joint",)}  # settings beside these
# Of a paper's claim: its group, the row without and the row with, and the figure it is about.
CLAIMS = (
    ("DreamMotion: the mask keeps the rest (Sec. 3.1)", "DreamMotion",
     "DDS", "+ mask", "contamination"),
    ("DreamMotion: S-SSM keeps the structure (Fig. 9)", "DreamMotion", "+ mask", "+ S-SSM", "iou"),
    ("and what the edit costs for it", "DreamMotion", "+ mask", "+ S-SSM", "psnr_edit"),
    ("and the rest", "DreamMotion", "+ mask", "+ S-SSM", "contamination"),
    ("DreamMotion: T-SSM smooths the motion (Fig. 9)", "DreamMotion",
     "+ S-SSM", "+ T-SSM", "flicker"),
    ("ASSD: the window contaminates less (Fig. 5)", "ASSD", "DDS", "ASSD", "contamination"),
    ("ASSD: fusion contaminates less still (Fig. 5)", "ASSD",
     "ASSD", "ASSD + fusion", "contamination"),
    ("ASSD: both together", "ASSD", "DDS", "ASSD + fusion", "contamination"),
    ("what the window does to flicker", "ASSD", "DDS", "ASSD", "flicker"),
    ("and fusion", "ASSD", "ASSD", "ASSD + fusion", "flicker"),
    ("ASSD: the image model contaminates less still (Fig. 5)", "ASSD",
     "ASSD + fusion", "ASSD + fusion + joint", "contamination"),
    ("ASSD: the image model adds detail (Fig. 5)", "ASSD",
     "ASSD + fusion", "ASSD + fusion + joint", "psnr_edit"),
    ("Flow-enhanced: smoothing along the flow cuts flicker", "Flow-enhanced",
     "DDS", "+ flow smoothing", "flicker"),
    ("Flow-enhanced: preservation keeps the rest", "Flow-enhanced",
     "+ flow smoothing", "+ preservation", "contamination"),
    ("Flow-enhanced: global consistency cuts flicker", "Flow-enhanced",
     "+ preservation", "+ consistency", "flicker"),
)  # fmt: skip


@lru_cache(maxsize=1)
def model_for(clip: int) -> Denoiser:
    """The model, which remembers of a clip what it said of the source: all rows ask the same."""
    return remembering(loaded(MODEL).denoiser)


@torch.inference_mode()
def read_off(name: str, clip: int) -> dict[int, dict[str, float]]:
    """The figures of one row on one clip, by the number of steps."""
    group, row = name.split(": ")
    parts, edit = GROUPS[group][row], suite("edits", clip + 1)[clip]
    video = model_for(clip) if INSIDE.isdisjoint(parts) else None
    found = {}

    def look(progress: Progress) -> None:
        if progress.step in READ_AT:
            found[progress.step] = figures_of(progress.z, edit)

    z = edit_once(parts, edit, REGIMES[group], video=video, on_step=look)
    return found or dict.fromkeys(READ_AT, figures_of(z, edit))


def figures_of(z: Latents, edit: Edit) -> dict[str, float]:
    scores = score(clip_of(loaded(MODEL), z), edit)
    return {name: float(getattr(scores, name)) for name in COLUMNS}


def values(kept: Kept, name: str, clips: Sequence[str], steps: int, figure: str) -> list[float]:
    return [kept.figures[name][clip][str(steps)][figure] for clip in clips]


def table(kept: Kept, group: str, rows: Sequence[str], clips: Sequence[str]) -> list[str]:
    """Means with their standard errors, row by row and by the number of steps."""
    cells = []
    for row in rows:
        there = list(kept.figures[f"{group}: {row}"][clips[0]])
        for steps in there if row != "no edit" else there[-1:]:
            found = means(COLUMNS, partial(values, kept, f"{group}: {row}", clips, int(steps)))
            cells.append((row, steps if row != "no edit" else "", *found))
    return markdown((group, "steps", *(column.title for column in COLUMNS.values())), cells)


def claims(kept: Kept, groups: Mapping[str, Sequence[str]]) -> list[str]:
    """What the papers say, and the change from row to row, clip by clip, at 30 and 200 steps."""
    cells = []
    for claim, group, without, having, figure in CLAIMS:
        names = [f"{group}: {row}" for row in (without, having)]
        clips = kept.shared(names)
        if group not in groups or len(clips) < 2:  # of one clip there is no error
            continue
        column, cell = COLUMNS[figure], [claim, COLUMNS[figure].title, str(len(clips))]
        for steps in (30, 200):
            both = (values(kept, name, clips, steps, figure) for name in names)
            cell.append(changed(change(*both), column.digits, column.factor))
        cells.append(cell)
    return markdown(("the paper", "figure", "clips", "change, 30 steps", "200 steps"), cells)


def drift(kept: Kept, group: str, rows: Sequence[str]) -> list[str]:
    """What adds up from 30 to 200 steps, clip by clip (DreamMotion, Fig. 3)."""
    cells = []
    for row in rows:
        name = f"{group}: {row}"
        clips = kept.shared([name])
        if row == "no edit" or len(clips) < 2:  # of one clip there is no error
            continue
        found = (
            changed(
                change(*(values(kept, name, clips, steps, figure) for steps in (30, 200))),
                column.digits,
                column.factor,
            )
            for figure, column in COLUMNS.items()
        )
        cells.append((row, str(len(clips)), *found))
    return markdown((group, "clips", *(column.title for column in COLUMNS.values())), cells)


def draw(kept: Kept, groups: Mapping[str, Sequence[str]], file: Path) -> None:
    """One line a row, against steps: a panel for each figure and group."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figures = [figure for figure in COLUMNS if figure != "kept"]
    size = 3.2 * len(figures), 3 * len(groups)
    picture, panels = pyplot.subplots(len(groups), len(figures), figsize=size, squeeze=False)
    for line, (group, rows) in zip(panels, groups.items(), strict=True):
        clips = kept.shared([f"{group}: {row}" for row in rows])
        for panel, figure in zip(line, figures, strict=True):
            column = COLUMNS[figure]
            for row in rows:
                means = [
                    column.factor * estimate(values(kept, f"{group}: {row}", clips, n, figure)).mean
                    for n in READ_AT
                ]
                style = ":" if row == "no edit" else "-"
                panel.plot(READ_AT, means, style, marker=".", label=row)
            panel.set_title(f"{group}: {column.title}", fontsize=8)
            panel.set_xlabel("steps", fontsize=7)
            panel.tick_params(labelsize=7)
        line[0].legend(fontsize=6)
    picture.tight_layout()
    picture.savefig(file, dpi=80)
    pyplot.close(picture)


def report(kept: Kept) -> list[str]:
    """The page, from what is there."""
    groups = {
        group: [row for row in rows if f"{group}: {row}" in kept.figures]
        for group, rows in GROUPS.items()
    }
    groups = {group: rows for group, rows in groups.items() if len(rows) > 1}
    lines = []
    for group, rows in groups.items():
        run, clips = REGIMES[group], kept.shared([f"{group}: {row}" for row in rows])
        names = ("step_size", "cfg", *TOLD.get(group, ()))
        settings = ", ".join(f"{name.replace('_', ' ')} {getattr(run, name):g}" for name in names)
        lines += [
            f"## {group}",
            "",
            f"{counted(clips)}; {settings}.",
            "",
            *table(kept, group, rows, clips),
            "",
        ]
    draw(kept, groups, REPORT / "curves.png")
    return [
        "# Score distillation in the papers' own regime",
        "",
        made("python benchmarks/papers_regime.py"),
        "Means with their standard errors over clips of 8 frames of the split test.",
        BOLD,
        "",
        "![figures against steps](curves.png)",
        "",
        "## The papers' claims",
        "",
        *claims(kept, groups),
        "",
        "Delta denoising alone drifts the longer it runs (DreamMotion, Fig. 3). Changes from 30 to "
        "200 steps:",
        "",
        *(line for group, rows in groups.items() for line in (*drift(kept, group, rows), "")),
        *on_tune(),
        *lines,
    ]


def counted(clips: Sequence[str]) -> str:
    return f"{len(clips)} clip{'s' if len(clips) > 1 else ''}"


def on_tune() -> list[str]:
    """What was read on the split tune when weights were chosen."""
    found = json.loads(TUNE.read_text("utf-8"))
    kept = Kept(TUNE, found["settings"])
    rows = [name.removeprefix("DreamMotion: ") for name in kept.figures]
    return [
        "## The same on the split tune",
        "",
        f"{counted(kept.shared(list(kept.figures)))}, measured when weights were chosen, on a "
        "card; step size 0.4, cfg 9, S-SSM at 1.",
        "",
        *table(kept, "DreamMotion", rows, kept.shared(list(kept.figures))),
        "",
        *claims(kept, {"DreamMotion": rows}),
        "",
        "Changes from 30 to 200 steps there:",
        "",
        *drift(kept, "DreamMotion", rows),
        "",
    ]


def main() -> None:
    parser = asking(__doc__, clips=16)
    parser.add_argument("--groups", nargs="+", choices=GROUPS, default=list(GROUPS))
    parser.add_argument("--rows", nargs="+", help="of these groups; default: all")
    options = parser.parse_args()
    torch.set_num_threads(1)
    kept = Kept(FILE, {group: asdict(run) for group, run in REGIMES.items()})
    tasks = [
        (f"{group}: {row}", clip)
        for clip in range(options.clips)
        for group in options.groups
        for row in GROUPS[group]
        if options.rows is None or row in options.rows
    ]
    compute(kept, read_off, tasks, jobs=options.jobs)
    write_page(REPORT, report(kept))


if __name__ == "__main__":
    main()
