"""VideoDirector, part by part: how well a clip is found back, what an edit keeps, what it costs.

    python benchmarks/videodirector.py              8 clips, 25 steps
    python benchmarks/videodirector.py --quick      3 clips, 12 steps
    python benchmarks/videodirector.py --report     also writes benchmarks/videodirector_report

The tiny AnimateDiff model inverts clips of the shape world, reconstructs them, and edits colour,
shape or background; same clips and settings for every row.
"""

import argparse
import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import torch
from einops import rearrange
from rescore.attention.observation import observe
from rescore.attention.prompt_to_prompt import refine_mapper
from rescore.attention.sites import find_sites
from rescore.headless.demo import save_strip
from rescore.pipelines.attention_sampling import NO_CONTROL, AttentionControl, Source, sample_edit
from rescore.pipelines.backbones.backbone import Backbone
from rescore.pipelines.ddim_inversion import ddim_invert
from rescore.pipelines.decoupled_guidance import GuidanceSettings, guidance_loss
from rescore.pipelines.null_text import DriftGuidance, NullTextSettings, optimise_null_text
from rescore.pipelines.prediction import Prompts
from rescore.pipelines.trajectory import NullText, Trajectory
from rescore.pipelines.video_vae import decode_video, encode_video
from rescore.shapeworld.edits import Edit, EditClips, edited, suite
from rescore.shapeworld.models import load_shapeworld
from rescore.shapeworld.score import Estimate, Scores, psnr, score, summarise
from torch import Tensor

REPORT = Path(__file__).resolve().parent / "videodirector_report"
EDIT_COLUMNS = {
    "hit": "target read",
    "kept": "other attributes kept",
    "psnr_keep": "PSNR outside the edit, dB",
    "psnr_edit": "PSNR to the truth inside, dB",
    "contamination": "contamination",
    "flicker": "flicker",
}


class Clip:
    """A clip, inverted, with everything that rows of the tables start from."""

    def __init__(self, model: Backbone, edit: Edit, options: argparse.Namespace) -> None:
        self.model, self.edit, self.options = model, edit, options
        self.truth: EditClips = edited(edit)
        clip = rearrange(self.truth.source.clip, "f h w c -> 1 c f h w")
        z_0 = encode_video(clip, model.encode_frames, model.vae_factor) * model.scaling_factor
        self.encoded = [
            model.encode_prompt(text)
            for text in (self.truth.source_prompt, self.truth.target_prompt, "")
        ]
        self.prompts = Prompts(*(prompt.embedding for prompt in self.encoded))
        self.path: Trajectory = ddim_invert(
            z_0,
            lambda z, t: model.eps_theta(z, t, self.prompts.source),
            self.alphas_bar,
            model.schedule.timesteps(options.steps),
        )
        self.mask = self.truth.paint.float()

    @property
    def alphas_bar(self) -> Tensor:
        return self.model.schedule.alphas_bar

    def guidance(self) -> DriftGuidance:
        settings = GuidanceSettings(strength=self.options.strength)
        if self.edit.attribute == "background":
            settings = settings.swapped()
        # Of the object, whichever of the two is edited.
        return DriftGuidance(self.model.unet, settings, self.truth.object_mask.float())

    def null_text(self, inner: int, guided: bool, per_frame: bool = True) -> NullText:
        settings = NullTextSettings(self.options.cfg, inner, per_frame=per_frame)
        return optimise_null_text(
            self.path,
            self.model.eps_theta,
            self.prompts.source,
            self.prompts.negative,
            self.alphas_bar,
            settings,
            guidance=self.guidance() if guided else None,
        )

    def edited(self, control: AttentionControl, null_text: NullText | None) -> Tensor:
        length = self.prompts.source.shape[1]
        tokens = refine_mapper(self.encoded[0].tokens, self.encoded[1].tokens, length)
        z = sample_edit(
            self.path,
            self.model.eps_theta,
            self.prompts,
            self.alphas_bar,
            self.options.cfg,
            control,
            source=Source(self.model.unet, tokens, self.mask),
            null_text=null_text,
        )
        return self.pixels(z)

    def pixels(self, z: Tensor) -> Tensor:
        clip = decode_video(z / self.model.scaling_factor, self.model.decode_frames)
        return rearrange(clip, "1 c f h w -> f h w c")

    def found_back(self, z: Tensor) -> float:
        source = self.truth.source.clip
        return psnr(self.pixels(z), source, torch.ones(source.shape[:3], dtype=torch.bool))


def measure(clip: Clip) -> tuple[dict[str, float], dict[str, Scores], dict[str, Tensor]]:
    """One clip's reconstructions in dB, the scores of its edits, and the edited clips."""
    inner = clip.options.inner
    runs = {
        "DDIM inversion, cfg": clip.null_text(0, False),
        "+ shared null-text": clip.null_text(inner, False, per_frame=False),
        "+ multi-frame null-text": clip.null_text(inner, False),
        "+ STDG, no null-text": clip.null_text(0, True),
        "both": clip.null_text(inner, True),
    }
    found = {"the VAE alone": clip.found_back(clip.path.latents[0])}
    found |= {name: clip.found_back(run.z) for name, run in runs.items()}
    full = AttentionControl(tau_s=clip.options.tau_s)
    rows = {
        "full": (full, "both"),
        "without null-text": (full, "+ STDG, no null-text"),
        "without STDG": (full, "+ multi-frame null-text"),
        "without SA-I": (replace(full, layout=False), "both"),
        "without SA-II": (replace(full, background=False), "both"),
        "without cross-attention control": (replace(full, prompt=False), "both"),
        "no control": (NO_CONTROL, "both"),
    }
    clips = {name: clip.edited(control, runs[run]) for name, (control, run) in rows.items()}
    return found, {name: score(video, clip.edit) for name, video in clips.items()}, clips


class Kept:
    """A tensor that autograd holds; its storage counts for as long as this lives."""

    held: ClassVar[Counter[int]] = Counter()
    bytes = peak = 0

    def __init__(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        self.tensor, self.key, self.size = tensor, storage.data_ptr(), storage.nbytes()
        if not Kept.held[self.key]:
            Kept.bytes += self.size
            Kept.peak = max(Kept.peak, Kept.bytes)
        Kept.held[self.key] += 1

    def __del__(self) -> None:
        Kept.held[self.key] -= 1
        if not Kept.held[self.key]:
            Kept.bytes -= self.size


def peak_memory(work: Callable[[], object], unet: torch.nn.Module) -> int:
    """The most bytes autograd holds at a time while `work` runs, weights not counted."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in unet.parameters()}

    def pack(tensor: Tensor) -> Kept | Tensor:
        return tensor if tensor.untyped_storage().data_ptr() in weights else Kept(tensor)

    Kept.peak = 0
    with torch.autograd.graph.saved_tensors_hooks(
        pack, lambda kept: kept.tensor if isinstance(kept, Kept) else kept
    ):
        work()
    return Kept.peak


def drift(clip: Clip, settings: GuidanceSettings, *, whole: bool) -> Tensor:
    """G for the parts of `settings`; `whole` runs the model to its end for both clips."""
    unet, frames = clip.model.unet, clip.path.latents.shape[3]
    temporal = find_sites(unet, settings.sites, "temporal") if settings.temporal else ()
    spatial = find_sites(unet, settings.sites, "spatial") if settings.keys else ()
    t, pivot = clip.path.timesteps[-2], clip.path.latents[-2]

    def look(z: Tensor, **how):
        def forward() -> Tensor:
            return clip.model.eps_theta(z, t, clip.prompts.source)

        return observe(unet, forward, temporal, spatial, frames, **how)[0]

    with torch.no_grad():
        reference = look(pivot, output=whole)
    z = (pivot + 0.1 * torch.randn(pivot.shape, generator=torch.Generator().manual_seed(0))).clone()
    z.requires_grad_()
    current = look(z, picked=reference.frames)
    tokens = {len(rows) for rows in reference.rows.values()}
    tokens |= {keys.shape[1] for keys in reference.keys.values()}
    loss = guidance_loss(
        settings,
        {name: (rows, current.rows[name]) for name, rows in reference.rows.items()},
        {name: (keys, current.keys[name]) for name, keys in reference.keys.items()},
        {n: torch.full((frames, n), 0.5) for n in tokens},
    )
    return torch.autograd.grad(loss, z)[0]


def costs(clip: Clip, repeats: int = 5) -> list[str]:
    """Lines of a table: decoupled guidance in one pass and in four, null-text with and without."""
    parts = ("temporal_foreground", "temporal_background", "keys_foreground", "keys_background")
    each = [
        GuidanceSettings(**{part: 0.5 if part == only else 0.0 for part in parts}) for only in parts
    ]
    together = GuidanceSettings(0.5, 0.5, 0.5, 0.5)

    def one() -> Tensor:
        return drift(clip, together, whole=False)

    def four() -> Tensor:
        return sum(drift(clip, settings, whole=True) for settings in each)

    torch.testing.assert_close(one(), four(), rtol=1e-3, atol=1e-5)

    def twice(z: Tensor, t: int, cond: Tensor) -> Tensor:
        if torch.is_grad_enabled() and cond.requires_grad:
            with torch.no_grad():
                clip.model.eps_theta(z, t, clip.prompts.source)
        return clip.model.eps_theta(z, t, cond)

    def null_text(eps_theta) -> Callable[[], object]:
        settings = NullTextSettings(clip.options.cfg, early_stop=0.0, early_stop_growth=0.0)
        given = clip.path, eps_theta, clip.prompts.source, clip.prompts.negative, clip.alphas_bar
        return lambda: optimise_null_text(*given, settings, steps=1)

    rows = {
        "STDG, four passes": four,
        "STDG, one pass": one,
        "null-text step, prediction repeated": null_text(twice),
        "null-text step, prediction cached": null_text(clip.model.eps_theta),
    }
    lines = ["| | s | peak kept for the backward pass, MiB |", "|---|---|---|"]
    for name, work in rows.items():
        times, peak = [], peak_memory(work, clip.model.unet)
        for _ in range(repeats):
            began = time.perf_counter()
            work()
            times.append(time.perf_counter() - began)
        lines.append(f"| {name} | {sorted(times)[repeats // 2]:.3f} | {peak / 2**20:.1f} |")
    return lines


def shown(value: Estimate, digits: int = 2) -> str:
    return f"{value.mean:.{digits}f} ± {value.error:.{digits}f}"


def estimate(values: Sequence[float]) -> Estimate:
    numbers = torch.tensor(values, dtype=torch.float64)
    error = float(numbers.std() / len(values) ** 0.5) if len(values) > 1 else float("nan")
    return Estimate(float(numbers.mean()), error, len(values))


def run(options: argparse.Namespace, folder: Path | None) -> list[str]:
    """The report's lines."""
    model = load_shapeworld("shapeworld-animatediff")
    found: dict[str, list[float]] = {}
    scores: dict[str, list[Scores]] = {}
    strips: dict[str, Tensor] = {}
    for i, edit in enumerate(suite("edits", options.clips, frames=options.frames)):
        clip = Clip(model, edit, options)
        decibels, figures, videos = measure(clip)
        for name, value in decibels.items():
            found.setdefault(name, []).append(value)
        for name, value in figures.items():
            scores.setdefault(name, []).append(value)
        line = ", ".join(f"{name} {value:.1f}" for name, value in decibels.items())
        print(f"{i + 1}: {edit.attribute}: {line}", flush=True)
        if i < 3:
            strips |= {f"{i} source": clip.truth.source.clip, f"{i} truth": clip.truth.target.clip}
            strips |= {f"{i} {name}": video for name, video in videos.items()}
    lines = ["| reconstruction | dB |", "|---|---|"]
    lines += [f"| {name} | {shown(estimate(values))} |" for name, values in found.items()]
    lines += ["", f"| edit | {' | '.join(EDIT_COLUMNS.values())} |"]
    lines += [f"|---|{'---|' * len(EDIT_COLUMNS)}"]
    for name, values in scores.items():
        summary = summarise(values)
        cells = [
            shown(summary[key], 4 if key in ("contamination", "flicker") else 2)
            for key in EDIT_COLUMNS
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += ["", *costs(clip)]
    if folder is not None:
        save_strip(strips, folder / "strips.png", zoom=1)
        rows = {name: [vars(one) for one in values] for name, values in scores.items()}
        figures = json.dumps({"reconstruction": found, "edits": rows}, indent=1)
        (folder / "figures.json").write_text(figures + "\n", "utf-8")
    return lines


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="3 clips and 12 steps")
    parser.add_argument("--clips", type=int, default=None)
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--steps", type=int, default=None)
    parser.add_argument("--inner", type=int, default=10, help="moves of an embedding per step")
    parser.add_argument("--cfg", type=float, default=5.0)
    parser.add_argument("--strength", type=float, default=1.0, help="of decoupled guidance")
    parser.add_argument("--tau-s", type=float, default=0.4)
    parser.add_argument("--report", action="store_true", help=f"write {REPORT.name}")
    options = parser.parse_args(arguments)
    options.clips = options.clips or (3 if options.quick else 8)
    options.steps = options.steps or (12 if options.quick else 25)
    return options


def main() -> None:
    options = parse()
    folder = REPORT if options.report else None
    if folder is not None:
        folder.mkdir(exist_ok=True)
    lines = run(options, folder)
    print("\n".join(lines))
    if folder is not None:
        heading = [
            "# VideoDirector, part by part",
            "",
            f"Written by `python benchmarks/videodirector.py --report`: {options.clips} clips of "
            f"{options.frames} frames, {options.steps} steps, cfg {options.cfg:g}, strength of "
            f"guidance {options.strength:g}, tau_s {options.tau_s:g}.",
            "",
        ]
        ending = ["", "Source, truth and rows of the first three edits:", "", "![](strips.png)", ""]
        (folder / "README.md").write_text("\n".join([*heading, *lines, *ending]), "utf-8")


if __name__ == "__main__":
    main()
