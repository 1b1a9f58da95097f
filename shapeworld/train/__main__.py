"""Trains the shape world's models, each with one command, and writes what the pack ships.

    python -m rescore.shapeworld.train vae
    python -m rescore.shapeworld.train shapeworld-sd
    python -m rescore.shapeworld.train shapeworld-t2v
    python -m rescore.shapeworld.train shapeworld-animatediff

in this order: each stands on the ones before. A run that was stopped goes on from its newest
checkpoint when the command is given again. Finished weights are written to shapeworld/weights.
"""

import argparse
import shutil
from pathlib import Path

from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel

from ..models import NAMES, WEIGHTS
from ..tokenizer import load_tokenizer, write_tokenizer
from . import diffusion, vae
from .data import LENGTHS, encode_pools, latent_scale, load_pools
from .export import export_adapter, export_pipeline
from .loop import fit


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
    return parser


def train(
    name: str, runs: Path, weights: Path, steps: int | None = None, clips: int | None = None
) -> None:
    """Train one model to the end of its recipe, or on from its newest checkpoint, and export it."""
    if name == "vae":
        recipe = vae.recipe(steps or vae.STEPS)
        fit(recipe, runs / name)
        recipe.trained.eval().save_pretrained(runs / name / "final")
        return

    autoencoder = AutoencoderKL.from_pretrained(runs / "vae" / "final").eval()
    tokenizer_folder, pool_file = runs / "tokenizer", runs / "pools.safetensors"
    write_tokenizer(tokenizer_folder)
    tokenizer = load_tokenizer(tokenizer_folder)
    if not pool_file.exists():
        lengths = LENGTHS if clips is None else dict.fromkeys(LENGTHS, clips)
        encode_pools(autoencoder, pool_file, lengths)
    scale = latent_scale(pool_file)
    autoencoder.register_to_config(scaling_factor=scale)
    pools = load_pools(pool_file, scale)

    if name == "shapeworld-sd":
        recipe = diffusion.image_recipe(tokenizer, pools, steps)
        fit(recipe, runs / name)
        unet, encoder = recipe.trained["unet"].eval(), recipe.trained["text_encoder"].eval()
        unet.save_pretrained(runs / name / "final" / "unet")
        encoder.save_pretrained(runs / name / "final" / "text_encoder")
        pipeline = "StableDiffusionPipeline"
    else:
        base = runs / "shapeworld-sd" / "final"
        encoder = CLIPTextModel.from_pretrained(base / "text_encoder").eval()
        image_unet = UNet2DConditionModel.from_pretrained(base / "unet").eval()
        recipe = _over(name)(image_unet, diffusion.Captions(tokenizer, encoder), pools, steps)
        fit(recipe, runs / name)
        unet = recipe.trained.eval()
        pipeline = "TextToVideoSDPipeline"

    if name == "shapeworld-animatediff":
        adapter = runs / name / "final"
        unet.save_motion_modules(adapter)
        export_adapter(weights / name, diffusion.load_adapter(adapter))
    else:
        export_pipeline(weights / name, pipeline, unet, autoencoder, encoder, tokenizer_folder)
    shutil.copyfile(runs / name / "curve.json", weights / name / "loss_curve.json")


def _over(name: str):
    """The recipe of a model that is trained over the image model."""
    return {
        "shapeworld-t2v": diffusion.video_recipe,
        "shapeworld-animatediff": diffusion.motion_recipe,
    }[name]


def main() -> None:
    arguments = make_parser().parse_args()
    train(arguments.name, arguments.runs, arguments.weights, arguments.steps, arguments.clips)


if __name__ == "__main__":
    main()
