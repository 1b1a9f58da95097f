"""Stable Diffusion 1 in a single file: the names of its weights for diffusers' modules.

A checkpoint holds three models in one file. The functions here give, for every weight of a
diffusers module, its name in the file (the layout of latent-diffusion).
"""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ..layout import problem
from .fit import TASKS

UNET_PREFIX = "model.diffusion_model."
VAE_PREFIX = "first_stage_model."
TEXT_PREFIX = "cond_stage_model.transformer."

# What a file is if a name begins like this: something else than a Stable Diffusion 1 checkpoint.
_TELLTALES = {
    "conditioner.embedders.": "is a Stable Diffusion XL checkpoint.",
    "cond_stage_model.model.": "is a Stable Diffusion 2 checkpoint.",
    "model.diffusion_model.double_blocks.": "is a Flux checkpoint.",
    "lora_": "is a LoRA, and no whole model.",
    "down_blocks.0.motion_modules.": "is an AnimateDiff motion module.",
    "encoder.down.": "is an autoencoder (VAE) alone.",
    "down_blocks.": "is a unet alone, in diffusers layout.",
}

_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_UNET_ENDS = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_UNET_MIDDLE = {"resnets.0": 0, "attentions.0": 1, "resnets.1": 2}
_VAE_ATTENTION = {
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
}


def original_unet_name(name: str, layers_per_block: int, text_blocks: Iterable[int] = ()) -> str:
    """The name in a checkpoint for a weight of a `UNet2DConditionModel`.

    The file counts layers through all blocks; each block ends with its resampler. `text_blocks` are
    the up blocks with attention, where the upsampler is the third part and not the second.
    """
    for ours, theirs in _UNET_ENDS.items():
        if name.startswith(ours + "."):
            return theirs + name.removeprefix(ours)
    side, block, module, index, rest = _split_block_name(name)
    if side == "mid_block":
        place = f"middle_block.{_UNET_MIDDLE[f'{module}.{index}']}"
    elif side == "down_blocks":
        place = f"input_blocks.{1 + block * (layers_per_block + 1) + index}"
        if module == "downsamplers":
            return f"input_blocks.{(block + 1) * (layers_per_block + 1)}.0.op." + rest[5:]
    else:
        place = f"output_blocks.{block * (layers_per_block + 1) + index}"
        if module == "upsamplers":
            layer = block * (layers_per_block + 1) + layers_per_block
            return f"output_blocks.{layer}.{2 if block in text_blocks else 1}.{rest}"
    if side != "mid_block":
        place += ".1" if module == "attentions" else ".0"
    return f"{place}.{_renamed(rest, _RESNET) if module == 'resnets' else rest}"


def original_vae_name(name: str, blocks: int) -> str:
    """The name in a checkpoint for a weight of an `AutoencoderKL`.

    The file counts decoder blocks from the output on, and calls a 1x1 shortcut `nin_shortcut`.
    """
    coder, _, inner = name.partition(".")
    if not inner.startswith(("down_blocks", "up_blocks", "mid_block")):
        return name.replace(".conv_norm_out.", ".norm_out.")
    side, block, module, index, rest = _split_block_name(inner)
    if side == "mid_block" and module == "attentions":
        return f"{coder}.mid.attn_1.{_renamed(rest, _VAE_ATTENTION)}"
    rest = rest.replace("conv_shortcut", "nin_shortcut")
    if side == "mid_block":
        return f"{coder}.mid.block_{index + 1}.{rest}"
    place = f"down.{block}" if side == "down_blocks" else f"up.{blocks - 1 - block}"
    inside = {"downsamplers": "downsample", "upsamplers": "upsample"}.get(module)
    return f"{coder}.{place}.{inside or f'block.{index}'}.{rest}"


def unet_weights(
    checkpoint: Mapping[str, Tensor], names: Iterable[str], config: Mapping[str, Any]
) -> dict[str, Tensor]:
    """The weights in a checkpoint for a `UNet2DConditionModel` with these names of weights."""
    types = config["up_block_types"]
    text_blocks = [block for block, kind in enumerate(types) if kind.startswith("CrossAttn")]

    def original(name: str) -> str:
        return original_unet_name(name, config["layers_per_block"], text_blocks)

    return _taken(checkpoint, names, UNET_PREFIX, original)


def vae_weights(
    checkpoint: Mapping[str, Tensor], names: Iterable[str], config: Mapping[str, Any]
) -> dict[str, Tensor]:
    """The weights in a checkpoint for an `AutoencoderKL` with these names of weights."""
    blocks = len(config["block_out_channels"])
    taken = _taken(checkpoint, names, VAE_PREFIX, lambda name: original_vae_name(name, blocks))
    # In the file, the projections of its attention are 1x1 convolutions.
    return {
        name: tensor[..., 0, 0] if ".attentions." in name and tensor.ndim == 4 else tensor
        for name, tensor in taken.items()
    }


def text_weights(checkpoint: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a checkpoint's CLIP text encoder, under transformers' names."""
    return {
        name.removeprefix(TEXT_PREFIX): tensor
        for name, tensor in checkpoint.items()
        if name.startswith(TEXT_PREFIX)
    }


def check_checkpoint(checkpoint: Mapping[str, Tensor], path: Path) -> None:
    """Raise a `ModelError` unless the file is a complete SD 1 checkpoint; it says what it is."""
    for start, found in _TELLTALES.items():
        if any(name.startswith(start) for name in checkpoint):
            raise problem("image", path, found)
    for prefix, part in ((UNET_PREFIX, "unet"), (VAE_PREFIX, "VAE"), (TEXT_PREFIX, "text encoder")):
        if not any(name.startswith(prefix) for name in checkpoint):
            raise problem("image", path, f"holds no {part} (no weight is named {prefix}...).")
    first = checkpoint.get(f"{UNET_PREFIX}input_blocks.0.0.weight")
    if first is not None and first.ndim == 4 and (task := TASKS.get(first.shape[1])):
        raise problem("image", path, f"is {task} (its unet takes {first.shape[1]} channels).")


def _taken(
    checkpoint: Mapping[str, Tensor],
    names: Iterable[str],
    prefix: str,
    original: Callable[[str], str],
) -> dict[str, Tensor]:
    origins = {name: prefix + original(name) for name in names}
    return {name: checkpoint[origin] for name, origin in origins.items() if origin in checkpoint}


def _split_block_name(name: str) -> tuple[str, int, str, int, str]:
    """`down_blocks.1.resnets.0.conv1.weight` -> (down_blocks, 1, resnets, 0, conv1.weight)."""
    side, rest = name.split(".", 1)
    block = "0"
    if side != "mid_block":
        block, rest = rest.split(".", 1)
    module, index, rest = rest.split(".", 2)
    return side, int(block), module, int(index), rest


def _renamed(rest: str, table: Mapping[str, str]) -> str:
    for ours, theirs in table.items():
        if rest.startswith(ours + "."):
            return theirs + rest.removeprefix(ours)
    return rest
