"""The commands that train the tiny Wan: its autoencoder, then its transformer on that.

What ships was trained on one H200, the autoencoder for 5 minutes and the transformer for 6. There
every step was captured as a CUDA graph, and one kernel did the autoencoder's norm, its SiLU and the
padding. These commands do the same sums one after another, with other random draws. The decoder
learned from long clips afterwards, in 20 minutes on a CPU (`wan-vae --further 1200 --bfloat16`).
"""

import torch
from diffusers import AutoencoderKLWan

from ..wan import FOLDER, SCHEDULE, TRANSFORMER, VAE, load_transformer, load_vae
from . import wan_transformer, wan_vae
from .captions import shipped_captions
from .export import write_json
from .loop import CURVE, Curve, joined, read_curve, write_curve
from .native import save_single_file
from .order import Order
from .rendering import scene_rows

AUTOENCODER, NAME = "wan-vae", FOLDER.name


def train_vae(order: Order) -> None:
    """Train the autoencoder and leave it, and the curve of its loss, in the folder of runs.

    With `further`, the finished autoencoder's decoder learns from long clips for so many steps
    more, and ships: its encoder stays, and with it what the transformer knows.
    """
    finished, unfinished = order.weights / NAME, order.runs / AUTOENCODER
    if order.further is None:
        vae, curve = _new_vae(order)
    else:
        vae = load_vae(finished).to(order.device)
        curve = read_curve(finished / CURVE)
    long = wan_vae.LONG_CLIPS.of(order.clips)
    (frames,) = long.lengths
    rows, _ = scene_rows(long, frames, workers=order.workers)
    pixels = wan_vae.rendered(rows.to(order.device))
    recipe = wan_vae.long_recipe(vae, pixels, order.further or order.steps)
    curve = joined(curve, recipe.name, order.fit(recipe))
    if order.further is None:
        vae.save_pretrained(unfinished / "final")
        write_curve(unfinished / CURVE, curve)
    else:
        save_single_file(vae, finished / VAE)
        write_curve(finished / CURVE, curve)


def _new_vae(order: Order) -> tuple[AutoencoderKLWan, Curve]:
    """An autoencoder that knows pictures and short clips, with the latents that are wanted."""
    source = wan_vae.CLIPS.of(order.clips)
    pools = {}
    for frames in source.lengths:
        rows, _ = scene_rows(source, frames, workers=order.workers)
        pools[frames] = wan_vae.rendered(rows.to(order.device))
    recipes = wan_vae.vae_recipes(pools, order.steps)
    curve: Curve = {}
    for recipe in recipes:
        curve = joined(curve, recipe.name, order.fit(recipe))
    vae = recipes[-1].trained.eval()
    some = pools[min(pools)][:4000]
    wan_vae.settle(vae, torch.cat([wan_vae.means(vae, part / 255) for part in some.split(64)]))
    return vae, curve


def train_transformer(order: Order) -> None:
    """Train the transformer on the latents of the autoencoder in the folder of runs, and ship both.

    Without an autoencoder there it is the finished one. With `further`, the finished transformer is
    trained for so many steps more.
    """
    finished, own = order.weights / NAME, order.runs / AUTOENCODER
    if (own / "final").is_dir():
        vae = AutoencoderKLWan.from_pretrained(own / "final").eval()
        curve = read_curve(own / CURVE)
    else:
        vae = load_vae(finished)
        curve = read_curve(finished / CURVE)
    if order.further is None:
        curve.pop(NAME, None)
    captions, source = shipped_captions().to(order.device), wan_transformer.CLIPS.of(order.clips)
    lessons = wan_transformer.make_lessons(
        vae.to(order.device), captions, source, workers=order.workers
    )
    recipe = wan_transformer.transformer_recipe(lessons, order.further or order.steps)
    if order.further is not None:
        recipe.trained.load_state_dict(load_transformer(finished).state_dict())
    curve = joined(curve, NAME, order.fit(recipe))
    save_single_file(vae, finished / VAE)
    save_single_file(recipe.trained.eval(), finished / TRANSFORMER)
    write_json(finished / "scheduler" / "scheduler_config.json", SCHEDULE)
    write_curve(finished / CURVE, curve)
