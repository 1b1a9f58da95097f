"""The names of a Wan's weights as its authors gave them: what hosts look for in a single file.

diffusers renames them as it reads such a file; this is the way back.
"""

import json
import re
from pathlib import Path

from diffusers import AutoencoderKLWan, WanTransformer3DModel
from safetensors.torch import save_file

# Of diffusers -> of Wan's authors, applied one after another.
_TRANSFORMER = (
    (r"^condition_embedder\.time_embedder\.linear_1\.", "time_embedding.0."),
    (r"^condition_embedder\.time_embedder\.linear_2\.", "time_embedding.2."),
    (r"^condition_embedder\.text_embedder\.linear_1\.", "text_embedding.0."),
    (r"^condition_embedder\.text_embedder\.linear_2\.", "text_embedding.2."),
    (r"^condition_embedder\.time_proj\.", "time_projection.1."),
    (r"^proj_out\.", "head.head."),
    (r"^scale_shift_table$", "head.modulation"),
    (r"\.scale_shift_table$", ".modulation"),
    (r"\.attn1\.", ".self_attn."),
    (r"\.attn2\.", ".cross_attn."),
    (r"\.to_out\.0\.", ".o."),
    (r"\.to_([qkv])\.", r".\1."),
    (r"\.norm2\.", ".norm3."),
    (r"\.ffn\.net\.0\.proj\.", ".ffn.0."),
    (r"\.ffn\.net\.2\.", ".ffn.2."),
)
_VAE = (
    (r"\.norm1\.", ".residual.0."),
    (r"\.conv1\.", ".residual.2."),
    (r"\.norm2\.", ".residual.3."),
    (r"\.conv2\.", ".residual.6."),
    (r"\.conv_shortcut\.", ".shortcut."),
    (r"^quant_conv\.", "conv1."),
    (r"^post_quant_conv\.", "conv2."),
    (r"\.conv_in\.", ".conv1."),
    (r"\.norm_out\.", ".head.0."),
    (r"\.conv_out\.", ".head.2."),
    (r"\.mid_block\.resnets\.0\.", ".middle.0."),
    (r"\.mid_block\.attentions\.0\.", ".middle.1."),
    (r"\.mid_block\.resnets\.1\.", ".middle.2."),
    (r"\.down_blocks\.", ".downsamples."),
)
_OF_AN_UP_BLOCK = 4  # layers: three residual blocks and an upsampler


def transformer_name(name: str) -> str:
    """What Wan's authors call a weight of diffusers' transformer."""
    return _renamed(name, _TRANSFORMER)


def vae_name(name: str) -> str:
    """What Wan's authors call a weight of diffusers' autoencoder; they count layers through."""

    def counted(found: re.Match) -> str:
        block, kind, layer = found.groups()
        place = int(layer) if kind == "resnets" else _OF_AN_UP_BLOCK - 1
        return f"decoder.upsamples.{_OF_AN_UP_BLOCK * int(block) + place}."

    place = r"^decoder\.up_blocks\.(\d+)\.(resnets|upsamplers)\.(\d+)\."
    return _renamed(re.sub(place, counted, name), _VAE)


def _renamed(name: str, rules: tuple[tuple[str, str], ...]) -> str:
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def save_single_file(model: AutoencoderKLWan | WanTransformer3DModel, file: Path) -> None:
    """Write a model's weights in float16 and under their native names, its configuration beside.

    What a host cannot read off the weights of a transformer, the width of its text, stands in the
    file's metadata.
    """
    is_transformer = isinstance(model, WanTransformer3DModel)
    name_of = transformer_name if is_transformer else vae_name
    weights = {name_of(name): w.half().contiguous() for name, w in model.state_dict().items()}
    metadata = {"format": "pt"}
    if is_transformer:
        told = {"transformer": {"text_dim": model.config.text_dim}}
        metadata["config"] = json.dumps(told)
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(weights, file, metadata)
    model.save_config(file.parent)
