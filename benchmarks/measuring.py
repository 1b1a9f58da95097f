"""What the benchmarks share: edits of the shape world as latents, tables, and a report's page."""

import argparse
import json
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from datetime import date
from pathlib import Path
from typing import Any, TypeVar

from einops import rearrange
from rescore.pipelines.backbones.backbone import Backbone
from rescore.pipelines.prediction import Prompts
from rescore.pipelines.video_vae import decode_video, encode_video
from rescore.shapeworld.score import Estimate
from torch import Tensor

Run = TypeVar("Run")

FIGURES = "figures.json"  # of a report, beside its page


def latents_of(model: Backbone, clip: Tensor) -> Tensor:
    """A clip `[f, h, w, 3]` in 0..1 as the model's scaled latents, `[1, c, f, h, w]`."""
    pixels = rearrange(clip, "f h w c -> 1 c f h w")
    return encode_video(pixels, model.encode_frames, model.vae_factor) * model.scaling_factor


def clip_of(model: Backbone, z: Tensor) -> Tensor:
    """The way back."""
    clip = decode_video(z / model.scaling_factor, model.decode_frames)
    return rearrange(clip, "1 c f h w -> f h w c").cpu()


def prompts_of(model: Backbone, source: str, target: str) -> Prompts:
    """Both prompts and an empty negative one, as the model's text encoder reads them."""
    return Prompts(*(model.encode_prompt(text).embedding for text in (source, target, "")))


def shown(value: Estimate, digits: int, factor: float = 1.0) -> str:
    """A mean with its standard error, as a table shows it."""
    return f"{factor * value.mean:.{digits}f} ± {factor * value.error:.{digits}f}"


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A table, line by line."""
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]


def made(command: str) -> str:
    """With what, when and from which state of the code a table was made."""
    root = Path(__file__).resolve().parent
    commit = subprocess.run(
        ["git", "-C", str(root), "rev-parse", "--short", "HEAD"],
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    return f"Written by `{command}` on {date.today()}" + (
        f" at commit {commit}." if commit else "."
    )


def write_report(folder: Path, lines: Sequence[str], figures: Mapping[str, Any]) -> None:
    """A page and the numbers it was made from."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "README.md").write_text("\n".join(lines) + "\n", "utf-8")
    (folder / FIGURES).write_text(json.dumps(figures, indent=1) + "\n", "utf-8")


def add_settings(parser: argparse.ArgumentParser, run: type) -> None:
    """An option for every field of the dataclass `run`, absent unless it is given."""
    group = parser.add_argument_group("settings")
    for field in fields(run):
        group.add_argument(f"--{field.name.replace('_', '-')}", type=field.type)


def settings_of(options: argparse.Namespace, run: type[Run]) -> Run:
    """What was given of these options, and the defaults of `run` for the rest."""
    given = {field.name: getattr(options, field.name) for field in fields(run)}
    return run(**{name: value for name, value in given.items() if value is not None})
