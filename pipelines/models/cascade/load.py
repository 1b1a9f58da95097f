"""Folders of a cascade's stages: only from this machine, only weights, never code."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import nn
from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel, T5TokenizerFast

from ..layout import (
    check_config,
    check_numbers,
    kind_of,
    problem,
    read_config,
    read_json,
    text_settings,
    weight_files,
)
from ..process import VariancePreserving
from ..t5 import shared_embedding, tie_embedding
from ..tokenizer import has_tokenizer, load_tokenizer
from ..unet.scheduler import trained_settings
from ..weights import build, read_weights
from .model import KeyframeModel
from .stage import ROLES, Clipping, Stage
from .video_unet import VideoUNet, picture_settings

_KIND = "cascade"
_PREDICTS = {"epsilon": "epsilon", "v_prediction": "v", "sample": "denoised"}
_VARIANCES = (
    "fixed_small",
    "fixed_small_log",
    "fixed_large",
    "fixed_large_log",
    "learned",
    "learned_range",
)


@torch.inference_mode(False)
def load_keyframes(
    folder: Path, *, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
) -> KeyframeModel:
    """The keyframe stage of a cascade (show-1-base) with its T5, from a diffusers folder.

    `dtype` is what both compute in: by default float32 on the CPU and float16 elsewhere.

    Raises:
        ModelError: if another stage, too little or damaged files lie there.
    """
    dtype = dtype or _usual(device)
    stage = load_stage(folder, device=device, dtype=dtype)
    if stage.role != "keyframes":
        raise problem(_KIND, folder, f"{ROLES[stage.role]} and no keyframes.", "show-1-base")
    place = folder / "text_encoder"
    if not place.is_dir():
        raise problem(_KIND, folder, "has no folder text_encoder, and needs T5's there.")
    settings = check_config(place, "T5EncoderModel", _KIND, folder)
    config = text_settings(T5Config, settings, _KIND, folder)
    if config.d_model != stage.text_width:
        found = f"reads texts {stage.text_width} wide, and its T5 gives {config.d_model}."
        raise problem(_KIND, folder, found)
    words = folder / "tokenizer"
    # Published folders have the pieces of words alone, newer ones the whole tokenizer.
    whole = has_tokenizer(PreTrainedTokenizerFast, words)
    make = PreTrainedTokenizerFast if whole else T5TokenizerFast
    tokenizer = load_tokenizer(make, words, config.vocab_size, _KIND, folder)
    encoder = build(
        lambda: T5EncoderModel(config),
        read_weights(weight_files(place, _KIND, folder), _KIND, folder),
        dtype,
        _KIND,
        folder,
        shared_embedding,
        whole=("wo",) if dtype == torch.float16 else (),  # these overflow in float16
        fill=tie_embedding,
    )
    return KeyframeModel(stage, encoder.to(device), tokenizer)


@torch.inference_mode(False)
def load_stage(
    folder: Path, *, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
) -> Stage:
    """Any stage of pixels of a cascade, without a text encoder, from a diffusers folder.

    These are show-1-base, show-1-interpolation, show-1-sr1 and IF-II-L-v1.0; which of them it is,
    its UNet's settings say.

    Raises:
        ModelError: if something else, too little or damaged files lie there.
    """
    dtype = dtype or _usual(device)
    if not folder.is_dir():
        raise problem(_KIND, folder, "is a file." if folder.exists() else "does not exist.")
    read_json(folder / "model_index.json", _KIND, folder)
    if (kind := kind_of(folder)) != _KIND:
        raise problem(_KIND, folder, f"is a model of kind {kind}, by its model_index.json.")
    if not (folder / "unet").is_dir():
        raise problem(_KIND, folder, "has no folder unet.")
    settings = read_config(folder / "unet", _KIND, folder)
    role = _role(settings, folder)
    check_numbers(UNet2DConditionModel, settings, _KIND, folder)
    schedule = read_json(folder / "scheduler" / "scheduler_config.json", _KIND, folder)
    trained = trained_settings(schedule, _KIND, folder, _PREDICTS)
    _check_outputs(settings, schedule, folder)
    noising = None
    if role.endswith("sr"):
        file = folder / "image_noising_scheduler" / "scheduler_config.json"
        noise = trained_settings(read_json(file, _KIND, folder), _KIND, folder, _PREDICTS)
        noising = VariancePreserving.from_config(noise)
    unet = build(
        lambda: _unet(role, settings),
        read_weights(weight_files(folder / "unet", _KIND, folder), _KIND, folder),
        dtype,
        _KIND,
        folder,
        fill=lambda _: None,
    )
    return Stage(
        folder.name,
        role,
        unet.to(device),
        VariancePreserving.from_config(trained),
        _PREDICTS[trained["prediction_type"]],
        Clipping.from_config(schedule),
        noising,
    )


def _unet(role: str, settings: Mapping[str, Any]) -> nn.Module:
    if role == "image-sr":
        return UNet2DConditionModel.from_config(dict(settings))
    return VideoUNet.of(settings)


def _usual(device: torch.device | str) -> torch.dtype:
    return torch.float32 if torch.device(device).type == "cpu" else torch.float16


def _role(settings: Mapping[str, Any], folder: Path) -> str:
    """Which stage a UNet is, by the channels it takes and what else it is told."""
    name, channels = settings.get("_class_name"), settings.get("in_channels")
    enlarges = settings.get("class_embed_type") == "timestep"
    roles = {
        ("UNet3DConditionModel", 3, False): "keyframes",
        ("UNet3DConditionModel", 7, False): "interpolation",
        ("UNet2DConditionModel", 6, True): "image-sr",
        ("UNet3DConditionModel", 6, True): "video-sr",
    }
    role = roles.get((name, channels, enlarges))
    if role is None:
        found = f"has a {name} with in_channels = {channels!r} and class_embed_type = "
        raise problem(_KIND, folder, f"{found}{settings.get('class_embed_type')!r}.")
    if settings.get("encoder_hid_dim_type", "text_proj") != "text_proj" or not isinstance(
        settings.get("encoder_hid_dim"), int
    ):
        found = f"reads no text of T5 (encoder_hid_dim = {settings.get('encoder_hid_dim')!r})."
        raise problem(_KIND, folder, found)
    if role != "image-sr":
        try:
            picture_settings(settings)
        except ValueError as error:
            raise problem(_KIND, folder, f"cannot be used: {error}.") from error
    return role


def _check_outputs(settings: Mapping[str, Any], schedule: Mapping[str, Any], folder: Path) -> None:
    """Frames come alone, or with their variance, of which the scheduler's settings must know."""
    channels, variance = settings.get("out_channels"), schedule.get("variance_type")
    if channels not in (3, 6):
        raise problem(_KIND, folder, f"has a unet with out_channels = {channels!r}; 3 or 6 fit.")
    if channels == 6 and variance not in _VARIANCES:
        found = (
            f"has a unet with 6 channels out, the frames and their variance, and variance_type = "
            f"{variance!r} in its scheduler_config.json."
        )
        raise problem(_KIND, folder, found, f"one of {', '.join(_VARIANCES)}")
    if channels == 3 and str(variance).startswith("learned"):
        found = f"has variance_type = {variance!r} and a unet that gives no variance (3 channels)."
        raise problem(_KIND, folder, found, "6 channels out, or a fixed variance")
