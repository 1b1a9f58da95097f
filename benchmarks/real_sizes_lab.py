"""What the benchmark of real sizes runs on: models of real size, and clips and prompts for them."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from diffusers import (
    AutoencoderKL,
    MotionAdapter,
    UNet2DConditionModel,
    UNet3DConditionModel,
    UNetMotionModel,
)
from rescore.pipelines.inversion.trajectory import Trajectory
from rescore.pipelines.models.denoiser import Prompts
from rescore.pipelines.models.process import VariancePreserving
from rescore.pipelines.models.unet.backbone import Backbone
from rescore.pipelines.models.unet.load import ANIMATEDIFF_SCHEDULE, SD1_CONFIGS
from rescore.shapeworld.models import load_shapeworld
from torch import Tensor, nn

WORDS = 77  # tokens of a prompt
SHAPEWORLD = {
    "text-to-video": "shapeworld-t2v",
    "image": "shapeworld-sd",
    "animatediff": "shapeworld-animatediff",
}


@dataclass(frozen=True)
class Run:
    """Sizes of clips, in pixels and frames, and what models are in."""

    video_width: int = 576  # of ZeroScope's clips
    video_height: int = 320
    image_width: int = 512  # of those of Stable Diffusion and AnimateDiff
    image_height: int = 512
    frames: int = 16
    short: int = 8  # frames of a short clip
    long: int = 48  # of one that goes through in windows
    precision: str = "bfloat16"  # of unets; autoencoders are in float32, as the loaders leave them


TINY = Run(64, 64, 64, 64, precision="float32")


@dataclass(frozen=True)
class Lab:
    """Models on a device, and random clips and prompts for them."""

    run: Run
    device: str = "meta"
    tiny: bool = False
    random: bool = False  # whether tiny models, too, have random weights
    clips_per_call: int | None = None  # that a unet gets at once; None: all

    def model(self, kind: str) -> Backbone:
        """One of the models, by its kind."""
        if self.tiny:
            model = load_shapeworld(SHAPEWORLD[kind])
            if self.random:
                make = partial(type(model.unet).from_config, model.unet.config)
                dtype = getattr(torch, self.run.precision)
                model = replace(model, unet=random_module(make, self.device, dtype))
            model.to(self.device)
        else:
            model = real_model(kind, self.device, getattr(torch, self.run.precision))
        model.denoiser.rows_per_call = self.clips_per_call
        return model

    def size(self, model: Backbone) -> tuple[int, int]:
        """Height and width of a model's clips."""
        if model.kind == "text-to-video":
            return self.run.video_height, self.run.video_width
        return self.run.image_height, self.run.image_width

    def latents(self, model: Backbone, frames: int) -> Tensor:
        """A clip as the model's scaled latents, `[1, c, f, h, w]`."""
        sides = (-(-side // model.vae_factor) for side in self.size(model))
        return torch.randn(1, model.unet.config.in_channels, frames, *sides, device=self.device)

    def prompts(self, model: Backbone) -> Prompts:
        width = model.unet.config.cross_attention_dim
        return Prompts(*(torch.randn(1, WORDS, width, device=self.device) for _ in range(3)))

    def path(self, model: Backbone, steps: int) -> Trajectory:
        """An inverted clip of `frames` frames."""
        latents = [self.latents(model, self.run.frames) for _ in range(steps + 1)]
        return Trajectory(torch.stack(latents), model.process.grid(steps))


def real_model(kind: str, device: str, dtype: torch.dtype) -> Backbone:
    """A model as published, with random weights and without its text encoder, which no step uses.

    ZeroScope's unet is diffusers' default `UNet3DConditionModel`, AnimateDiff's motion modules are
    its default `MotionAdapter`; the autoencoder and the noise schedule are Stable Diffusion's.
    """
    config = {
        part: json.loads((SD1_CONFIGS / part / f"{file}.json").read_text("utf-8"))
        for part, file in (("unet", "config"), ("vae", "config"), ("scheduler", "scheduler_config"))
    }

    def image_unet() -> nn.Module:
        return UNet2DConditionModel.from_config(config["unet"])

    makers = {
        "text-to-video": UNet3DConditionModel,
        "image": image_unet,
        "animatediff": lambda: UNetMotionModel.from_unet2d(
            image_unet(),
            MotionAdapter(use_motion_mid_block=False),  # as in v3, and v1; v2 has one more
            load_weights=False,
        ),
    }
    betas = ANIMATEDIFF_SCHEDULE if kind == "animatediff" else config["scheduler"]
    return Backbone(
        name=kind,
        kind=kind,
        unet=random_module(makers[kind], device, dtype),
        vae=random_module(lambda: AutoencoderKL.from_config(config["vae"]), device, torch.float32),
        text_encoder=nn.Identity(),
        tokenizer=None,
        process=VariancePreserving.from_config(betas),
    )


def random_module(make: Callable[[], nn.Module], device: str, dtype: torch.dtype) -> nn.Module:
    """A module with random weights, made where they are to lie."""
    with torch.device("meta"):
        module = make()
    weights = {}
    for name, place in module.state_dict().items():
        weights[name] = torch.empty(place.shape, device=device, dtype=dtype).normal_(std=0.02)
        if place.ndim == 1 and name.endswith("weight"):
            weights[name].fill_(1)  # of a norm: features go through as they would
    module.load_state_dict(weights, assign=True)
    return module.eval().requires_grad_(False)


@dataclass(frozen=True)
class Case:
    """What lies on the card for some steps of a method, and the work of these steps.

    Two steps where a loop keeps something from the first. `batched` is for calls of several clips,
    which can also go through the model one after the other.
    """

    weights: tuple[nn.Module, ...]
    work: Callable[[], object]
    steps: int = 1
    batched: bool = False
