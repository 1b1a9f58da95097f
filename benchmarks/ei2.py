"""EI2 against Tune-A-Video, part by part: alignment, consistency, motion, time and memory.

    python benchmarks/ei2.py              all variants, 8 clips, 300 steps each
    python benchmarks/ei2.py --quick      4 clips, 100 steps
    python benchmarks/ei2.py --report     also writes benchmarks/ei2_report

Clips of the shape world are learned by the tiny Stable Diffusion model, inverted without a prompt,
and sampled with the prompt of an edit; same clips, seeds and settings for every variant. Whether
the edit is seen is read by the oracle.
"""

import argparse
import json
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from einops import rearrange
from rescore.headless.demo import save_strip
from rescore.pipelines.backbones.backbone import Backbone
from rescore.pipelines.inflation import inflate_backbone
from rescore.pipelines.one_shot_tuning import Settings, tune
from rescore.pipelines.prediction import Prompts
from rescore.pipelines.tuned_edit import invert_and_edit
from rescore.pipelines.video_vae import decode_video, encode_video
from rescore.shapeworld.edits import Edit, edited, suite
from rescore.shapeworld.models import load_shapeworld
from rescore.shapeworld.scene import caption
from rescore.shapeworld.score import score
from torch import Tensor
from torch.nn import functional

REPORT = Path(__file__).resolve().parent / "ei2_report"
# Title in the table -> variant.
ROWS = {
    "Tune-A-Video": "tune-a-video",
    "TAV + instance centring": "centring",
    "TAV + STAM (centring + spectral norm)": "stam",
    "EI2: STAM + FFAM, r = 2": "ei2",
    "EI2: STAM + FFAM, r = 4": "ei2-r4",
    "STAM + full space-time attention": "full-space-time",
    "not tuned (EI2)": "ei2",
}
COLUMNS = {
    "hit": "target read, %",
    "kept": "other attributes kept, %",
    "motion": "motion kept, %",
    "consistency": "frame consistency, %",
    "flicker": "flicker, 1/1000",
    "keep": "PSNR outside the edit, dB",
    "seconds": "tuning, s",
    "memory": "kept for the backward pass, MiB",
}


@contextmanager
def counted_memory(model: torch.nn.Module) -> Iterator[list[int]]:
    """The bytes autograd keeps in one step, each storage once and no weights; a list of one."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}
    total = [0]

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        total[0] = sum(kept.values())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield total


def frame_consistency(z: Tensor) -> float:
    """Mean cosine similarity of the latents of consecutive frames, `z` of shape [1, c, f, h, w]."""
    frames = rearrange(z, "1 c f h w -> f (c h w)")
    return functional.cosine_similarity(frames[1:], frames[:-1], dim=1).mean().item()


def pixels_of(model: Backbone, z: Tensor) -> Tensor:
    clip = decode_video(z / model.scaling_factor, model.decode_frames)
    return rearrange(clip, "1 c f h w -> f h w c").cpu()


def one_edit(
    image: Backbone, variant: str, edit: Edit, settings: Settings, options: argparse.Namespace
) -> tuple[dict[str, float], Tensor]:
    """The figures of one clip, and its edit."""
    model, truth = inflate_backbone(image, variant), edited(edit)
    source = rearrange(truth.source.clip, "f h w c -> 1 c f h w")
    z_0 = encode_video(source, model.encode_frames, model.vae_factor) * model.scaling_factor
    texts = {
        "source": caption(edit.source, motion=False),
        "target": caption(edit.target, motion=False),
        "negative": "",
    }
    prompts = Prompts(**{k: model.encode_prompt(text).embedding for k, text in texts.items()})

    with counted_memory(model.unet) as memory:
        tune(model.unet, z_0, prompts.source, model.schedule, replace(settings, steps=1))
    began = time.monotonic()
    state = tune(model.unet, z_0, prompts.source, model.schedule, settings)
    seconds = time.monotonic() - began

    tuned = replace(model, unet=model.unet.with_tuned(state.weights, state.tuning))
    z = invert_and_edit(
        z_0, tuned.eps_theta, prompts, model.schedule, steps=options.sampling, cfg=options.cfg
    )
    clip = pixels_of(model, z)
    scores = score(clip, edit)
    figures = {
        "hit": 100.0 * scores.hit,
        "kept": 100.0 * scores.kept,
        "motion": 100.0 * ("motion" not in scores.lost),
        "consistency": 100 * frame_consistency(z),
        "flicker": 1000 * scores.flicker,
        "keep": scores.psnr_keep,
        "seconds": seconds,
        "memory": memory[0] / 2**20,
    }
    return figures, clip


def measure(options: argparse.Namespace, folder: Path | None) -> dict[str, dict[str, float]]:
    """The mean figures of every row, printed as they come."""
    image = load_shapeworld("shapeworld-sd")
    edits = suite("edits", options.clips)
    table: dict[str, dict[str, float]] = {}
    strips = {f"source {i}": edited(edit).source.clip for i, edit in enumerate(edits[:3])}
    for title, variant in ROWS.items():
        steps = 0 if title.startswith("not tuned") else options.steps
        settings = Settings(steps, options.learning_rate)
        rows = []
        for i, edit in enumerate(edits):
            figures, clip = one_edit(image, variant, edit, settings, options)
            rows.append(figures)
            if i < 3:
                strips[f"{title} {i}"] = clip
        table[title] = {key: statistics.mean(row[key] for row in rows) for key in COLUMNS}
        line = ", ".join(f"{COLUMNS[key]} {value:.1f}" for key, value in table[title].items())
        print(f"{title}: {line}", flush=True)
    if folder is not None:
        save_strip(strips, folder / "strips.png", zoom=1)
    return table


def as_markdown(table: dict[str, dict[str, float]]) -> list[str]:
    lines = [f"| variant | {' | '.join(COLUMNS.values())} |", f"|---|{'---|' * len(COLUMNS)}"]
    for title, row in table.items():
        lines.append(f"| {title} | {' | '.join(f'{row[key]:.1f}' for key in COLUMNS)} |")
    return lines


def write_report(folder: Path, table: dict[str, dict[str, float]], options) -> None:
    lines = [
        "# EI2, part by part",
        "",
        f"Written by `python benchmarks/ei2.py --report`: {options.clips} clips of 8 frames, "
        f"{options.steps} steps at {options.learning_rate:g}, cfg {options.cfg}, "
        f"{options.sampling} steps of inversion and of sampling.",
        "",
        *as_markdown(table),
        "",
        "Sources of the first three edits, and each variant's, in the order of the table:",
        "",
        "![strips](strips.png)",
        "",
    ]
    (folder / "README.md").write_text("\n".join(lines), "utf-8")
    (folder / "figures.json").write_text(json.dumps(table, indent=2) + "\n", "utf-8")


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="4 clips and 100 steps")
    parser.add_argument("--clips", type=int, default=None)
    parser.add_argument("--steps", type=int, default=None)
    parser.add_argument("--learning-rate", type=float, default=3e-4)
    parser.add_argument("--cfg", type=float, default=7.5)
    parser.add_argument("--sampling", type=int, default=50)
    parser.add_argument("--report", action="store_true", help=f"write {REPORT.name}")
    options = parser.parse_args(arguments)
    options.clips = options.clips or (4 if options.quick else 8)
    options.steps = options.steps or (100 if options.quick else 300)
    return options


def main() -> None:
    options = parse()
    folder = REPORT if options.report else None
    if folder is not None:
        folder.mkdir(exist_ok=True)
    table = measure(options, folder)
    print("\n".join(as_markdown(table)))
    if folder is not None:
        write_report(folder, table, options)


if __name__ == "__main__":
    main()
