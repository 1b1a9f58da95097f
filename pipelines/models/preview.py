"""Latents as rough pictures, without a decoder: a linear map fitted to the clip being edited."""

from collections.abc import Callable
from typing import TypeAlias

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

Preview: TypeAlias = Callable[[Tensor], Tensor]  # latents [c, h, w] to pixels [h, w, 3] in 0..1


def fit_preview(latent: Float[Tensor, "c h w"], pixels: Float[Tensor, "3 H W"]) -> Preview:
    """The best linear map from latents to colours, by least squares on one decoded frame.

    `latent` is one frame of model latents, `pixels` the same frame decoded, in 0..1. The colour of
    a latent pixel is nearly linear in its channels. The coefficients depend on the VAE; fitting
    them to the clip itself works for every model and costs one decoded frame.
    """
    small = functional.interpolate(pixels[None], latent.shape[1:], mode="area")[0]
    channels = rearrange(_with_constant(latent), "c h w -> (h w) c").double().cpu()
    colours = rearrange(small, "c h w -> (h w) c").double().cpu()
    # A small ridge term: without it a frame of one colour has no unique map.
    gram = channels.T @ channels + 1e-3 * torch.eye(channels.shape[1], dtype=torch.float64)
    weights = torch.linalg.solve(gram, channels.T @ colours)

    def preview(frame: Float[Tensor, "c h w"]) -> Float[Tensor, "h w 3"]:
        inputs = rearrange(_with_constant(frame), "c h w -> h w c")
        return (inputs @ weights.to(inputs)).clamp(0, 1)

    return preview


def _with_constant(frame: Tensor) -> Tensor:
    return torch.cat([frame, frame.new_ones(1, *frame.shape[1:])])
