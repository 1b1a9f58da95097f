"""The tiny Wan: a real `AutoencoderKLWan` and a real `WanTransformer3DModel`, and how they load.

Each ships as one file that names the weights as Wan's authors do: what ComfyUI's own loaders
detect, and what diffusers' `from_single_file` reads. Latents have the mean and the deviation of
Wan 2.1's in every channel, since a host knows no others. Texts come from the text encoder that all
models of the shape world share.
"""

from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from .finished import WEIGHTS, require

if TYPE_CHECKING:
    from diffusers import AutoencoderKLWan, WanTransformer3DModel
    from torch import nn

    from ..pipelines.models.wan.model import WanModel

FOLDER = WEIGHTS / "shapeworld-wan"
# In a folder of a finished model.
TRANSFORMER = Path("transformer", "shapeworld_wan.safetensors")
VAE = Path("vae", "shapeworld_wan_vae.safetensors")

VAE_CONFIG: dict[str, Any] = {"base_dim": 8}
TRANSFORMER_CONFIG: dict[str, Any] = {
    # A host reads the number of heads off the width: one for every 128 channels.
    "num_attention_heads": 1,
    "attention_head_dim": 128,
    "num_layers": 12,
    "ffn_dim": 400,
    "text_dim": 64,
}
MAX_FRAMES = 17  # of the clips that the transformer was trained on
SCHEDULE = {
    "_class_name": "FlowMatchEulerDiscreteScheduler",
    "num_train_timesteps": 1000,
    "shift": 5.0,  # of the clock it was trained on: sigma = shift u / (1 + (shift - 1) u)
}


def build_vae() -> "AutoencoderKLWan":
    """From 3 x (1 + 4 k) x 64 x 64 pixels to 16 x (1 + k) x 8 x 8 latents; 0.9 million weights."""
    from diffusers import AutoencoderKLWan

    return AutoencoderKLWan(**VAE_CONFIG)


def build_transformer() -> "WanTransformer3DModel":
    """Wan 2.1's text-to-video transformer; 3 million weights, texts of 24 tokens of width 64."""
    from diffusers import WanTransformer3DModel

    return WanTransformer3DModel(**TRANSFORMER_CONFIG)


def load_vae(folder: Path = FOLDER) -> "AutoencoderKLWan":
    """The finished autoencoder, in float32."""
    from diffusers import AutoencoderKLWan

    return _loaded(AutoencoderKLWan, folder / VAE)


def load_transformer(folder: Path = FOLDER) -> "WanTransformer3DModel":
    """The finished transformer, in float32."""
    from diffusers import WanTransformer3DModel

    return _loaded(WanTransformer3DModel, folder / TRANSFORMER)


@torch.inference_mode(False)
def load_wan(text_encoder: "nn.Module", tokenizer: Any) -> "WanModel":
    """The finished model as the pack's loops use it, with the text encoder of the others."""
    from ..pipelines.models.process import RectifiedFlow
    from ..pipelines.models.text import encode_prompt
    from ..pipelines.models.wan.model import WanModel

    return WanModel(
        FOLDER.name,
        load_transformer().requires_grad_(False),
        load_vae().requires_grad_(False),
        text_encoder,
        tokenizer,
        RectifiedFlow(SCHEDULE["shift"]),
        encode_prompt,
        MAX_FRAMES,
    )


def _loaded(kind: type, file: Path):
    config = str(file.parent)
    model = kind.from_single_file(str(require(file)), config=config, local_files_only=True)
    return model.float().eval()


def standard(
    vae: "AutoencoderKLWan", latents: Float[Tensor, "b c k y x"]
) -> Float[Tensor, "b c k y x"]:
    """An autoencoder's latents with mean 0 and deviation 1, as a transformer gets them."""
    middle, deviation = _statistics(vae, latents)
    return (latents - middle) / deviation


def own(vae: "AutoencoderKLWan", z: Float[Tensor, "b c k y x"]) -> Float[Tensor, "b c k y x"]:
    """The way back from `standard`."""
    middle, deviation = _statistics(vae, z)
    return z * deviation + middle


def _statistics(vae: "AutoencoderKLWan", like: Tensor) -> tuple[Tensor, Tensor]:
    middle, deviation = (
        torch.tensor(values, device=like.device).view(-1, 1, 1, 1)
        for values in (vae.config.latents_mean, vae.config.latents_std)
    )
    return middle, deviation


@torch.no_grad()
def sample(
    transformer: "WanTransformer3DModel",
    text: Float[Tensor, "b l d"],
    nothing: Float[Tensor, "1 l d"],
    noise: Float[Tensor, "b c k y x"],
    *,
    steps: int = 25,
    cfg: float = 4.0,
    shift: float = SCHEDULE["shift"],
) -> Float[Tensor, "b c k y x"]:
    """Standard latents from noise, by Euler's method and classifier-free guidance."""
    share = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    sigmas = (shift * share / (1 + (shift - 1) * share)).tolist()
    z, both = noise, torch.cat([nothing.expand_as(text), text])
    for sigma, after in pairwise(sigmas):
        t = torch.full((len(both),), SCHEDULE["num_train_timesteps"] * sigma, device=z.device)
        without, told = transformer(torch.cat([z, z]), t, both, return_dict=False)[0].chunk(2)
        z = z + (after - sigma) * (without + cfg * (told - without))
    return z
