"""Check that a UNet can be used: its inputs must be latents, a timestep and a text, no more."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..layout import problem

# The purpose of a UNet by its number of input channels, for latents with 4 channels.
TASKS = {
    5: "a depth-to-image model",
    7: "an upscaler",
    8: "an instruct-pix2pix model",
    9: "an inpainting model",
}
# The blocks that the UNet of each kind of model may have.
_BLOCKS = {
    "image": {"CrossAttn{}Block2D", "{}Block2D"},
    "text-to-video": {"CrossAttn{}Block3D", "{}Block3D"},
}
_MIDDLES = (None, "UNetMidBlock2DCrossAttn", "UNetMidBlock3DCrossAttn")
# Settings of UNets that take more than a text, or use it in another way.
_OTHER_INPUTS = {
    "addition_embed_type": "is it XL?",
    "class_embed_type": "is it conditioned on a class or an image?",
    "num_class_embeds": "is it conditioned on a class?",
    "encoder_hid_dim": "is it conditioned on an image?",
    "time_cond_proj_dim": "is it distilled for few steps, as LCM?",
    "dual_cross_attention": "two cross-attentions in each block",
    "only_cross_attention": "no self-attention",
}


def check_parts(
    unet: Mapping[str, Any], vae: Mapping[str, Any], text_width: int, kind: str, model: Path
) -> None:
    """Raise a `ModelError` unless the settings of the parts fit each other."""
    latent = vae.get("latent_channels", 4)
    for side in ("in_channels", "out_channels"):
        if (channels := unet.get(side, 4)) != latent:
            known = side == "in_channels" and latent == 4 and isinstance(channels, int)
            task = TASKS.get(channels) if known else None
            found = f"has a unet with {side} = {channels} over a VAE with {latent} channels"
            raise problem(kind, model, found + (f" (it is {task})." if task else "."))
    if (width := unet.get("cross_attention_dim")) != text_width:
        found = f"has a unet for texts {width} wide and an encoder that gives {text_width}."
        raise problem(kind, model, found)
    for setting, hint in _OTHER_INPUTS.items():
        if unet.get(setting) not in (None, False):
            found = (
                f"has a unet that wants more than a text ({setting} = {unet[setting]!r}; {hint})."
            )
            raise problem(kind, model, found)
    _check_blocks(unet, kind, model)
    for setting in ("scaling_factor", "shift_factor"):
        value = vae.get(setting)
        number = value is None or isinstance(value, int | float)
        if not number or (setting == "scaling_factor" and value == 0):
            raise problem(kind, model, f"has a VAE with {setting} = {value!r}.")


def _check_blocks(unet: Mapping[str, Any], kind: str, model: Path) -> None:
    for way in ("Down", "Up"):
        known = {block.format(way) for block in _BLOCKS[kind]}
        blocks = unet.get(f"{way.lower()}_block_types")
        if not isinstance(blocks, list) or not set(map(str, blocks)) <= known:
            found = f"has a unet with the {way.lower()} blocks {blocks!r}"
            raise problem(kind, model, f"{found}; {' and '.join(sorted(known))} are known.")
    if (middle := unet.get("mid_block_type")) not in _MIDDLES:
        raise problem(kind, model, f"has a unet with {middle!r} in its middle.")
    if unet.get("attention_type", "default") != "default":
        found = f"has a unet with {unet['attention_type']} attention (is it GLIGEN?)."
        raise problem(kind, model, found)
