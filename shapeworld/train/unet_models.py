"""The commands that train the image autoencoder and the three models of UNets on its latents.

Each stands on the ones before: on what this folder of runs has of them, or else on what ships.
"""

from collections.abc import Sequence
from pathlib import Path

from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextModel

from ..tokenizer import load_tokenizer, write_tokenizer
from . import diffusion, vae
from .captions import Captions
from .data import CLIPS, LESSONS, Pools, Source, encode_pools, latent_scale, load_pools
from .export import export_adapter, export_pipeline
from .loop import CURVE, Curve, Recipe, joined, read_curve, write_curve
from .order import Order

IMAGE, VIDEO, MOTION = "shapeworld-sd", "shapeworld-t2v", "shapeworld-animatediff"


def train_vae(order: Order) -> None:
    """The autoencoder of all three, left in the folder of runs."""
    recipe = vae.recipe(order.steps or vae.STEPS)
    order.fit(recipe)
    recipe.trained.eval().save_pretrained(order.runs / "vae" / "final")


def train_image_model(order: Order) -> None:
    """Stable Diffusion's layout and its text encoder; then once more beside a motion adapter."""
    ground, steps = Ground(order), order.further or order.steps
    pools = ground.pools((CLIPS, *LESSONS))
    stills = diffusion.image_recipe(ground.tokenizer, pools[0], steps)
    unet, encoder = stills.trained["unet"], stills.trained["text_encoder"]
    captions = Captions(ground.tokenizer, encoder)
    moving = diffusion.moving_image_recipes(unet, captions, *pools, steps=steps)
    curve = fit_all(order, IMAGE, (stills, *moving))
    final = order.runs / IMAGE / "final"
    unet.eval().save_pretrained(final / "unet")
    encoder.eval().save_pretrained(final / "text_encoder")
    moving[-1].trained["moving"].save_motion_modules(final / "adapter")
    ground.ship(IMAGE, "StableDiffusionPipeline", unet, encoder)
    write_curve(order.weights / IMAGE / CURVE, curve)


def train_video_model(order: Order) -> None:
    """ModelScope's layout, begun from the image model."""
    ground = Ground(order)
    unet, captions = ground.image_model()
    recipes = diffusion.video_recipes(
        unet, captions, *ground.pools((CLIPS, *LESSONS)), steps=order.further or order.steps
    )
    curve = fit_all(order, VIDEO, recipes)
    ground.ship(VIDEO, "TextToVideoSDPipeline", recipes[-1].trained.eval(), captions.encoder)
    write_curve(order.weights / VIDEO / CURVE, curve)


def train_motion(order: Order) -> None:
    """AnimateDiff's adapter over the image model."""
    ground = Ground(order)
    unet, captions = ground.image_model()
    own = ground.own_image_model
    adapter = diffusion.load_adapter(own / "adapter" if own else order.weights / MOTION)
    (pools,) = ground.pools((CLIPS,))
    recipe = diffusion.motion_recipe(unet, adapter, captions, pools, order.further or order.steps)
    curve = fit_all(order, MOTION, (recipe,))
    final = order.runs / MOTION / "final"
    recipe.trained.save_motion_modules(final)
    export_adapter(order.weights / MOTION, diffusion.load_adapter(final))
    write_curve(order.weights / MOTION / CURVE, curve)


class Ground:
    """What the three models are trained on: an autoencoder, words, and clips as its latents."""

    def __init__(self, order: Order) -> None:
        self.order, self.shipped = order, order.weights / IMAGE
        write_tokenizer(order.runs / "tokenizer")
        self.tokenizer = load_tokenizer(order.runs / "tokenizer")
        self.own_autoencoder = _there(order.runs / "vae" / "final")
        self.own_image_model = _there(order.runs / IMAGE / "final")
        autoencoder = AutoencoderKL.from_pretrained(self.own_autoencoder or self.shipped / "vae")
        self.autoencoder = autoencoder.float().eval()

    def image_model(self) -> tuple[UNet2DConditionModel, Captions]:
        """The image model and its text encoder."""
        base = self.own_image_model or self.shipped
        encoder = CLIPTextModel.from_pretrained(base / "text_encoder").float().eval()
        unet = UNet2DConditionModel.from_pretrained(base / "unet").float().eval()
        return unet, Captions(self.tokenizer, encoder)

    def pools(self, sources: Sequence[Source]) -> list[Pools]:
        """The latents of sources, the usual clips first; encoded where there is no file of them.

        A new autoencoder is given the factor that brings those of the usual clips to unit variance.
        """
        names = ("pools", *(f"lesson-{number}" for number in range(1, len(sources))))
        given = {
            self.order.runs / f"{name}.safetensors": source.of(self.order.clips)
            for name, source in zip(names, sources, strict=True)
        }
        for file, source in given.items():
            if not file.exists():
                encode_pools(self.autoencoder, file, source)
        if self.own_autoencoder:
            self.autoencoder.register_to_config(scaling_factor=latent_scale(next(iter(given))))
        scale = self.autoencoder.config.scaling_factor
        return [load_pools(file, scale, source) for file, source in given.items()]

    def ship(self, name: str, pipeline: str, unet: nn.Module, encoder: nn.Module) -> None:
        """Write a whole model into the folder of finished ones."""
        folder, words = self.order.weights / name, self.order.runs / "tokenizer"
        export_pipeline(folder, pipeline, unet, self.autoencoder, encoder, words)


def fit_all(order: Order, name: str, recipes: Sequence[Recipe]) -> Curve:
    """One recipe after another; returns the whole curve.

    When a model is trained further, only its last recipe is, and its curve goes on from the old.
    """
    curve: Curve = {}
    if order.further is not None:
        for recipe in recipes:
            diffusion.load_shipped(recipe, order.weights / name)
        recipes = recipes[-1:]
        curve = read_curve(order.weights / name / CURVE)
    for recipe in recipes:
        curve = joined(curve, recipe.name, order.fit(recipe))
    return curve


def _there(folder: Path) -> Path | None:
    return folder if folder.is_dir() else None
