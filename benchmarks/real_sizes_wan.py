"""Wan for the benchmark of real sizes: its models, and a step of what runs on them."""

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from real_sizes_lab import Case, Lab, random_module
from rescore.pipelines.distillation.delta_denoising import DeltaDenoising
from rescore.pipelines.distillation.score_distillation import Settings, distil
from rescore.pipelines.distillation.terms import Weighted
from rescore.pipelines.models.denoiser import Prompts
from rescore.pipelines.models.process import RectifiedFlow
from rescore.pipelines.models.wan.model import WanModel
from rescore.shapeworld.models import load_shapeworld
from torch import Tensor, nn


class WanSize(NamedTuple):
    """A Wan as published, by what differs from diffusers' defaults, and the clip it is made for."""

    transformer: Mapping[str, int]
    vae: Mapping[str, Any]
    clip: tuple[int, int, int]  # frames, height, width


_WIDE_VAE = {
    "base_dim": 160, "decoder_base_dim": 256, "z_dim": 48, "is_residual": True,
    "in_channels": 12, "out_channels": 12, "patch_size": 2, "scale_factor_spatial": 16,
    "dim_mult": [1, 2, 4, 4], "latents_mean": [0.0] * 48, "latents_std": [1.0] * 48,
}  # fmt: skip
WANS = {
    "Wan 2.1 1.3B": WanSize(
        {"num_attention_heads": 12, "ffn_dim": 8960, "num_layers": 30}, {}, (81, 480, 832)
    ),
    "Wan 2.2 5B": WanSize(
        {"num_attention_heads": 24, "ffn_dim": 14336, "num_layers": 30, "in_channels": 48,
         "out_channels": 48}, _WIDE_VAE, (121, 704, 1280),
    ),
    "Wan 2.1 14B": WanSize({}, {}, (81, 480, 832)),
}  # fmt: skip


def real_wan(size: WanSize, device: str, dtype: torch.dtype) -> WanModel:
    """A Wan with random weights and without its text encoder; its autoencoder is in float32."""
    return WanModel(
        "Wan",
        random_module(lambda: WanTransformer3DModel(**size.transformer), device, dtype),
        random_module(lambda: AutoencoderKLWan(**size.vae), device, torch.float32),
        nn.Identity(),
        None,
        RectifiedFlow(5.0),
    )


def wan(lab: Lab, name: str) -> tuple[WanModel, tuple[int, int, int]]:
    """A Wan by its name, and frames, height and width of a clip; the tiny one where all is tiny."""
    if not lab.tiny:
        return real_wan(WANS[name], lab.device, getattr(torch, lab.run.precision)), WANS[name].clip
    model = load_shapeworld("shapeworld-wan")
    model.to(lab.device)
    return model, (9, lab.run.video_height, lab.run.video_width)


def wan_latents(lab: Lab, model: WanModel, clip: tuple[int, int, int]) -> Tensor:
    frames, height, width = clip
    codec, channels = model.codec, model.transformer.config.in_channels
    cells = 1 + (frames - 1) // codec.stride, height // codec.factor, width // codec.factor
    return torch.randn(1, channels, *cells, device=lab.device)


def wan_delta_denoising(lab: Lab, name: str) -> Case:
    model, clip = wan(lab, name)
    model.denoiser.rows_per_call = lab.clips_per_call
    width = model.transformer.config.text_dim
    prompts = Prompts(*(torch.randn(1, 512, width, device=lab.device) for _ in range(3)))
    work = partial(
        distil,
        wan_latents(lab, model, clip),
        (Weighted(DeltaDenoising()),),
        model.denoiser,
        prompts,
        Settings(steps=2),
    )
    return Case((model.transformer,), work, 2, batched=True)


def wan_encoding(lab: Lab, name: str) -> Case:
    model, clip = wan(lab, name)
    return Case((model.vae,), partial(model.codec.encode, torch.zeros(1, 3, *clip)))


def wan_decoding(lab: Lab, name: str) -> Case:
    model, clip = wan(lab, name)
    return Case((model.vae,), partial(model.codec.decode, wan_latents(lab, model, clip)))
