"""DreamMotion on a cascade: what each part buys at the keyframes, and what the whole cascade makes.

    python benchmarks/cascade.py                    16 clips; goes on where it was stopped
    python benchmarks/cascade.py --clips 4          fewer
    python benchmarks/cascade.py --clips 0          writes the page from what is there

Edits of colour, shape and background on the tiny cascade, 29 frames of 64 x 64 pixels, 8 keyframes
of 16 x 16, the same draws in every row. Settings are those of the graph `dreammotion_cascade`: the
loop's were chosen on clips of the split "tune", the stages' numbers of steps on other held-out
scenes; what is reported is "test". The mask is what a user would paint.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache, partial
from itertools import pairwise
from pathlib import Path

import torch
from einops import rearrange
from kept import Kept, asking, compute
from measuring import (
    Column,
    change,
    loaded,
    made,
    markdown,
    prompts_of,
    shipped,
    shown,
    whole_psnr,
    write_page,
)
from rescore.pipelines.cascade.interpolation import interpolate
from rescore.pipelines.cascade.keyframes import picked
from rescore.pipelines.cascade.super_resolution import Enlarging, enlarge, upsampled
from rescore.pipelines.distillation.delta_denoising import DeltaDenoising
from rescore.pipelines.distillation.score_distillation import Settings, distil
from rescore.pipelines.distillation.self_similarity import (
    SpatialSelfSimilarity,
    TemporalSelfSimilarity,
)
from rescore.pipelines.distillation.terms import Weighted
from rescore.pipelines.inversion.ddim_inversion import ddim_invert
from rescore.pipelines.inversion.sampling import ddim_sample
from rescore.pipelines.models.denoiser import Prompts
from rescore.pipelines.models.process import Latents
from rescore.shapeworld.cascade import FRAMES, KEYFRAMES, SMALL, load_stage
from rescore.shapeworld.edits import Edit, edited, suite
from rescore.shapeworld.score import estimate, psnr, score
from torch import Tensor

REPORT = Path(__file__).resolve().parent / "cascade_report"
GRAPH = "dreammotion_cascade"
INVERTED = "DDIM inversion, then sampling"

# At the keyframes, what each row's terms are made of.
ROWS = {
    "no edit": (),
    INVERTED: None,
    "V-DDS": ("dds",),
    "+ mask": ("dds", "mask"),
    "+ S-SSM": ("dds", "mask", "spatial"),
    "+ T-SSM": ("dds", "mask", "spatial", "temporal"),
}
# What goes through the rest of the cascade.
WHOLE = {
    "true keyframes, enlarged linearly": "plain",
    "true keyframes, the cascade": "truth",
    "edited keyframes, the cascade": "edit",
    "the same, the clip's own pixels outside the mask": "kept",
}
AT_KEYFRAMES = {
    "inside": Column("PSNR to the truth where it differs, dB", 1),
    "whole": Column("PSNR to the truth, all pixels, dB", 1),
    "outside": Column("change where nothing should, x 1000", 1, 1000),
}
AFTER = {
    "hit": Column("target read, %", 0, 100),
    "psnr_edit": Column("PSNR to the truth where it differs, dB", 1),
    "psnr_whole": Column("PSNR to the truth, all pixels, dB", 1),
    "contamination": Column("change outside the object, x 1000", 1, 1000),
    "flicker": Column("flicker, x 1000", 1, 1000),
    "iou": Column("IoU of the object, %", 0, 100),
}


@dataclass(frozen=True)
class Run:
    """The settings of all rows, those of the graph."""

    steps: int = shipped(GRAPH, "ScoreDistillation", "steps")
    step_size: float = shipped(GRAPH, "ScoreDistillation", "step_size")
    cfg: float = shipped(GRAPH, "ScoreDistillation", "cfg")
    spatial: float = shipped(GRAPH, "SpatialSelfSimilarity", "weight")
    temporal: float = shipped(GRAPH, "TemporalSelfSimilarity", "weight")
    between_steps: int = shipped(GRAPH, "InterpolateKeyframes", "steps")
    between_cfg: float = shipped(GRAPH, "InterpolateKeyframes", "cfg")
    image_steps: int = shipped(GRAPH, "EnlargeClip", "image_steps")
    image_cfg: float = shipped(GRAPH, "EnlargeClip", "image_cfg")
    image_noise_level: int = shipped(GRAPH, "EnlargeClip", "image_noise_level")
    video_steps: int = shipped(GRAPH, "EnlargeClip", "steps")
    video_cfg: float = shipped(GRAPH, "EnlargeClip", "cfg")
    noise_level: int = shipped(GRAPH, "EnlargeClip", "noise_level")


RUN = Run()
stage = cache(load_stage)


def clip_of(frames: Tensor) -> Latents:
    """A clip `[f, h, w, 3]` in 0..1 as `[1, 3, f, h, w]` in -1..1."""
    return rearrange(frames, "f h w c -> 1 c f h w") * 2 - 1


def frames_of(clip: Latents) -> Tensor:
    """The way back."""
    return rearrange(clip.clamp(-1, 1) / 2 + 0.5, "1 c f h w -> f h w c")


@cache
def known(number: int) -> tuple[Edit, Latents, Latents, Tensor, Prompts]:
    """An edit, its source's and its target's keyframes, the masks of all frames, its prompts."""
    edit = suite("edits", number + 1, frames=FRAMES)[number]
    truth = edited(edit)
    source, target = (
        picked(clip_of(side.clip), KEYFRAMES, SMALL, SMALL) for side in (truth.source, truth.target)
    )
    masks = truth.paint.float()
    model = loaded("shapeworld-cascade")
    return edit, source, target, masks, prompts_of(model, truth.source_prompt, truth.target_prompt)


@cache
def keyframes(row: str, number: int) -> Latents:
    """The keyframes of one clip after one row's run."""
    _, source, _, masks, prompts = known(number)
    parts, denoiser = ROWS[row], loaded("shapeworld-cascade").denoiser
    if parts is None:
        levels = denoiser.process.grid(RUN.steps)
        path = ddim_invert(source, partial(denoiser, cond=prompts.source), levels)
        guided = partial(denoiser.guided, cond=prompts.target, uncond=prompts.negative, cfg=RUN.cfg)
        return ddim_sample(path.latents[-1], guided, levels)
    if not parts:
        return source
    step = (FRAMES - 1) // (KEYFRAMES - 1)
    terms = {
        "dds": Weighted(DeltaDenoising(), masks=(masks[::step],) if "mask" in parts else ()),
        "spatial": Weighted(SpatialSelfSimilarity(), RUN.spatial),
        "temporal": Weighted(TemporalSelfSimilarity(), RUN.temporal),
    }
    chosen = [term for name, term in terms.items() if name in parts]
    settings = Settings(RUN.steps, RUN.step_size, RUN.cfg)
    return distil(source, chosen, denoiser, prompts, settings).z


def cascaded(small: Latents, prompts: Prompts) -> Latents:
    """All that comes after the keyframes, under the target prompt."""
    texts = prompts.target, prompts.negative
    between = interpolate(
        small.clamp(-1, 1), stage("interpolation"), *texts, steps=RUN.between_steps,
        cfg=RUN.between_cfg, generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    return enlarge(
        between, stage("image-sr"), stage("video-sr"), *texts,
        image=Enlarging(RUN.image_steps, RUN.image_cfg, RUN.image_noise_level),
        video=Enlarging(RUN.video_steps, RUN.video_cfg, RUN.noise_level),
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip


def measured(row: str, number: int) -> dict[str, float]:
    """The figures of one row on one clip."""
    with torch.no_grad():
        return at_keyframes(row, number) if row in ROWS else after(WHOLE[row], number)


def at_keyframes(row: str, number: int) -> dict[str, float]:
    """Figures of 16 x 16 pixels; a pixel differs where any of what it stands for does."""
    _, source, target, _, _ = known(number)
    made, before, truth = map(frames_of, (keyframes(row, number), source, target))
    differs = (before - truth).abs().amax(dim=-1) > 1e-6
    return {
        "inside": psnr(made, truth, differs),
        "whole": whole_psnr(made, truth),
        "outside": float((made - before).abs().mean(dim=-1)[~differs].mean()),
    }


def after(way: str, number: int) -> dict[str, float]:
    """Figures of the whole clip, 64 x 64 pixels."""
    edit, _, target, masks, _ = known(number)
    truth = edited(edit)
    if way == "plain":
        size = (FRAMES, SMALL, SMALL)
        between = torch.nn.functional.interpolate(
            target, size, mode="trilinear", align_corners=True
        )
        clip = frames_of(upsampled(between, *truth.target.clip.shape[1:3]))
    else:
        clip = whole("truth" if way == "truth" else "edit", number)
    if way == "kept":
        clip = torch.where(masks[..., None] > 0, clip, truth.source.clip)
    figures = asdict(score(clip, edit)) | {"psnr_whole": whole_psnr(clip, truth.target.clip)}
    return {name: float(figures[name]) for name in AFTER}


@cache
def whole(way: str, number: int) -> Tensor:
    """The cascade's frames of the true keyframes, or of the edited ones."""
    _, _, target, _, prompts = known(number)
    small = target if way == "truth" else keyframes("+ T-SSM", number)
    return frames_of(cascaded(small, prompts))


def table(kept: Kept, corner: str, rows: Sequence[str], columns: Mapping[str, Column]) -> list[str]:
    """Means with their standard errors over the clips that all rows have."""
    clips = kept.shared(rows)
    cells = [
        (
            row,
            *(
                shown(estimate(values(kept, row, clips, name)), column.digits, column.factor)
                for name, column in columns.items()
            ),
        )
        for row in rows
    ]
    title = f"{corner}, {len(clips)} clips"
    return markdown((title, *(column.title for column in columns.values())), cells)


def values(kept: Kept, row: str, clips: Sequence[str], name: str) -> list[float]:
    return [kept.figures[row][clip][name] for clip in clips]


def gains(kept: Kept) -> list[str]:
    """What each part changes at the keyframes against the row above, clip by clip."""
    clips, cells = kept.shared(list(ROWS)), []
    rungs = list(ROWS)[2:]
    for above, row in pairwise(rungs):
        cells.append(
            (
                row,
                *(
                    shown(
                        change(*(values(kept, one, clips, name) for one in (above, row))),
                        column.digits,
                        column.factor,
                    )
                    for name, column in AT_KEYFRAMES.items()
                ),
            )
        )
    return markdown(("change by", *(column.title for column in AT_KEYFRAMES.values())), cells)


def page(kept: Kept) -> list[str]:
    """The report, from what is there."""
    settings = ", ".join(
        f"{name.replace('_', ' ')} {value:g}" for name, value in asdict(RUN).items()
    )
    return [
        "# DreamMotion on a cascade",
        "",
        made("python benchmarks/cascade.py"),
        f"Clips of {FRAMES} frames from the split test; {settings}.",
        "Means with their standard errors over clips.",
        "",
        *table(kept, "keyframes", list(ROWS), AT_KEYFRAMES),
        "",
        *gains(kept),
        "",
        *table(kept, "the whole cascade", list(WHOLE), AFTER),
    ]


def main() -> None:
    options = asking(__doc__, clips=16).parse_args()
    torch.set_num_threads(1)
    kept = Kept(REPORT / "figures.json", asdict(RUN))
    tasks = [(row, clip) for clip in range(options.clips) for row in (*ROWS, *WHOLE)]
    compute(kept, measured, tasks, jobs=options.jobs)
    write_page(REPORT, page(kept))


if __name__ == "__main__":
    main()
