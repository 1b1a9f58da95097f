"""Trains the shape world's models, each with one command, and writes what the pack ships.

    python -m rescore.shapeworld.train vae
    python -m rescore.shapeworld.train shapeworld-sd
    python -m rescore.shapeworld.train shapeworld-t2v
    python -m rescore.shapeworld.train shapeworld-animatediff

in this order: each stands on the ones before, as this folder of runs has them or else as they
ship. A run that was stopped goes on from its newest checkpoint when the command is given again.
Finished weights are written to shapeworld/weights. With --further a model is not begun anew: its
shipped weights are trained for that many steps more.
"""

import argparse
import json
from pathlib import Path

from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel

from ..models import NAMES, WEIGHTS
from ..tokenizer import load_tokenizer, write_tokenizer
from . import diffusion, vae
from .data import LENGTHS, encode_pools, latent_scale, load_pools
from .export import export_adapter, export_pipeline
from .loop import Recipe, fit


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    summary, _, rest = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        prog="python -m rescore.shapeworld.train",
        description=summary,
        epilog=rest,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", choices=("vae", *NAMES))
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of checkpoints")
    parser.add_argument("--weights", type=Path, default=WEIGHTS, help="folder of finished models")
    parser.add_argument("--steps", type=int, help="this many steps instead of the recipe's")
    parser.add_argument(
        "--clips", type=int, help="train on this many clips of each length instead of the usual"
    )
    parser.add_argument(
        "--further", type=int, metavar="STEPS", help="train the shipped model for STEPS more"
    )
    return parser


def train(
    name: str,
    runs: Path,
    weights: Path,
    steps: int | None = None,
    clips: int | None = None,
    further: int | None = None,
) -> None:
    """Train one model to the end of its recipe, or on from its newest checkpoint, and export it.

    With `further`, its shipped weights are trained on for so many steps instead.
    """
    if name == "vae":
        recipe = vae.recipe(steps or vae.STEPS)
        fit(recipe, runs / name)
        recipe.trained.eval().save_pretrained(runs / name / "final")
        return

    shipped = weights / "shapeworld-sd"
    own_vae = (runs / "vae" / "final").is_dir()
    autoencoder = AutoencoderKL.from_pretrained(
        runs / "vae" / "final" if own_vae else shipped / "vae"
    ).float()
    autoencoder.eval()
    tokenizer_folder, pool_file = runs / "tokenizer", runs / "pools.safetensors"
    write_tokenizer(tokenizer_folder)
    tokenizer = load_tokenizer(tokenizer_folder)
    if not pool_file.exists():
        lengths = LENGTHS if clips is None else dict.fromkeys(LENGTHS, clips)
        encode_pools(autoencoder, pool_file, lengths)
    scale = latent_scale(pool_file) if own_vae else autoencoder.config.scaling_factor
    autoencoder.register_to_config(scaling_factor=scale)
    pools = load_pools(pool_file, scale)

    if name == "shapeworld-sd":
        recipe = diffusion.image_recipe(tokenizer, pools, further or steps)
        curve = _fit(recipe, runs, weights, further)
        unet, encoder = recipe.trained["unet"].eval(), recipe.trained["text_encoder"].eval()
        unet.save_pretrained(runs / name / "final" / "unet")
        encoder.save_pretrained(runs / name / "final" / "text_encoder")
        pipeline = "StableDiffusionPipeline"
    else:
        base = runs / "shapeworld-sd" / "final"
        base = base if base.is_dir() else shipped
        encoder = CLIPTextModel.from_pretrained(base / "text_encoder").float().eval()
        image_unet = UNet2DConditionModel.from_pretrained(base / "unet").float().eval()
        captions = diffusion.Captions(tokenizer, encoder)
        recipe = _over(name)(image_unet, captions, pools, further or steps)
        curve = _fit(recipe, runs, weights, further)
        unet = recipe.trained.eval()
        pipeline = "TextToVideoSDPipeline"

    if name == "shapeworld-animatediff":
        adapter = runs / name / "final"
        unet.save_motion_modules(adapter)
        export_adapter(weights / name, diffusion.load_adapter(adapter))
    else:
        export_pipeline(weights / name, pipeline, unet, autoencoder, encoder, tokenizer_folder)
    (weights / name / "loss_curve.json").write_text(json.dumps(curve), "utf-8")


def _fit(recipe: Recipe, runs: Path, weights: Path, further: int | None) -> list[tuple[int, float]]:
    """The training itself; when a model is trained further, its curve goes on from the old one."""
    earlier: list[list[float]] = []
    if further is not None:
        diffusion.load_shipped(recipe, weights / recipe.name)
        earlier = json.loads((weights / recipe.name / "loss_curve.json").read_text("utf-8"))
    curve = fit(recipe, runs / recipe.name)
    begun = int(earlier[-1][0]) if earlier else 0
    return [*map(tuple, earlier), *((begun + step, loss) for step, loss in curve)]


def _over(name: str):
    """The recipe of a model that is trained over the image model."""
    return {
        "shapeworld-t2v": diffusion.video_recipe,
        "shapeworld-animatediff": diffusion.motion_recipe,
    }[name]


def main() -> None:
    arguments = make_parser().parse_args()
    train(**vars(arguments))


if __name__ == "__main__":
    main()
