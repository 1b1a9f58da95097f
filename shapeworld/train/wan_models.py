"""The commands that train the tiny Wan: its autoencoder, then its transformer on that.

What ships was trained on one H200, the autoencoder for 5 minutes and the transformer for 6. There
every step was captured as a CUDA graph, and one kernel did the autoencoder's norm, its SiLU and the
padding. These commands do the same sums one after another, with other random draws.
"""

import json
from pathlib import Path

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
    runs: Path, *, steps: int | None, clips: int | None, device: str, bfloat16: bool, workers: int
) -> None:
    """Train the autoencoder and leave it, and the curve of its loss, in the folder of runs."""
    source = wan_vae.CLIPS.of(clips)
    rows = {frames: scene_rows(source, frames, workers=workers)[0] for frames in source.lengths}
    pools = {frames: wan_vae.rendered(those.to(device)) for frames, those in rows.items()}
    recipes = wan_vae.vae_recipes(pools, steps)
    curve: Curve = {}
    for recipe in recipes:
        points = fit(recipe, runs / recipe.name, bfloat16=bfloat16, device=device)
        curve = joined(curve, recipe.name, points)
    vae = recipes[-1].trained.eval()
    some = pools[min(pools)][:4000]
    wan_vae.settle(vae, torch.cat([wan_vae.means(vae, part / 255) for part in some.split(64)]))
    vae.save_pretrained(runs / AUTOENCODER / "final")
    write_json(runs / AUTOENCODER / "loss_curve.json", curve)


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
