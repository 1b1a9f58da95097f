"""Trains the shape world's models, each with one command, and writes what the pack ships.

    python -m rescore.shapeworld.train vae
    python -m rescore.shapeworld.train shapeworld-sd
    python -m rescore.shapeworld.train shapeworld-t2v
    python -m rescore.shapeworld.train shapeworld-animatediff
    python -m rescore.shapeworld.train shapeworld-cascade
    python -m rescore.shapeworld.train wan-vae --device cuda --bfloat16
    python -m rescore.shapeworld.train shapeworld-wan --device cuda --bfloat16

in this order: each stands on the ones before, as this folder of runs has them or else as they
ship. The last two are for a graphics card, since their batches are large. A run that was stopped
goes on from its newest checkpoint when the command is given again. Finished weights are written to
shapeworld/weights. With --further a model is not begun anew: its shipped weights are trained for
that many steps more.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextModel

from ..models import NAMES, WEIGHTS
from ..tokenizer import load_tokenizer, write_tokenizer
from . import cascade, diffusion, vae, wan_models
from .captions import Captions
from .data import CLIPS, LESSONS, encode_pools, latent_scale, load_pools
from .export import export_adapter, export_pipeline
from .loop import Curve, Recipe, fit, joined, read_curve

WAN_NAMES = (wan_models.AUTOENCODER, wan_models.NAME)


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    summary, _, rest = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        prog="python -m rescore.shapeworld.train",
        description=summary,
        epilog=rest,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", choices=("vae", *NAMES, *WAN_NAMES))
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of checkpoints")
    parser.add_argument("--weights", type=Path, default=WEIGHTS, help="folder of finished models")
    parser.add_argument("--steps", type=int, help="this many steps instead of the recipe's")
    parser.add_argument(
        "--clips", type=int, help="train on this many clips of each length instead of the usual"
    )
    parser.add_argument(
        "--further", type=int, metavar="STEPS", help="train the shipped model for STEPS more"
    )
    parser.add_argument(
        "--bfloat16",
        action="store_true",
        help="compute in bfloat16: faster where the processor does (AVX512-BF16, AMX)",
    )
    parser.add_argument(
        "--device", default="cpu", help="where the tiny Wan is trained; all else is on the CPU"
    )
    parser.add_argument(
        "--workers", type=int, default=0, help="processes that draw the tiny Wan's scenes"
    )
    return parser


def train(
    name: str,
    runs: Path,
    weights: Path,
    steps: int | None = None,
    clips: int | None = None,
    further: int | None = None,
    bfloat16: bool = False,
    device: str = "cpu",
    workers: int = 0,
) -> None:
    """Train one model to the end of its recipe, or on from its newest checkpoint, and export it.

    With `further`, its shipped weights are trained on for so many steps instead.
    """
    if name in WAN_NAMES:
        where = {"device": device, "bfloat16": bfloat16, "workers": workers}
        if name == wan_models.AUTOENCODER:
            train_one = wan_models.train_vae
        else:
            train_one = wan_models.train_transformer
        train_one(runs, weights, steps=steps, further=further, clips=clips, **where)
        return
    if name == cascade.NAME:
        cascade.train(runs, weights, steps=steps, clips=clips, bfloat16=bfloat16)
        return
    if name == "vae":
        recipe = vae.recipe(steps or vae.STEPS)
        fit(recipe, runs / name, bfloat16=bfloat16)
        recipe.trained.eval().save_pretrained(runs / name / "final")
        return

    shipped = weights / "shapeworld-sd"
    own_vae = (runs / "vae" / "final").is_dir()
    autoencoder = AutoencoderKL.from_pretrained(
        runs / "vae" / "final" if own_vae else shipped / "vae"
    ).float()
    autoencoder.eval()
    tokenizer_folder = runs / "tokenizer"
    write_tokenizer(tokenizer_folder)
    tokenizer = load_tokenizer(tokenizer_folder)
    pool_file = runs / "pools.safetensors"
    files = {pool_file: CLIPS.of(clips)}
    if name != "shapeworld-animatediff":
        files |= {
            runs / f"lesson-{number}.safetensors": source.of(clips)
            for number, source in enumerate(LESSONS, 1)
        }
    for file, source in files.items():
        if not file.exists():
            encode_pools(autoencoder, file, source)
    scale = latent_scale(pool_file) if own_vae else autoencoder.config.scaling_factor
    autoencoder.register_to_config(scaling_factor=scale)
    pools = [load_pools(file, scale, source) for file, source in files.items()]

    def ship(pipeline: str, unet: nn.Module, encoder: nn.Module) -> None:
        """Write a whole model into the folder of finished ones."""
        folder = weights / name
        export_pipeline(folder, pipeline, unet, autoencoder, encoder, tokenizer_folder)

    run = Run(name, runs, weights, further, bfloat16)
    final = runs / name / "final"
    if name == "shapeworld-sd":
        stills = diffusion.image_recipe(tokenizer, pools[0], further or steps)
        unet, encoder = stills.trained["unet"], stills.trained["text_encoder"]
        moving = diffusion.moving_image_recipes(
            unet, Captions(tokenizer, encoder), *pools, steps=further or steps
        )
        curve = run.fit(stills, *moving)
        unet.eval().save_pretrained(final / "unet")
        encoder.eval().save_pretrained(final / "text_encoder")
        moving[-1].trained["moving"].save_motion_modules(final / "adapter")
        ship("StableDiffusionPipeline", unet, encoder)
    else:
        own = runs / "shapeworld-sd" / "final"
        base = own if own.is_dir() else shipped
        encoder = CLIPTextModel.from_pretrained(base / "text_encoder").float().eval()
        image_unet = UNet2DConditionModel.from_pretrained(base / "unet").float().eval()
        captions = Captions(tokenizer, encoder)
        if name == "shapeworld-t2v":
            recipes = diffusion.video_recipes(image_unet, captions, *pools, steps=further or steps)
            curve = run.fit(*recipes)
            ship("TextToVideoSDPipeline", recipes[-1].trained.eval(), encoder)
        else:
            adapter = diffusion.load_adapter(own / "adapter" if base == own else weights / name)
            recipe = diffusion.motion_recipe(
                image_unet, adapter, captions, pools[0], further or steps
            )
            curve = run.fit(recipe)
            recipe.trained.save_motion_modules(final)
            export_adapter(weights / name, diffusion.load_adapter(final))
    (weights / name / "loss_curve.json").write_text(json.dumps(curve), "utf-8")


@dataclass(frozen=True)
class Run:
    """One training: what is trained, and where checkpoints and finished weights lie."""

    name: str
    runs: Path
    weights: Path
    further: int | None
    bfloat16: bool

    def fit(self, *recipes: Recipe) -> Curve:
        """The training itself, one recipe after another; returns the whole curve.

        When a model is trained further, only its last recipe is, and its curve goes on from the
        old.
        """
        curve: Curve = {}
        if self.further is not None:
            shipped = self.weights / self.name
            for recipe in recipes:
                diffusion.load_shipped(recipe, shipped)
            recipes = recipes[-1:]
            curve = read_curve(shipped / "loss_curve.json")
        for recipe in recipes:
            points = fit(recipe, self.runs / recipe.name, bfloat16=self.bfloat16)
            curve = joined(curve, recipe.name, points)
        return curve


def main() -> None:
    arguments = make_parser().parse_args()
    train(**vars(arguments))


if __name__ == "__main__":
    main()
