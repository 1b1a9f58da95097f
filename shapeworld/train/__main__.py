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
from collections.abc import Callable
from pathlib import Path

from ..finished import WEIGHTS
from . import cascade, unet_models, wan_models
from .order import Order

TRAININGS: dict[str, Callable[[Order], None]] = {
    "vae": unet_models.train_vae,
    unet_models.IMAGE: unet_models.train_image_model,
    unet_models.VIDEO: unet_models.train_video_model,
    unet_models.MOTION: unet_models.train_motion,
    cascade.NAME: cascade.train,
    wan_models.AUTOENCODER: wan_models.train_vae,
    wan_models.NAME: wan_models.train_transformer,
}


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    summary, _, rest = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        prog="python -m rescore.shapeworld.train",
        description=summary,
        epilog=rest,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", choices=TRAININGS)
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


def train(arguments: argparse.Namespace) -> None:
    """Train one model to the end of its recipe, or on from its newest checkpoint, and export it."""
    if arguments.device != "cpu" and arguments.name not in (
        wan_models.AUTOENCODER,
        wan_models.NAME,
    ):
        raise SystemExit(
            f"{arguments.name} is trained on the CPU alone, not on {arguments.device}: leave out "
            "--device. Only the tiny Wan trains elsewhere."
        )
    TRAININGS[arguments.name](Order.of(arguments))


def main() -> None:
    train(make_parser().parse_args())


if __name__ == "__main__":
    main()
