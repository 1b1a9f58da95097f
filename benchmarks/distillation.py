"""What every component of the score-distillation methods buys, and what it costs.

    python benchmarks/distillation.py              16 clips, 60 steps
    python benchmarks/distillation.py --quick      8 clips, 20 steps: below 30 minutes on 2 cores
    python benchmarks/distillation.py --report     also writes benchmarks/distillation_report
    python benchmarks/distillation.py --split tune --spatial 3 --rows "+ S-SSM"

Edits of colour, shape and background on shapeworld-t2v; every row edits the same clips with the
same seed. Settings are those of the shipped graphs; what is reported is the split "test".
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import median

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
    prompts_of,
    shipped,
    still_prompts_of,
    table_of,
    write_report,
)
from remembering import remembering
from rescore.attention.fusion import Fusion
from rescore.pipelines.distillation.adaptive_sliding import AdaptiveSliding
from rescore.pipelines.distillation.consistency import GlobalConsistency
from rescore.pipelines.distillation.delta_denoising import DeltaDenoising
from rescore.pipelines.distillation.joint_guidance import ImageDeltaDenoising
from rescore.pipelines.distillation.prediction import predict
from rescore.pipelines.distillation.preservation import ContentPreservation
from rescore.pipelines.distillation.score_distillation import Progress, Settings, distil
from rescore.pipelines.distillation.self_similarity import (
    SpatialSelfSimilarity,
    TemporalSelfSimilarity,
)
from rescore.pipelines.distillation.terms import Draw, Term, Weighted
from rescore.pipelines.flow.estimation import estimate_flow
from rescore.pipelines.flow.smoothing import FlowSmoothing
from rescore.pipelines.models.denoiser import Denoiser
from rescore.shapeworld.edits import Edit, edited, suite
from rescore.shapeworld.score import score
from torch import Tensor

REPORT = Path(__file__).resolve().parent / "distillation_report"
MODEL = "shapeworld-t2v"

# By their names in the table, what each row's terms are made of.
GROUPS = {
    "ASSD": {
        "no edit": (),  # what the autoencoder alone changes: nothing can be below it
        "DDS": ("dds",),
        "ASSD": ("sliding",),
        "ASSD + fusion": ("sliding", "fusion"),
        "ASSD + fusion + joint": ("sliding", "fusion", "joint"),
    },
    "DreamMotion": {
        "no edit": (),
        "DDS": ("dds",),
        "+ mask": ("dds", "mask"),
        "+ S-SSM": ("dds", "mask", "spatial"),
        "+ T-SSM": ("dds", "mask", "spatial", "temporal"),
        "full without mask": ("dds", "spatial", "temporal"),
        "full without S-SSM": ("dds", "mask", "temporal"),
    },
    "Flow-enhanced": {
        "no edit": (),
        "DDS": ("dds",),
        "+ flow smoothing": ("dds", "smoothing"),
        "+ preservation": ("dds", "smoothing", "preservation"),
        "+ consistency": ("dds", "smoothing", "preservation", "consistency"),
    },
}
LESS = "full without "  # the last rung of a group's ladder, but for one part
ROWS = {name: parts for rows in GROUPS.values() for name, parts in rows.items()}
INSIDE = {"fusion", "spatial", "temporal", "consistency"}  # what reads or changes the model inside
COLUMNS = {
    "hit": Column("target read, %", 0, 100),
    "psnr_edit": Column("PSNR to the truth inside, dB", 1),
    "contamination": Column("change outside the object, x 1000", 1, 1000),
    "flicker": Column("flicker, x 1000", 1, 1000),
    "iou": Column("IoU of the object, %", 0, 100),
    "kept": Column("other attributes kept, %", 0, 100),
}


@dataclass(frozen=True)
class Run:
    """The settings that all rows of a table share; weights of terms go by the terms' names.

    They are those of the graphs `dreammotion`, `assd` and `flow_enhanced`.
    """

    steps: int = shipped("dreammotion", "ScoreDistillation", "steps")
    step_size: float = shipped("dreammotion", "ScoreDistillation", "step_size")
    cfg: float = shipped("dreammotion", "ScoreDistillation", "cfg")
    tau: float = shipped("assd", "AdaptiveSliding", "tau")  # of the adaptive mask
    layers: int = shipped("assd", "AttentionFusion", "layers")  # in which attention is fused
    fusion: float = shipped("assd", "AttentionFusion", "weight")  # of their own attention there
    joint: float = shipped("assd", "ImageDeltaDenoising", "weight")
    spatial: float = shipped("dreammotion", "SpatialSelfSimilarity", "weight")
    temporal: float = shipped("dreammotion", "TemporalSelfSimilarity", "weight")
    strength: float = shipped("flow_enhanced", "FlowSmoothing", "strength")
    preservation: float = shipped("flow_enhanced", "ContentPreservation", "weight")
    threshold: float = shipped("flow_enhanced", "ContentPreservation", "threshold")
    consistency: float = shipped("flow_enhanced", "GlobalConsistency", "weight")


def image_term(edit: Edit, cfg: float, denoiser: Denoiser | None) -> ImageDeltaDenoising:
    """Joint guidance by the image model, with captions of stills."""
    image = loaded("shapeworld-sd")
    prompts = still_prompts_of(image, edit)

    def pair(draw: Draw) -> tuple[Tensor, Tensor]:
        needs = DeltaDenoising().needs
        seen = predict(needs, draw, denoiser or image.denoiser, prompts, cfg).predictions
        return seen.target.eps, seen.source.eps

    return ImageDeltaDenoising(pair, image.process, image.denoiser.space, image.name)


def terms_of(
    parts: Sequence[str], edit: Edit, run: Run, image: Denoiser | None = None
) -> list[Weighted]:
    """The terms of a row."""
    truth = edited(edit)
    masks = (truth.paint.float(),) if "mask" in parts else ()
    refinements = ()
    if "smoothing" in parts:
        flow = estimate_flow(rearrange(truth.source.clip, "f h w c -> 1 c f h w"))
        refinements = (FlowSmoothing(flow, run.strength),)
    terms: dict[str, Callable[[], tuple[Term, float]]] = {
        "dds": lambda: (DeltaDenoising(), 1.0),
        "sliding": lambda: (AdaptiveSliding(tau=run.tau), 1.0),
        "joint": lambda: (image_term(edit, run.cfg, image), run.joint),
        "spatial": lambda: (SpatialSelfSimilarity(), run.spatial),
        "temporal": lambda: (TemporalSelfSimilarity(), run.temporal),
        "preservation": lambda: (ContentPreservation(run.threshold), run.preservation),
        "consistency": lambda: (GlobalConsistency(), run.consistency),
    }
    # Mask and smoothing are for what moves the clip; what holds it is free, as in DreamMotion.
    return [
        Weighted(*make(), masks, refinements)
        if name in ("dds", "sliding", "joint")
        else Weighted(*make())
        for name, make in terms.items()
        if name in parts
    ]


def edit_once(
    parts: Sequence[str],
    edit: Edit,
    run: Run,
    *,
    video: Denoiser | None = None,
    image: Denoiser | None = None,
    on_step: Callable[[Progress], None] | None = None,
) -> Tensor:
    """The latents of one clip after one row's run; the models may be watched from outside."""
    model, truth = loaded(MODEL), edited(edit)
    z_source = latents_of(model, truth.source.clip)
    if not parts:
        return z_source
    return distil(
        z_source,
        terms_of(parts, edit, run, image),
        video or model.denoiser,
        prompts_of(model, truth.source_prompt, truth.target_prompt),
        Settings(run.steps, run.step_size, run.cfg),
        controls=(Fusion(run.layers, run.fusion),) if "fusion" in parts else (),
        on_step=on_step,
    ).z


@torch.inference_mode()
def all_rows(edit: Edit, rows: Sequence[str], run: Run) -> dict[str, Outcome]:
    """Every row's figures of one edit, and its clip."""
    model, clips = remembering(loaded(MODEL).denoiser), {}
    for row in rows:
        video = model if INSIDE.isdisjoint(ROWS[row]) else None
        clips[row] = clip_of(loaded(MODEL), edit_once(ROWS[row], edit, run, video=video))
    return {row: Outcome(score(clip, edit), clip) for row, clip in clips.items()}


class Meter:
    """The time of every step, and right after it that of its model calls alone."""

    def __init__(self) -> None:
        self.calls: list[tuple[Callable[..., Tensor], Tensor, float, Tensor]] = []
        self.steps: list[float] = []
        self.bare: list[float] = []
        self.numbers = (0, 0)  # of calls in a step, and of clips in them
        self.began = time.perf_counter()

    def watched(self, denoiser: Denoiser) -> Denoiser:
        """The same model; what it is called with is kept."""

        def call(z: Tensor, t: float, text: Tensor) -> Tensor:
            self.calls.append((denoiser.output, z, t, text))
            return denoiser.output(z, t, text)

        return replace(denoiser, output=call)

    def __call__(self, _: Progress) -> None:
        ended = time.perf_counter()
        self.steps.append(ended - self.began)
        for output, z, t, text in self.calls:
            if z.requires_grad:
                with torch.inference_mode(False), torch.enable_grad():
                    leaf = z.detach().clone().requires_grad_()
                    output(leaf, t, text.clone()).sum().backward()
            else:
                output(z, t, text)
        self.bare.append(time.perf_counter() - ended)
        self.numbers = len(self.calls), sum(len(z) for _, z, *_ in self.calls)
        self.calls.clear()
        self.began = time.perf_counter()


@torch.inference_mode()
def costs(rows: Sequence[str], run: Run, steps: int = 12) -> list[list[str]]:
    """Per row: calls of a step and clips in them, seconds of a step and of its bare calls."""
    (edit,) = suite("colour", 1, split="tune")
    table = []
    for name in filter(ROWS.get, rows):
        meter = Meter()
        edit_once(
            ROWS[name],
            edit,
            replace(run, steps=steps),
            video=meter.watched(loaded(MODEL).denoiser),
            image=meter.watched(loaded("shapeworld-sd").denoiser),
            on_step=meter,
        )
        # The first step also sets up.
        ratio = median(s / b for s, b in zip(meter.steps[1:], meter.bare[1:], strict=True))
        seconds = (f"{median(times[1:]):.3f}" for times in (meter.steps, meter.bare))
        table.append([name, *map(str, meter.numbers), *seconds, f"{ratio:.2f}"])
    return table


def gains(results: Results, group: str) -> list[str]:
    """What each part changes, against the row above it, clip by clip.

    What a method without one of its parts lacks is told as what the part gives to the whole.
    """
    rows = [row for row in GROUPS[group] if row in results.figures and ROWS[row]]
    ladder = [row for row in rows if not row.startswith(LESS)]
    pairs = {row: (above, row) for above, row in pairwise(ladder)}
    pairs |= {
        f"{row.removeprefix(LESS)}, to the full method": (row, ladder[-1])
        for row in rows
        if row.startswith(LESS)
    }
    cells = []
    for title, pair in pairs.items():
        changes = (
            changed(
                change(*(results.values(row, figure) for row in pair)), column.digits, column.factor
            )
            for figure, column in COLUMNS.items()
        )
        cells.append((title, *changes))
    return markdown(("change by", *(column.title for column in COLUMNS.values())), cells)


COSTS = ("row", "calls a step", "clips in them", "a step, s", "its calls alone, s", "ratio")


def main() -> None:
    quick = {"clips": 8, "steps": 20}
    options, run = parse(__doc__, Run, REPORT, clips=16, quick=quick, rows=ROWS)
    torch.set_num_threads(1)
    spent = markdown(COSTS, costs(options.rows, run))
    print("\n".join(spent), flush=True)
    edits, results = suite("edits", options.clips, split=options.split), Results()
    work = over_clips(
        all_rows, edits, options.rows, run, jobs=options.jobs, keep=RUNS / "distillation"
    )
    for edit, outcomes in work:
        results.add(edit, outcomes)
    tables = [
        line
        for group, rows in GROUPS.items()
        for line in (
            *table_of(results, COLUMNS, {row: row for row in rows}, group),
            "",
            *gains(results, group),
            "",
        )
    ]
    print("\n".join(tables))
    if not options.report:
        return
    page = [
        *opening("Score distillation, part by part", edits, options.split, run),
        BOLD,
        "",
        *tables,
        "What a step costs, on one thread. Its calls alone are repeated right after it, with a "
        "whole backward pass where the step needs a part of one, so a ratio can fall below 1.",
        "",
        *spent,
        "",
        *results.save_strips(REPORT),
    ]
    write_report(REPORT, page, {"settings": asdict(run), "edits": results.as_dict()})


if __name__ == "__main__":
    main()
