"""Load Wan from a diffusers folder: only from this machine, only weights, never code."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

from ..layout import (
    check_config,
    check_folder,
    check_numbers,
    problem,
    read_json,
    text_settings,
    weight_files,
)
from ..process import RectifiedFlow
from ..t5 import shared_embedding, tie_embedding
from ..tokenizer import load_tokenizer
from ..weights import build, read_weights
from .model import WanModel

_KIND = "wan"
_FLOW_EXPECTED = "a model trained by flow matching over 1000 timesteps, with one shift"


@torch.inference_mode(False)  # tensors made in inference mode can never be differentiated through
def load_wan(
    folder: Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    parts: Mapping[str, Path] | None = None,
) -> WanModel:
    """A text-to-video model of Wan (2.1, or 2.2 5B) from its diffusers folder.

    `dtype` is the precision of the transformer and the text encoder: by default float32 on the CPU
    and bfloat16 elsewhere. The norms and modulations of the transformer, and the autoencoder, stay
    in float32. `parts` are folders of parts ("vae", "text_encoder", "tokenizer") stored elsewhere.

    Raises:
        ModelError: if files are missing, damaged or of another model.
    """
    if dtype is None:
        dtype = torch.float32 if torch.device(device).type == "cpu" else torch.bfloat16
    places = check_folder(folder, _KIND, parts or {})
    transformer = check_config(places["transformer"], "WanTransformer3DModel", _KIND, folder)
    vae = check_config(places["vae"], "AutoencoderKLWan", _KIND, folder)
    settings = check_config(places["text_encoder"], "UMT5EncoderModel", _KIND, folder)
    text_config = text_settings(UMT5Config, settings, _KIND, folder)
    _check_parts(transformer, vae, text_config.d_model, folder)
    for cls, settings in ((WanTransformer3DModel, transformer), (AutoencoderKLWan, vae)):
        check_numbers(cls, settings, _KIND, folder)
    schedule = read_json(places["scheduler"] / "scheduler_config.json", _KIND, folder)
    process = RectifiedFlow(_shift(schedule, folder))
    # Loaded first, because it is small: its errors should come before gigabytes are read.
    tokenizer = load_tokenizer(
        PreTrainedTokenizerFast, places["tokenizer"], text_config.vocab_size, _KIND, folder
    )

    def stored(part: str) -> dict[str, Tensor]:
        return read_weights(weight_files(places[part], _KIND, folder), _KIND, folder)

    return WanModel(
        name=folder.name,
        transformer=build(
            lambda: WanTransformer3DModel.from_config(transformer),
            stored("transformer"),
            dtype,
            _KIND,
            folder,
            whole=WanTransformer3DModel._keep_in_fp32_modules,
            fill=_fill_rope,
        ).to(device),
        vae=build(
            lambda: AutoencoderKLWan.from_config(vae), stored("vae"), torch.float32, _KIND, folder
        ).to(device),
        text_encoder=build(
            lambda: UMT5EncoderModel(text_config),
            stored("text_encoder"),
            dtype,
            _KIND,
            folder,
            shared_embedding,
            # These layers overflow in float16; transformers keeps them in float32, too.
            whole=("wo",) if dtype == torch.float16 else (),
            fill=tie_embedding,
        ).to(device),
        tokenizer=tokenizer,
        process=process,
    )


def _fill_rope(transformer: nn.Module) -> None:
    """Make the tables of rotary positions, which no file stores."""
    rope = transformer.rope
    transformer.rope = type(rope)(rope.attention_head_dim, rope.patch_size, rope.max_seq_len)


def _check_parts(
    transformer: Mapping[str, Any], vae: Mapping[str, Any], text_width: int, folder: Path
) -> None:
    """Raise a `ModelError` unless the settings of the parts fit each other."""
    latent = vae.get("z_dim", 16)
    for side in ("in_channels", "out_channels"):
        if (channels := transformer.get(side, 16)) != latent:
            hint = " (is it an image-to-video model?)" if channels > latent else ""
            found = f"has a transformer with {side} = {channels} over a VAE with {latent} channels"
            raise problem(_KIND, folder, f"{found}{hint}.")
    if transformer.get("image_dim") is not None:
        found = "has a transformer that wants an image beside the text (is it image-to-video?)."
        raise problem(_KIND, folder, found)
    if (width := transformer.get("text_dim", 512)) != text_width:
        found = f"has a transformer for texts {width} wide and an encoder that gives {text_width}."
        raise problem(_KIND, folder, found)
    for name in ("latents_mean", "latents_std"):
        values = vae.get(name)
        numbers = isinstance(values, list) and all(isinstance(v, int | float) for v in values)
        whole = numbers and len(values) == latent and (name == "latents_mean" or min(values) > 0)
        if values is not None and not whole:
            raise problem(_KIND, folder, f"has a VAE with {name} = {values!r}.")


def _shift(config: Mapping[str, Any], folder: Path) -> float | int:
    """The shift of a flow model's clock, from its `scheduler_config.json`."""
    name = str(config.get("_class_name"))
    euler = name.startswith("FlowMatch")
    if not euler and not config.get("use_flow_sigmas"):
        found = f"was not trained by flow matching, by its scheduler_config.json ({name})."
        raise problem(_KIND, folder, found, _FLOW_EXPECTED)
    entry = "shift" if euler else "flow_shift"
    shift, steps = config.get(entry, 1.0), config.get("num_train_timesteps", 1000)
    fits = {
        entry: isinstance(shift, int | float) and math.isfinite(shift) and shift > 0,
        "num_train_timesteps": steps == 1000,
        "use_dynamic_shifting": not config.get("use_dynamic_shifting"),
    }
    if wrong := next((entry for entry, right in fits.items() if not right), None):
        found = f"has {wrong} = {config[wrong]!r} in its scheduler_config.json."
        raise problem(_KIND, folder, found, _FLOW_EXPECTED)
    return shift
