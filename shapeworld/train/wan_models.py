"""The commands that train the tiny Wan: its autoencoder, then its transformer on that.

What ships was trained on one H200, the autoencoder for 5 minutes and the transformer for 6. There
every step was captured as a CUDA graph, and one kernel did the autoencoder's norm, its SiLU and the
padding. These commands do the same sums one after another, with other random draws. The decoder
learned from long clips afterwards, in 20 minutes on a CPU (`wan-vae --further 1200 --bfloat16`).
"""

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan
from transformers import CLIPTextModel

from ..models import WEIGHTS
from ..tokenizer import load_tokenizer
from ..wan import FOLDER, SCHEDULE, TRANSFORMER, VAE, load_transformer, load_vae
from . import wan_transformer, wan_vae
from .captions import Captions
from .export import write_json
from .loop import Curve, fit, joined, read_curve
from .native import save_single_file
from .rendering import scene_rows

AUTOENCODER, NAME = "wan-vae", FOLDER.name


def train_vae(
    runs: Path,
    weights: Path,
    *,
    steps: int | None,
    further: int | None,
    clips: int | None,
    device: str,
    bfloat16: bool,
    workers: int,
) -> None:
    """Train the autoencoder and leave it, and the curve of its loss, in the folder of runs.

    With `further`, the finished autoencoder's decoder learns from long clips for so many steps
    more, and ships: its encoder stays, and with it what the transformer knows.
    """
    how = {"bfloat16": bfloat16, "device": device}
    finished = weights / NAME
    if further is None:
        vae, curve = _new_vae(runs, steps, clips, workers, how)
    else:
        vae = load_vae(finished).to(device)
        curve = read_curve(finished / "loss_curve.json")
    long = wan_vae.LONG_CLIPS.of(clips)
    (frames,) = long.lengths
    rows, _ = scene_rows(long, frames, workers=workers)
    recipe = wan_vae.long_recipe(vae, wan_vae.rendered(rows.to(device)), further or steps)
    curve = joined(curve, recipe.name, fit(recipe, runs / recipe.name, **how))
    if further is None:
        vae.save_pretrained(runs / AUTOENCODER / "final")
        write_json(runs / AUTOENCODER / "loss_curve.json", curve)
    else:
        save_single_file(vae, finished / VAE)
        (finished / "loss_curve.json").write_text(json.dumps(curve), "utf-8")


def _new_vae(
    runs: Path, steps: int | None, clips: int | None, workers: int, how: dict[str, Any]
) -> tuple[AutoencoderKLWan, Curve]:
    """An autoencoder that knows pictures and short clips, with the latents that are wanted."""
    source = wan_vae.CLIPS.of(clips)
    rows = {frames: scene_rows(source, frames, workers=workers)[0] for frames in source.lengths}
    pools = {n: wan_vae.rendered(those.to(how["device"])) for n, those in rows.items()}
    recipes = wan_vae.vae_recipes(pools, steps)
    curve: Curve = {}
    for recipe in recipes:
        curve = joined(curve, recipe.name, fit(recipe, runs / recipe.name, **how))
    vae = recipes[-1].trained.eval()
    some = pools[min(pools)][:4000]
    wan_vae.settle(vae, torch.cat([wan_vae.means(vae, part / 255) for part in some.split(64)]))
    return vae, curve


def train_transformer(
    runs: Path,
    weights: Path,
    *,
    steps: int | None,
    further: int | None,
    clips: int | None,
    device: str,
    bfloat16: bool,
    workers: int,
) -> None:
    """Train the transformer on the latents of the autoencoder in the folder of runs, and ship both.

    Without an autoencoder there it is the finished one. With `further`, the finished transformer is
    trained for so many steps more.
    """
    finished, own = weights / NAME, runs / AUTOENCODER
    if (own / "final").is_dir():
        vae = AutoencoderKLWan.from_pretrained(own / "final").eval()
        curve = read_curve(own / "loss_curve.json")
    else:
        vae = load_vae(finished)
        curve = read_curve(finished / "loss_curve.json")
    if further is None:
        curve.pop(NAME, None)
    shared = WEIGHTS / "shapeworld-sd"
    encoder = CLIPTextModel.from_pretrained(shared / "text_encoder").float().eval()
    captions = Captions(load_tokenizer(shared / "tokenizer"), encoder.to(device))
    source = wan_transformer.CLIPS.of(clips)
    lessons = wan_transformer.make_lessons(vae.to(device), captions, source, workers=workers)
    recipe = wan_transformer.transformer_recipe(lessons, further or steps)
    if further is not None:
        recipe.trained.load_state_dict(load_transformer(finished).state_dict())
    points = fit(recipe, runs / NAME, bfloat16=bfloat16, device=device)
    save_single_file(vae, finished / VAE)
    save_single_file(recipe.trained.eval(), finished / TRANSFORMER)
    write_json(finished / "scheduler" / "scheduler_config.json", SCHEDULE)
    curve = joined(curve, NAME, points)
    (finished / "loss_curve.json").write_text(json.dumps(curve), "utf-8")
