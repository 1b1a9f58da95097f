"""Wan's autoencoder over a whole clip at once.

diffusers encodes and decodes four frames at a time and hands features on, to save memory. All
convolutions look back in time alone, so the whole clip at once gives the same numbers, with a
fifth of the kernels to start.
"""

import torch
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import WanResample
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn


def encode(vae: AutoencoderKLWan, clip: Float[Tensor, "b 3 f h w"]) -> Float[Tensor, "b d k y x"]:
    """What `vae.encode` calculates of a clip of 1 + 4 k frames: means, then log variances."""
    encoder = vae.encoder
    x = encoder.conv_in(clip)
    for layer in encoder.down_blocks:
        x = _down(layer, x) if isinstance(layer, WanResample) else layer(x)
    return vae.quant_conv(_ended(encoder, encoder.mid_block(x)))


def decode(vae: AutoencoderKLWan, z: Float[Tensor, "b c k y x"]) -> Float[Tensor, "b 3 f h w"]:
    """What `vae.decode` calculates, before it clamps to -1..1."""
    decoder = vae.decoder
    x = decoder.mid_block(decoder.conv_in(vae.post_quant_conv(z)))
    for block in decoder.up_blocks:
        for layer in block.resnets:
            x = layer(x)
        if block.upsamplers is not None:
            x = _up(block.upsamplers[0], x)
    return _ended(decoder, x)


def _ended(half: nn.Module, x: Tensor) -> Tensor:
    return half.conv_out(half.nonlinearity(half.norm_out(x)))


def _down(layer: WanResample, x: Tensor) -> Tensor:
    x = _by_frame(layer.resample, x)
    if layer.mode == "downsample3d" and x.shape[2] > 1:
        x = _joined(x[:, :, :1], layer.time_conv(x))
    return x


def _up(layer: WanResample, x: Tensor) -> Tensor:
    if layer.mode == "upsample3d" and x.shape[2] > 1:
        pairs = layer.time_conv(x[:, :, 1:])
        pairs = rearrange(pairs, "b (two c) f h w -> b c (f two) h w", two=2)
        x = _joined(x[:, :, :1], pairs)
    return _by_frame(layer.resample, x)


def _joined(first: Tensor, others: Tensor) -> Tensor:
    """The first frame and the others, with the channels of a pixel side by side in memory."""
    return torch.cat([first, others], dim=2).to(memory_format=torch.channels_last_3d)


def _by_frame(layer: nn.Module, x: Tensor) -> Tensor:
    frames = layer(rearrange(x, "b c f h w -> (b f) c h w"))
    return rearrange(frames, "(b f) c h w -> b c f h w", b=len(x))
