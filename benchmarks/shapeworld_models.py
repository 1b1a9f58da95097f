"""How good the tiny models are: reconstruction, text to video, and a plain masked edit.

    python benchmarks/shapeworld_models.py                 all figures, 100 prompts each
    python benchmarks/shapeworld_models.py --prompts 16    a quick look
    python benchmarks/shapeworld_models.py --only vae shapeworld-t2v
    python benchmarks/shapeworld_models.py --report        also writes shapeworld/report; parts
                                                           that were not measured again stay

Everything is measured on held-out scenes. Texts are read back by the oracle.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import shapeworld_wan_rows as wan_rows
import torch
from einops import rearrange
from measuring import (
    FIGURES,
    clip_of,
    latents_of,
    loaded,
    made,
    markdown,
    prompts_of,
    shipped,
    whole_psnr,
    write_report,
)
from rescore.headless.demo import save_strip
from rescore.pipelines.distillation.delta_denoising import DeltaDenoising
from rescore.pipelines.distillation.score_distillation import Settings, distil
from rescore.pipelines.distillation.terms import Weighted
from rescore.pipelines.inversion.sampling import ddim_sample
from rescore.pipelines.models.codec import decode_video
from rescore.pipelines.models.grid import latent_mask
from rescore.pipelines.models.unet.backbone import Backbone
from rescore.shapeworld.edits import edited, prompts, suite
from rescore.shapeworld.finished import WEIGHTS
from rescore.shapeworld.oracle import read
from rescore.shapeworld.render import render
from rescore.shapeworld.scene import Scene, caption
from rescore.shapeworld.score import score, summarise
from rescore.shapeworld.wan import FOLDER

REPORT = Path(__file__).resolve().parent.parent / "shapeworld" / "report"
ATTRIBUTES = ("colour", "shape", "background", "motion")
DIFFUSION = ("shapeworld-t2v", "shapeworld-sd", "shapeworld-animatediff")
WAN, WAN_FRAMES = FOLDER.name, (9, 17)
_WAN_LONGEST = 29  # that a scene has, of whole latents
EDIT = Settings(
    *(
        shipped("delta_denoising", "ScoreDistillation", name)
        for name in ("steps", "step_size", "cfg")
    )
)


def fidelity(model: Backbone, clips: int) -> list[float]:
    """PSNR in dB of held-out clips through the VAE."""
    truths = [render(scene).clip for scene in prompts(clips)]
    return [whole_psnr(clip_of(model, latents_of(model, truth)), truth) for truth in truths]


def reconstruction(values: list[float]) -> dict[str, float]:
    """The PSNR of clips in one line: its mean over clips, that of the mean error, the worst."""
    errors = [10 ** (-value / 10) for value in values]
    return {
        "mean PSNR": statistics.mean(values),
        "PSNR of the mean error": -10 * torch.tensor(statistics.mean(errors)).log10().item(),
        "worst": min(values),
        "clips": len(values),
    }


def sample_clips(
    model: Backbone, scenes: list[Scene], *, cfg: float, steps: int, frames: int
) -> list[torch.Tensor]:
    """Clips from captions and noise, `[f, h, w, 3]` each."""
    still = model.kind == "image"
    text = torch.cat([model.encode_prompt(caption(s, motion=not still)).embedding for s in scenes])
    nothing = model.encode_prompt("").embedding.expand_as(text)

    noise = torch.randn(len(scenes), 4, frames, 16, 16, generator=torch.Generator().manual_seed(0))
    guided = partial(model.denoiser.guided, cond=text, uncond=nothing, cfg=cfg)
    z = ddim_sample(noise, guided, model.process.grid(steps))
    clips = decode_video(z / model.scaling_factor, model.decode_frames)
    return list(rearrange(clips, "b c f h w -> b f h w c"))


def text_to_video(
    clips_from: Callable[[list[Scene]], list[torch.Tensor]],
    count: int,
    *,
    frames: int,
    strip: Path | None,
) -> dict[str, float]:
    """Share of prompts of which the oracle reads each attribute right, in percent."""
    # In a single frame with two objects nothing says which of them the caption is about.
    scenes = prompts(count, frames=max(frames, 2), second=False if frames == 1 else None)
    right = dict.fromkeys(ATTRIBUTES, 0)
    shown = []
    for first in range(0, count, 10):
        batch = scenes[first : first + 10]
        for scene, clip in zip(batch, clips_from(batch), strict=True):
            reading = read(clip)
            for name in ATTRIBUTES:
                wanted = scene.background.pattern if name == "background" else getattr(scene, name)
                right[name] += getattr(reading, name) == wanted
            shown.append((caption(scene, motion=frames > 1), clip))
    if strip is not None:
        save_strip(dict(shown[:8]), strip, zoom=1)
    named = ATTRIBUTES[:3] if frames == 1 else ATTRIBUTES
    return {name: 100 * right[name] / count for name in named}


def masked_edit(
    model: Backbone, count: int, settings: Settings, strip: Path | None
) -> dict[str, float]:
    """Colour edits of the test suite by delta denoising within the painted mask."""
    scores, exact, rows = [], 0, {}
    for index, edit in enumerate(suite("colour", count)):
        truth = edited(edit)
        z_source = latents_of(model, truth.source.clip)
        state = distil(
            z_source,
            (Weighted(DeltaDenoising()),),
            model.denoiser,
            prompts_of(model, truth.source_prompt, truth.target_prompt),
            settings,
            mask=truth.paint.float(),
        )
        outside = (latent_mask(truth.paint.float(), *z_source.shape[2:]) == 0).expand_as(z_source)
        exact += torch.equal(state.z[outside], z_source[outside])
        clip = clip_of(model, state.z)
        scores.append(score(clip, edit))
        if index < 4:
            rows |= {f"source {index}": truth.source.clip, f"edit {index}": clip}
    if strip is not None:
        save_strip(rows, strip, zoom=1)
    means = {name: estimate.mean for name, estimate in summarise(scores).items()}
    return {
        "target colour read, %": 100 * means["hit"],
        "source latents outside the mask bit-identical, %": 100 * exact / count,
        "other attributes kept, %": 100 * means["kept"],
        "PSNR to the truth where it differs, dB": means["psnr_edit"],
        "PSNR to the source elsewhere, dB": means["psnr_keep"],
    }


def measure(options: argparse.Namespace, folder: Path | None) -> dict[str, dict[str, float]]:
    """All figures asked for, printed as they come."""
    figures: dict[str, dict[str, float]] = {}

    def note(title: str, values: dict[str, float], began: float) -> None:
        figures[title] = {name: round(value, 2) for name, value in values.items()}
        line = ", ".join(f"{name} {value}" for name, value in figures[title].items())
        print(f"{title}: {line} ({time.monotonic() - began:.0f} s)", flush=True)

    def strip(name: str) -> Path | None:
        return None if folder is None else folder / f"{name}.png"

    for name in options.only:
        began = time.monotonic()
        if name == "vae":
            model = loaded("shapeworld-sd")
            values = reconstruction(fidelity(model, options.prompts))
            note("VAE reconstruction, dB", values, began)
            continue
        if name == "edit":
            model = loaded("shapeworld-t2v")
            values = masked_edit(model, options.edits, EDIT, strip("masked_edits"))
            values["clips"] = options.edits
            note("masked colour edit, shapeworld-t2v", values, began)
            continue
        if name == "wan-vae":
            for frames in (*WAN_FRAMES, _WAN_LONGEST):
                values = reconstruction(wan_rows.fidelity(options.prompts, frames))
                note(f"Wan's VAE, {frames} frames, dB", values, began)
            continue
        if name == WAN:
            model = wan_rows.TinyWan.load()
            for frames in WAN_FRAMES:
                clips_from = partial(model.clips_from, frames=frames)
                picture = strip(name) if frames == WAN_FRAMES[0] else None
                values = text_to_video(clips_from, options.prompts, frames=frames, strip=picture)
                values["prompts"] = options.prompts
                note(f"{name}, {frames} frames, % read right", values, began)
            continue
        frames = 1 if name == "shapeworld-sd" else options.frames
        clips_from = partial(
            sample_clips, loaded(name), cfg=options.cfg, steps=options.steps, frames=frames
        )
        values = text_to_video(clips_from, options.prompts, frames=frames, strip=strip(name))
        note(f"{name}, % read right", values | {"prompts": options.prompts}, began)
    return figures


def report(folder: Path, figures: dict[str, dict[str, float]], options) -> None:
    """The figures, and the loss curves, as one page with pictures."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    _, axes = pyplot.subplots(figsize=(7, 4))
    for colour, file in enumerate(sorted(WEIGHTS.glob("*/loss_curve.json"))):
        for stage, points in enumerate(json.loads(file.read_text("utf-8")).values()):
            label = None if stage else file.parent.name
            axes.plot(*zip(*points, strict=True), color=f"C{colour}", label=label)
    axes.set(xlabel="step", ylabel="training loss", yscale="log")
    axes.legend()
    pyplot.savefig(folder / "loss_curves.png", dpi=90, bbox_inches="tight")
    cells = [(what, name, str(v)) for what, row in figures.items() for name, v in row.items()]
    lines = [
        "# The shape world's models",
        "",
        made("python benchmarks/shapeworld_models.py --report"),
        f"Text to video: cfg {options.cfg:g}, {options.steps} DDIM steps, {options.frames} frames;",
        f"{WAN}: {wan_rows.SETTINGS}.",
        "",
        *markdown(("what", "figure", "value"), cells),
        "",
        "Every break in a line is another stage of the training, with a loss of its own kind.",
        "",
        "![loss curves](loss_curves.png)",
        "",
    ]
    for name in (*DIFFUSION, WAN, "masked_edits"):
        if (folder / f"{name}.png").exists():
            lines += [f"## {name}", "", f"![{name}]({name}.png)", ""]
    write_report(folder, lines, figures)


def main() -> None:
    every = ("vae", *DIFFUSION, "edit", "wan-vae", WAN)
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=every, default=every)
    parser.add_argument("--prompts", type=int, default=100)
    parser.add_argument("--edits", type=int, default=20)
    parser.add_argument("--cfg", type=float, default=6.0)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--report", action="store_true", help="write shapeworld/report")
    options = parser.parse_args()
    folder = REPORT if options.report else None
    if folder is not None:
        folder.mkdir(exist_ok=True)
    with torch.inference_mode():
        figures = measure(options, folder)
    if folder is not None:
        earlier = folder / FIGURES
        if earlier.exists():
            figures = json.loads(earlier.read_text("utf-8")) | figures
        report(folder, figures, options)


if __name__ == "__main__":
    main()
