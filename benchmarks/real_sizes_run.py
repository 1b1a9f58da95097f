"""Two methods run for real at their models' own size, on the CPU: `real_sizes.py --run`.

Three steps of DreamMotion with ZeroScope, and one of null-text with AnimateDiff; random weights.
What each step holds at its peak is counted beside what `real_sizes.py` computes without numbers.
The gradient of every term is told beside that of delta denoising, here and with the tiny model, as
trained and with weights as random as here.
"""

import json
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from measuring import made, markdown
from memory import Storages
from real_sizes_lab import TINY, Lab
from real_sizes_rows import ROWS, null_text
from rescore.pipelines.distillation.delta_denoising import DeltaDenoising
from rescore.pipelines.distillation.score_distillation import (
    Descent,
    Settings,
    distil,
    draw_step,
)
from rescore.pipelines.distillation.self_similarity import (
    SpatialSelfSimilarity,
    TemporalSelfSimilarity,
)
from rescore.pipelines.distillation.terms import Weighted
from without_numbers import on_meta

GIB = 2**30
TERMS = (
    Weighted(DeltaDenoising()),
    Weighted(SpatialSelfSimilarity()),
    Weighted(TemporalSelfSimilarity()),
)


@dataclass(frozen=True)
class Lap:
    """What one step took."""

    seconds: float
    peak: int  # bytes held at most, on top of the weights
    left: int  # bytes still held when it was over


def laps(lab: Lab, steps: int) -> tuple[list[Lap], dict[str, float]]:
    """The steps of a DreamMotion run, and the RMS of each term's gradient where it has led."""
    model = lab.model("text-to-video")
    z_source, prompts = lab.latents(model, lab.run.short), lab.prompts(model)
    settings, found = Settings(steps), []
    with Storages() as storages, model.denoiser.checkpointed():
        began = time.perf_counter()

        def lap(_) -> None:
            nonlocal began
            peak, left = storages.lap()
            found.append(Lap(time.perf_counter() - began, peak, left))
            print(f"step {len(found)}: {found[-1]}", flush=True)
            began = time.perf_counter()

        z = distil(z_source, TERMS, model.denoiser, prompts, settings, on_step=lap).z
    with model.denoiser.checkpointed():
        descent = Descent(TERMS, model.denoiser, prompts, settings, z)
        generator = torch.Generator().manual_seed(1)
        middle = replace(settings, t_min=0.4, t_max=0.4)
        draw = draw_step(z, z_source, model.process, middle, generator)
        gradients = [
            descent.gradient(draw, z, z_source, [i], 0, 1).total for i in range(len(TERMS))
        ]
    sizes = [float(gradient.square().mean().sqrt()) for gradient in gradients]
    return found, dict(zip((entry.term.name for entry in TERMS), sizes, strict=True))


def null_text_lap(lab: Lab) -> Lap:
    """A null-text step of two moves."""
    case = null_text(lab, checkpointing=True)
    with Storages() as storages:
        began = time.perf_counter()
        case.work()
        return Lap(time.perf_counter() - began, *storages.lap())


def computed(row: str, lab: Lab) -> int:
    """The peak of a row, computed without numbers."""
    case = ROWS[row](replace(lab, device="meta"))
    with Storages() as storages, on_meta():
        case.work()
    return storages.peak


DREAM = "DreamMotion, short clip, checkpointing"
NULL = "null-text, per frame, checkpointing"


def run(lab: Lab, folder: Path, command: str, steps: int = 3) -> None:
    """Run both, and write `run.md` and `run.json`, anew after each as they take long."""
    tiny = Lab(replace(TINY, precision=lab.run.precision), "cpu", tiny=True, random=True)
    found, gradients = {}, {}
    found[DREAM], gradients["ZeroScope, random weights"] = laps(lab, steps)
    _, gradients["shapeworld-t2v, random weights"] = laps(tiny, steps)
    _, gradients["shapeworld-t2v"] = laps(Lab(TINY, "cpu", tiny=True), steps)
    _write(folder, command, lab, found, gradients)
    found[NULL] = [null_text_lap(lab)]
    print("\n".join(_write(folder, command, lab, found, gradients)))


def _write(
    folder: Path,
    command: str,
    lab: Lab,
    found: dict[str, list[Lap]],
    gradients: dict[str, dict[str, float]],
) -> list[str]:
    """Write the report of what has been run; its lines."""
    expected = {name: computed(name, lab) for name in found}
    rows = [
        (
            name, str(i + 1), f"{lap.seconds:.0f}", f"{lap.peak / GIB:.2f}",
            f"{expected[name] / GIB:.2f}", f"{100 * lap.peak / expected[name] - 100:+.0f}",
            f"{lap.left / 2**20:.1f}",
        )
        for name, laps in found.items()
        for i, lap in enumerate(laps)
    ]  # fmt: skip
    head = ("run", "step", "seconds", "peak, GiB", "computed, GiB", "beside it, %", "left, MiB")
    dds = DeltaDenoising().name
    ratios = [
        (name, *(f"{sizes[name] / sizes[dds]:.2e}" for sizes in gradients.values()))
        for name in (entry.term.name for entry in TERMS)
    ]
    page = [
        "# At real size, with numbers",
        "",
        made(command),
        f"ZeroScope, {lab.run.short} frames of {lab.run.video_width} x {lab.run.video_height}; "
        f"AnimateDiff, {lab.run.frames} of {lab.run.image_width} x {lab.run.image_height}. Random "
        f"weights in {lab.run.precision}, on the CPU. Peaks are on top of the weights.",
        "",
        *markdown(head, rows),
        "",
        "Gradient of each term, root mean square, beside that of delta denoising:",
        "",
        *markdown(("term", *gradients), ratios),
    ]
    numbers = {
        "laps": {name: [asdict(lap) for lap in laps] for name, laps in found.items()},
        "computed": expected,
        "gradients": gradients,
    }
    (folder / "run.md").write_text("\n".join(page) + "\n", "utf-8")
    (folder / "run.json").write_text(json.dumps(numbers, indent=1) + "\n", "utf-8")
    return page
