"""EI2 against Tune-A-Video, part by part: alignment, consistency, motion, time and memory.

    python benchmarks/ei2.py              16 clips; each variant is tuned as the graph does
    python benchmarks/ei2.py --quick      4 clips: below 30 minutes on 2 cores
    python benchmarks/ei2.py --long       also 200 steps, as the same runs go on
    python benchmarks/ei2.py --report     also writes benchmarks/ei2_report
    python benchmarks/ei2.py --split tune --rows ei2 tune-a-video --learning-rate 3e-4

Clips of the shape world are learned by the tiny Stable Diffusion model, inverted with their prompt,
and sampled with the prompt of an edit; same clips, seeds and settings for every variant. What is
then seen is read by the oracle. Settings are chosen on the split "tune"; what is reported is the
split "test".
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import mean, median

import torch
from einops import rearrange
from kept import RUNS
from measuring import (
    BOLD,
    Column,
    Outcome,
    Results,
    change,
    changed,
    clip_of,
    latents_of,
    loaded,
    markdown,
    opening,
    over_clips,
    parse,
    shipped,
    still_prompts_of,
    table_of,
    write_report,
)
from memory import peak_memory
from PIL import Image
from rescore.nodes.charts import line_chart
from rescore.pipelines.models.denoiser import Prompts
from rescore.pipelines.models.unet.backbone import Backbone
from rescore.pipelines.models.unet.inflation import Variant, inflate_backbone
from rescore.pipelines.tuning.covariate_shift import LayerShift, covariate_shift
from rescore.pipelines.tuning.one_shot_tuning import Settings, tune
from rescore.pipelines.tuning.tuned_edit import invert_and_edit
from rescore.shapeworld.edits import Edit, edited, suite
from rescore.shapeworld.score import score
from torch import Tensor
from torch.nn import functional

REPORT = Path(__file__).resolve().parent / "ei2_report"
MODEL = "shapeworld-sd"
TAV, UNTUNED, BARE = "tune-a-video", "untuned", "no-norm"
LONG = 200  # steps
# Name of a row -> title in the tables. All but UNTUNED, which is EI2, and BARE are variants of
# inflation that a user can choose.
ROWS = {
    TAV: "Tune-A-Video, norms over the clip",
    "layer-norm": "the same, norms frame by frame (TAV)",
    BARE: "TAV without its LayerNorm",
    "centring": "TAV + IC",
    "stam": "TAV + IC + SN: STAM + sparse-causal",
    "ei2": "EI2: STAM + FFAM, r = 2",
    "ei2-r4": "EI2: STAM + FFAM, r = 4",
    "full-space-time": "STAM + full space-time",
    UNTUNED: "EI2, not tuned",
}
COLUMNS = {
    "hit": Column("target read, %", 0, 100),
    "consistency": Column("frame consistency, %", 1, 100),
    "flicker": Column("flicker, x 1000", 1, 1000),
    "motion": Column("motion kept, %", 0, 100),
    "kept": Column("other attributes kept, %", 0, 100),
    "psnr_edit": Column("PSNR to the truth inside, dB", 1),
    "psnr_keep": Column("PSNR outside the edit, dB", 1),
    "iou": Column("IoU of the object, %", 0, 100),
    "mean_shift": Column("shift of features' mean, %", 2, 100),
    "covariance_shift": Column("of their covariance, %", 1, 100),
}
CHARTED = (
    TAV,
    "layer-norm",
    "centring",
    "stam",
    "ei2",
)  # rows whose shift of features is drawn
COSTS = ("variant", "tuning, s", "peak memory of a step, MiB")
# What the paper says (Table 1, Sec. 5.2), our column for it, and the two rows it compares.
CLAIMS = (
    ("EI2 raises textual alignment: CLIP score 28.7 to 29.8 (Table 1)", "hit", TAV, "ei2"),
    ("and consistency: votes 25.6 to 34.9 %, but CLIP score 96.6 to 95.9 (Table 1)",
     "consistency", TAV, "ei2"),
    ("STAM raises textual alignment (Fig. 4)", "hit", "layer-norm", "stam"),
    ("instance centring alone does so, too (Fig. 4)", "hit", "layer-norm", "centring"),
    ("without LayerNorm features shift all the same (Fig. 4)", "mean_shift", "layer-norm", BARE),
    ("STAM restricts the shift of features (Sec. 4.3)", "mean_shift", "layer-norm", "stam"),
    ("FFAM raises consistency (Fig. 5)", "consistency", "stam", "ei2"),
    ("FFAM takes flicker away (Fig. 5)", "flicker", "stam", "ei2"),
    ("also at a large ratio (Fig. 5)", "flicker", "stam", "ei2-r4"),
)  # fmt: skip
CLAIMED_COSTS = (
    ("EI2 takes little more: 12.5 for 11.0 min, 11.0 for 9.6 GiB", "layer-norm", "ei2"),
    ("full space-time attention is not practical: 45 min, 32 GiB", "ei2", "full-space-time"),
)


@dataclass(frozen=True)
class Run:
    """The settings that all rows share: those of the graph `ei2`."""

    steps: int = shipped("ei2", "OneShotTune", "steps")
    learning_rate: float = shipped("ei2", "OneShotTune", "learning_rate")
    cfg: float = shipped("ei2", "AttentionControlledSampling", "cfg")
    sampling: int = shipped("ei2", "DDIMInversion", "steps")  # and as many of sampling
    seed: int = shipped("ei2", "OneShotTune", "seed")


@dataclass(frozen=True)
class Figures:
    """What is measured of one edit of one row; shares are of 1."""

    hit: float
    kept: float
    motion: float
    consistency: float
    flicker: float
    psnr_edit: float
    psnr_keep: float
    contamination: float
    iou: float
    mean_shift: float
    covariance_shift: float


@dataclass(frozen=True)
class TunedOutcome(Outcome):
    """What came of one edit in one row, and what the layers along time did to features there."""

    shifts: tuple[LayerShift, ...]


def inflated(row: str) -> Backbone:
    others = {UNTUNED: "ei2", BARE: Variant("sparse-causal", "no-norm")}
    return inflate_backbone(loaded(MODEL), others.get(row, row))


def given(edit: Edit) -> tuple[Tensor, Prompts]:
    """The latents of an edit's source, and its prompts."""
    source = edited(edit).source.clip
    return latents_of(loaded(MODEL), source), still_prompts_of(loaded(MODEL), edit)


def tuned(
    model: Backbone, z_0: Tensor, prompts: Prompts, run: Run, counts: Sequence[int]
) -> Iterator[Backbone]:
    """The model after it has learned the clip in as many steps, from count to count."""
    state = None
    for steps in counts:
        settings = Settings(steps, run.learning_rate, seed=run.seed)
        state = tune(
            model.unet,
            z_0,
            prompts.source,
            model.process,
            settings,
            predicts=model.predicts,
            state=state,
        )
        yield replace(model, unet=model.unet.with_tuned(state.weights, state.tuning))


def frame_consistency(clip: Tensor) -> float:
    """Mean cosine similarity of consecutive frames about the clip's mean, `clip` [f, h, w, c]."""
    frames = rearrange(clip, "f h w c -> f (h w c)") - clip.mean()
    return functional.cosine_similarity(frames[1:], frames[:-1], dim=1).mean().item()


def shifts_of(model: Backbone, z_0: Tensor, prompts: Prompts) -> tuple[LayerShift, ...]:
    """What the modules along time do to features, at five timesteps spread over the schedule."""
    count = len(model.process)
    times = [int(count * (i + 0.5) / 5) for i in range(5)]
    layers = model.unet.temporal
    levels = [model.process.level(t) for t in times]
    return covariate_shift(layers, model.denoiser, z_0, prompts.source, levels)


def outcome(model: Backbone, z_0: Tensor, prompts: Prompts, edit: Edit, run: Run) -> TunedOutcome:
    """What comes of an edit with a tuned model."""
    z = invert_and_edit(
        z_0,
        model.denoiser,
        prompts,
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
        psnr_edit=scores.psnr_edit,
        psnr_keep=scores.psnr_keep,
        contamination=scores.contamination,
        iou=scores.iou,
        mean_shift=mean(shift.mean_shift for shift in shifts),
        covariance_shift=mean(shift.covariance_shift for shift in shifts),
    )
    return TunedOutcome(figures, clip, shifts)


def all_rows(
    edit: Edit, rows: Sequence[str], run: Run, counts: Sequence[int]
) -> list[dict[str, TunedOutcome]]:
    """What came of one edit in every row, by how many steps it was tuned."""
    z_0, prompts = given(edit)
    found: list[dict[str, TunedOutcome]] = [{} for _ in counts]
    for row in rows:
        models = tuned(inflated(row), z_0, prompts, run, (0,) if row == UNTUNED else counts)
        for outcomes, model in zip(found, models, strict=False):  # not tuned, there is but one
            outcomes[row] = outcome(model, z_0, prompts, edit, run)
    return found


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
            model.process,
            Settings(count, run.learning_rate),
            predicts=model.predicts,
            on_step=lambda _: times.append(time.perf_counter()),
        )

    memory = peak_memory(lambda: learn(1))
    learn(steps)
    step = median(b - a for a, b in pairwise(times[-steps:]))
    return run.steps * step, memory / 2**20


def table_of_costs(costs: Mapping[str, tuple[float, float]]) -> list[str]:
    return markdown(COSTS, [[ROWS[row], f"{s:.0f}", f"{m:.1f}"] for row, (s, m) in costs.items()])


def table_of_claims(
    by_count: Mapping[int, Results], costs: Mapping[str, tuple[float, float]]
) -> list[str]:
    """The paper's claims beside ours: the change from row to row, clip by clip, by steps."""
    cells = []
    for claim, figure, before, after in CLAIMS:
        title, digits, factor = COLUMNS[figure]
        gains = [
            changed(
                change(results.values(before, figure), results.values(after, figure)),
                digits,
                factor,
            )
            for results in by_count.values()
            if {before, after} <= results.figures.keys()
        ]
        if gains:
            cells.append([claim, f"{ROWS[before]} to {ROWS[after]}", title, *gains])
    for claim, before, after in CLAIMED_COSTS:
        if before in costs and after in costs:
            ratios = [b / a for a, b in zip(costs[before], costs[after], strict=True)]
            here = f"{ratios[0]:.2f} times the time, {ratios[1]:.2f} times the memory"
            cells.append([claim, f"{ROWS[before]} to {ROWS[after]}", "", *[here] * len(by_count)])
    heads = (f"change, {steps} steps" for steps in by_count)
    return markdown(("the paper", "from, to", "figure", *heads), cells)


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


def main() -> None:
    options, run = parse(
        __doc__,
        Run,
        REPORT,
        clips=16,
        quick={"clips": 4},
        rows=ROWS,
        switches={"long": f"also {LONG} steps"},
    )
    counts = (run.steps, LONG) if options.long else (run.steps,)
    torch.set_num_threads(1)
    costs = {row: cost(row, run) for row in options.rows if row != UNTUNED}
    print("\n".join(table_of_costs(costs)), flush=True)
    edits = suite("edits", options.clips, split=options.split)
    by_count = {steps: Results() for steps in counts}
    work = over_clips(
        all_rows, edits, options.rows, run, counts, jobs=options.jobs, keep=RUNS / "ei2"
    )
    for edit, found in work:
        for results, outcomes in zip(by_count.values(), found, strict=True):
            results.add(edit, outcomes)
    results = by_count[run.steps]
    tables = [
        table_of(results, COLUMNS, ROWS, "variant"),
        table_of_costs(costs),
        table_of_claims(by_count, costs),
    ]
    longer = []
    if options.long:
        tables.append(table_of(by_count[LONG], COLUMNS, ROWS, f"{LONG} steps"))
        longer = [f"## After {LONG} steps", "", *tables[-1], ""]
    print("\n\n".join("\n".join(table) for table in tables))
    if not options.report:
        return
    page = [
        *opening("EI2, part by part", edits, options.split, run),
        BOLD,
        "The oracle decides whether the target is read and the motion kept, where the paper has",
        "CLIP scores. Frame consistency is the cosine similarity of consecutive frames about the",
        "clip's mean, where it has embeddings.",
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
        *longer,
        "## Pictures",
        "",
        *results.save_strips(REPORT),
        "",
        "How far the modules along time shift features, first clip, tuned:",
        "",
        "![shift of features](shift.png)",
    ]
    _, first = results.first[0]
    save_charts({row: first[row].shifts for row in CHARTED if row in first}, REPORT / "shift.png")
    figures = {"settings": asdict(run), "edits": results.as_dict(), "costs": costs}
    if options.long:
        figures["long"] = {"steps": LONG, "edits": by_count[LONG].as_dict()}
    write_report(REPORT, page, figures)


if __name__ == "__main__":
    main()
