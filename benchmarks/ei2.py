"""EI2 against Tune-A-Video, part by part: alignment, consistency, motion, time and memory.

    python benchmarks/ei2.py              16 clips, 200 steps of tuning for each variant
    python benchmarks/ei2.py --quick      4 clips, 100 steps: below 30 minutes on 2 cores
    python benchmarks/ei2.py --report     also writes benchmarks/ei2_report
    python benchmarks/ei2.py --split tune --rows ei2 tune-a-video --learning-rate 3e-4

Clips of the shape world are learned by the tiny Stable Diffusion model, inverted with their prompt,
and sampled with the prompt of an edit; same clips, seeds and settings for every variant. What is
then seen is read by the oracle. Settings are chosen on the split "tune"; what is reported is the
split "test". Clips are spread over processes.
"""

import argparse
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import cache
from itertools import pairwise, repeat
from pathlib import Path
from statistics import mean, median
from typing import NamedTuple

import torch
from einops import rearrange
from measuring import (
    add_settings,
    clip_of,
    latents_of,
    made,
    markdown,
    prompts_of,
    settings_of,
    shown,
    write_report,
)
from memory import peak_memory
from PIL import Image
from rescore.headless.demo import save_strip
from rescore.nodes.charts import line_chart
from rescore.pipelines.backbones.backbone import Backbone
from rescore.pipelines.covariate_shift import LayerShift, covariate_shift
from rescore.pipelines.inflation import inflate_backbone
from rescore.pipelines.one_shot_tuning import Settings, tune
from rescore.pipelines.prediction import Prompts
from rescore.pipelines.tuned_edit import invert_and_edit
from rescore.shapeworld.edits import SPLITS, Edit, edited, suite
from rescore.shapeworld.models import load_shapeworld
from rescore.shapeworld.scene import caption
from rescore.shapeworld.score import estimate, score
from torch import Tensor
from torch.nn import functional

REPORT = Path(__file__).resolve().parent / "ei2_report"
SHOWN = 3  # edits whose clips the report shows
UNTUNED = "untuned"
# Name of a row -> title in the tables. All but UNTUNED, which is EI2, are variants of inflation.
ROWS = {
    "tune-a-video": "Tune-A-Video (TAV)",
    "centring": "TAV + IC",
    "stam": "TAV + IC + SN: STAM + sparse-causal",
    "ei2": "EI2: STAM + FFAM, r = 2",
    "ei2-r4": "EI2: STAM + FFAM, r = 4",
    "full-space-time": "STAM + full space-time",
    UNTUNED: "EI2, not tuned",
}
# Title, digits and factor of each figure.
COLUMNS = {
    "hit": ("target read, %", 0, 100),
    "consistency": ("frame consistency, %", 1, 100),
    "flicker": ("flicker, x 1000", 1, 1000),
    "motion": ("motion kept, %", 0, 100),
    "kept": ("other attributes kept, %", 0, 100),
    "psnr_keep": ("PSNR outside the edit, dB", 1, 1),
    "iou": ("IoU of the object, %", 0, 100),
    "mean_shift": ("shift of features' mean, %", 2, 100),
    "covariance_shift": ("of their covariance, %", 1, 100),
}
CHARTED = ("tune-a-video", "centring", "stam", "ei2")  # rows whose shift of features is drawn
COSTS = ("variant", "tuning, s", "peak memory of a step, MiB")
# What the paper says (Table 1, Sec. 5.2), our column for it, and the two rows it compares.
CLAIMS = (
    ("STAM raises textual alignment: CLIP score 28.7 to 29.8", "hit", "tune-a-video", "stam"),
    ("instance centring alone does so, too (Fig. 4)", "hit", "tune-a-video", "centring"),
    ("STAM restricts the shift of features", "mean_shift", "tune-a-video", "stam"),
    ("FFAM raises consistency: votes 25.6 to 34.9 %", "consistency", "stam", "ei2"),
    ("FFAM takes flicker away (Fig. 5)", "flicker", "stam", "ei2"),
    ("also at a large ratio (Fig. 5)", "flicker", "stam", "ei2-r4"),
)
CLAIMED_COSTS = (
    ("EI2 takes little more: 12.5 for 11.0 min, 11.0 for 9.6 GiB", "tune-a-video", "ei2"),
    ("full space-time attention is not practical: 45 min, 32 GiB", "ei2", "full-space-time"),
)


@dataclass(frozen=True)
class Run:
    """The settings that all rows share."""

    steps: int = 200
    learning_rate: float = 1e-4
    cfg: float = 1.5
    sampling: int = 25  # steps of inversion, and as many of sampling
    seed: int = 0


@dataclass(frozen=True)
class Figures:
    """What is measured of one edit of one row; shares are of 1."""

    hit: float
    kept: float
    motion: float
    consistency: float
    flicker: float
    psnr_keep: float
    iou: float
    mean_shift: float
    covariance_shift: float


class Outcome(NamedTuple):
    """What came of one edit in one row."""

    figures: Figures
    clip: Tensor  # [f, h, w, c]
    shifts: tuple[LayerShift, ...]


@cache
def image_model() -> Backbone:
    """Loaded once a process."""
    return load_shapeworld("shapeworld-sd")


def inflated(row: str) -> Backbone:
    return inflate_backbone(image_model(), "ei2" if row == UNTUNED else row)


def given(edit: Edit) -> tuple[Tensor, Prompts]:
    """The latents of an edit's source, and its prompts; they say nothing of motion."""
    texts = (caption(scene, motion=False) for scene in (edit.source, edit.target))
    source = edited(edit).source.clip
    return latents_of(image_model(), source), prompts_of(image_model(), *texts)


def tuned(model: Backbone, z_0: Tensor, prompts: Prompts, run: Run) -> Backbone:
    """The model after it has learned the clip."""
    settings = Settings(run.steps, run.learning_rate, seed=run.seed)
    state = tune(model.unet, z_0, prompts.source, model.schedule, settings)
    return replace(model, unet=model.unet.with_tuned(state.weights, state.tuning))


def frame_consistency(clip: Tensor) -> float:
    """Mean cosine similarity of consecutive frames about the clip's mean, `clip` [f, h, w, c]."""
    frames = rearrange(clip, "f h w c -> f (h w c)") - clip.mean()
    return functional.cosine_similarity(frames[1:], frames[:-1], dim=1).mean().item()


def shifts_of(model: Backbone, z_0: Tensor, prompts: Prompts) -> tuple[LayerShift, ...]:
    """What the modules along time do to features, at five timesteps spread over the schedule."""
    count = len(model.schedule)
    times = [int(count * (i + 0.5) / 5) for i in range(5)]
    layers = model.unet.temporal
    return covariate_shift(layers, model.eps_theta, z_0, prompts.source, model.schedule, times)


def edit_once(row: str, edit: Edit, run: Run) -> Outcome:
    z_0, prompts = given(edit)
    run = replace(run, steps=0) if row == UNTUNED else run
    model = tuned(inflated(row), z_0, prompts, run)
    z = invert_and_edit(
        z_0,
        model.eps_theta,
        prompts,
        model.schedule,
        steps=run.sampling,
        cfg=run.cfg,
        describe=True,
    )
    clip, shifts = clip_of(model, z).clamp(0, 1), shifts_of(model, z_0, prompts)
    scores = score(clip, edit)
    figures = Figures(
        hit=float(scores.hit),
        kept=scores.kept,
        motion=float("motion" not in scores.lost),
        consistency=frame_consistency(clip),
        flicker=scores.flicker,
        psnr_keep=scores.psnr_keep,
        iou=scores.iou,
        mean_shift=mean(shift.mean_shift for shift in shifts),
        covariance_shift=mean(shift.covariance_shift for shift in shifts),
    )
    return Outcome(figures, clip, shifts)


def all_rows(edit: Edit, rows: Sequence[str], run: Run) -> dict[str, Outcome]:
    """`edit_once` for every row; what one process does."""
    torch.set_num_threads(1)
    return {row: edit_once(row, edit, run) for row in rows}


def measure(options: argparse.Namespace, run: Run) -> Iterator[tuple[Edit, dict[str, Outcome]]]:
    """Every edit with what came of it in each row, as they are done."""
    edits = suite("edits", options.clips, split=options.split)
    with ProcessPoolExecutor(options.jobs) as pool:
        results = pool.map(all_rows, edits, repeat(options.rows), repeat(run))
        yield from zip(edits, results, strict=True)


def cost(row: str, run: Run, steps: int = 8) -> tuple[float, float]:
    """Seconds that tuning takes, from the median of some steps, and MiB that one step holds."""
    (edit,) = suite("colour", 1, split="tune")
    z_0, prompts = given(edit)
    model, times = inflated(row), [time.perf_counter()]

    def learn(count: int) -> None:
        tune(
            model.unet,
            z_0,
            prompts.source,
            model.schedule,
            Settings(count, run.learning_rate),
            on_step=lambda _: times.append(time.perf_counter()),
        )

    memory = peak_memory(lambda: learn(1))
    learn(steps)
    step = median(b - a for a, b in pairwise(times[-steps:]))
    return run.steps * step, memory / 2**20


def table_of_costs(costs: Mapping[str, tuple[float, float]]) -> list[str]:
    return markdown(COSTS, [[ROWS[row], f"{s:.0f}", f"{m:.1f}"] for row, (s, m) in costs.items()])


def table_of_figures(figures: Mapping[str, Sequence[Figures]]) -> list[str]:
    """Means over the clips with their standard errors, a line for each row."""
    cells = [
        [ROWS[row]]
        + [
            shown(estimate([getattr(one, key) for one in values]), digits, factor)
            for key, (_, digits, factor) in COLUMNS.items()
        ]
        for row, values in figures.items()
    ]
    return markdown(("variant", *(title for title, *_ in COLUMNS.values())), cells)


def table_of_claims(
    figures: Mapping[str, Sequence[Figures]], costs: Mapping[str, tuple[float, float]]
) -> list[str]:
    """The paper's claims beside ours: the change from row to row, clip by clip."""
    cells = []
    for claim, key, before, after in CLAIMS:
        if before in figures and after in figures:
            title, digits, factor = COLUMNS[key]
            pairs = zip(figures[before], figures[after], strict=True)
            change = estimate([getattr(b, key) - getattr(a, key) for a, b in pairs])
            rows = f"{ROWS[before]} to {ROWS[after]}"
            cells.append([claim, f"{title}: {shown(change, digits, factor)}", rows])
    for claim, before, after in CLAIMED_COSTS:
        if before in costs and after in costs:
            ratios = [b / a for a, b in zip(costs[before], costs[after], strict=True)]
            here = f"{ratios[0]:.2f} times the time, {ratios[1]:.2f} times the memory"
            cells.append([claim, here, f"{ROWS[before]} to {ROWS[after]}"])
    return markdown(("the paper", "here, the change", "from, to"), cells)


def save_charts(shifts: Mapping[str, Sequence[LayerShift]], file: Path) -> None:
    """The shift of mean and of covariance, layer by layer, one line a row."""
    labels = [shift.label for shift in max(shifts.values(), key=len)]
    charts = [
        line_chart(
            title,
            {row: [getattr(s, field) for s in layers] for row, layers in shifts.items()},
            labels,
        )[0]
        for title, field in (
            ("Shift of the mean, relative", "mean_shift"),
            ("Shift of the covariance, relative", "covariance_shift"),
        )
    ]
    pixels = (torch.cat(charts) * 255).round().byte().numpy()
    Image.fromarray(pixels).save(file)


def parse(arguments: Sequence[str] | None = None) -> tuple[argparse.Namespace, Run]:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="4 clips and 100 steps")
    parser.add_argument("--clips", type=int)
    parser.add_argument("--rows", nargs="+", choices=tuple(ROWS), default=tuple(ROWS))
    parser.add_argument("--split", choices=SPLITS, default="test")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes")
    parser.add_argument("--report", action="store_true", help=f"write {REPORT.name}")
    add_settings(parser, Run)
    options = parser.parse_args(arguments)
    options.clips = options.clips or (4 if options.quick else 16)
    if options.quick and options.steps is None:
        options.steps = 100
    return options, settings_of(options, Run)


def main() -> None:
    options, run = parse()
    torch.set_num_threads(1)
    costs = {row: cost(row, run) for row in options.rows if row != UNTUNED}
    print("\n".join(table_of_costs(costs)), flush=True)
    figures: dict[str, list[Figures]] = {row: [] for row in options.rows}
    strips: dict[str, Tensor] = {}
    shifts: dict[str, tuple[LayerShift, ...]] = {}
    for number, (edit, results) in enumerate(measure(options, run)):
        for row, outcome in results.items():
            figures[row].append(outcome.figures)
            if row in CHARTED:
                shifts.setdefault(row, outcome.shifts)
            if number < SHOWN:
                strips.setdefault(f"{number} source", edited(edit).source.clip)
                strips[f"{number} {row}"] = outcome.clip
        right = ", ".join(row for row, outcome in results.items() if outcome.figures.hit)
        print(f"{number + 1}/{options.clips} {edit.attribute}: read right: {right}", flush=True)
    tables = [table_of_figures(figures), table_of_costs(costs), table_of_claims(figures, costs)]
    print("\n\n".join("\n".join(table) for table in tables))
    if not options.report:
        return
    REPORT.mkdir(exist_ok=True)
    save_strip(strips, REPORT / "strips.png", zoom=1)
    save_charts(shifts, REPORT / "shift.png")
    settings = ", ".join(f"{name} {value:g}" for name, value in asdict(run).items())
    page = [
        "# EI2, part by part",
        "",
        made("python benchmarks/ei2.py --report"),
        f"{options.clips} clips of 8 frames from the split {options.split}; {settings}.",
        "Means with their standard errors over clips. The oracle decides whether the target is",
        "read and the motion kept, where the paper has CLIP scores. Frame consistency is the",
        "cosine similarity of consecutive frames about the clip's mean, where it has embeddings.",
        "",
        *tables[0],
        "",
        f"Tuning one clip for {run.steps} steps, on one thread:",
        "",
        *tables[1],
        "",
        "## The paper's claims",
        "",
        *tables[2],
        "",
        "## Pictures",
        "",
        f"Source of each of the first {SHOWN} edits, and each row's result, in the order of the "
        "table:",
        "",
        "![strips](strips.png)",
        "",
        "How far the modules along time shift features, first clip, tuned:",
        "",
        "![shift of features](shift.png)",
    ]
    numbers = {row: [asdict(one) for one in values] for row, values in figures.items()}
    write_report(REPORT, page, {"settings": asdict(run), "edits": numbers, "costs": costs})


if __name__ == "__main__":
    main()
