"""Load UNet models from folders and files: only from this machine, only weights, never code."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel, UNet3DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizerFast

from ..layout import (
    SD1_CONFIGS,
    check_config,
    check_folder,
    check_numbers,
    problem,
    read_json,
    text_settings,
    weight_files,
)
from ..process import VariancePreserving
from ..tokenizer import load_tokenizer
from ..weights import FindWeights, build, modern_names, read_weights, text_names
from .backbone import Backbone
from .fit import check_parts
from .motion import motion_unet
from .scheduler import trained_settings
from .single_file import check_checkpoint, text_weights, unet_weights, vae_weights

_PREDICTS = {"epsilon": "epsilon", "v_prediction": "v"}  # by diffusers' names
# AnimateDiff was trained with linear betas, its image models with scaled-linear ones.
ANIMATEDIFF_SCHEDULE = {
    "num_train_timesteps": 1000,
    "beta_schedule": "linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
}
_UNETS = {"text-to-video": UNet3DConditionModel, "image": UNet2DConditionModel}

# Autograd refuses tensors made in inference mode, so loaders leave it.
normal_mode = torch.inference_mode(False)


@normal_mode
def load_text_to_video(
    folder: Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    parts: Mapping[str, Path] | None = None,
) -> Backbone:
    """A ModelScope or ZeroScope model from its diffusers folder.

    `dtype` is the precision of the UNet and the text encoder: by default float32 on the CPU and
    float16 elsewhere. The VAE stays in float32 if its configuration asks for that (`force_upcast`).
    `parts` are folders of parts ("vae", "text_encoder", "tokenizer") that are stored elsewhere.

    Raises:
        ModelError: if files are missing, damaged or of another model.
    """
    return _load_folder(folder, "text-to-video", device, dtype, parts or {})


@normal_mode
def load_image(
    path: Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    parts: Mapping[str, Path] | None = None,
    prediction_type: str | None = None,
    configs: Path = SD1_CONFIGS,
) -> Backbone:
    """A Stable Diffusion 1.x model from its diffusers folder or a single checkpoint file.

    See `load_text_to_video` for `device`, `dtype` and `parts`. A single file does not contain its
    prediction type; it is "epsilon" unless `prediction_type` is given. `configs` is the folder with
    settings and tokenizer for a single file.

    Raises:
        ModelError: if files are missing, damaged or of another model.
    """
    if path.is_file():
        backbone = _load_checkpoint(path, device, dtype, configs)
    else:
        backbone = _load_folder(path, "image", device, dtype, parts or {})
    if prediction_type is None:
        return backbone
    return replace(backbone, predicts=_predicts(prediction_type))


@normal_mode
def load_animatediff(
    image: Any,
    adapter: Path,
    *,
    schedule_config: Mapping[str, Any] | None = None,
    **image_options: Any,
) -> Backbone:
    """A Stable Diffusion 1.x model with an AnimateDiff motion adapter (a folder or a single file).

    `image` is a loaded model, which does not change and shares its weights; or the path of one, to
    load with `image_options` (see `load_image`). The betas are AnimateDiff's linear ones, even if
    the image model has others, or those of a `schedule_config`, which must be linear, too.

    Raises:
        ModelError: if the adapter is damaged, or made for another image model.
        ValueError: if the schedule is not linear, or the model is no image model.
    """
    settings = {**ANIMATEDIFF_SCHEDULE, **(schedule_config or {})}
    if settings["beta_schedule"] != "linear":
        raise ValueError(
            f"AnimateDiff models have linear betas, and not {settings['beta_schedule']!r}: with "
            "others their motion modules give noise. Leave the schedule out."
        )
    if isinstance(image, Path):
        image = load_image(image, **image_options)
    if image.kind != "image":
        raise ValueError(
            f"{image.name} is a model of kind {image.kind}, and a motion module goes into an image "
            "model. Wire Load Image Model (Stable Diffusion 1.x) itself."
        )
    predicts = image.predicts
    if "prediction_type" in settings:
        predicts = _predicts(settings["prediction_type"])
    return Backbone(
        name=f"{image.name} with {adapter.name}",
        kind="animatediff",
        unet=motion_unet(image.unet, adapter),
        vae=image.vae,
        text_encoder=image.text_encoder,
        tokenizer=image.tokenizer,
        process=VariancePreserving.from_config(settings),
        predicts=predicts,
    )


def _load_folder(
    folder: Path,
    kind: str,
    device: torch.device | str,
    dtype: torch.dtype | None,
    elsewhere: Mapping[str, Path],
) -> Backbone:
    places = check_folder(folder, kind, elsewhere)
    classes = {
        "unet": _UNETS[kind].__name__,
        "vae": "AutoencoderKL",
        "text_encoder": "CLIPTextModel",
    }
    configs = {
        part: check_config(places[part], name, kind, folder) for part, name in classes.items()
    }
    configs["scheduler"] = read_json(places["scheduler"] / "scheduler_config.json", kind, folder)

    def stored(part: str) -> dict[str, Tensor]:
        return read_weights(weight_files(places[part], kind, folder), kind, folder)

    finders: dict[str, FindWeights] = {
        "vae": lambda weights, _: modern_names(weights),
        "text_encoder": text_names,
    }
    return _assemble(folder, kind, configs, stored, finders, places["tokenizer"], device, dtype)


def _load_checkpoint(
    path: Path, device: torch.device | str, dtype: torch.dtype | None, configs_folder: Path
) -> Backbone:
    checkpoint = read_weights([path], "image", path)
    check_checkpoint(checkpoint, path)
    files = {
        "unet": "config",
        "vae": "config",
        "text_encoder": "config",
        "scheduler": "scheduler_config",
    }
    configs = {
        part: read_json(configs_folder / part / f"{file}.json", "image", path)
        for part, file in files.items()
    }
    finders: dict[str, FindWeights] = {
        "unet": lambda weights, names: unet_weights(weights, names, configs["unet"]),
        "vae": lambda weights, names: vae_weights(weights, names, configs["vae"]),
        "text_encoder": lambda weights, names: text_names(text_weights(weights), names),
    }
    tokenizer = configs_folder / "tokenizer"
    return _assemble(
        path, "image", configs, lambda _: checkpoint, finders, tokenizer, device, dtype
    )


def _assemble(
    model: Path,
    kind: str,
    configs: Mapping[str, dict[str, Any]],
    stored: Callable[[str], Mapping[str, Tensor]],
    finders: Mapping[str, FindWeights],
    tokenizer_folder: Path,
    device: torch.device | str,
    dtype: torch.dtype | None,
) -> Backbone:
    if dtype is None:
        dtype = torch.float32 if torch.device(device).type == "cpu" else torch.float16
    # Stable Diffusion's autoencoders overflow in half precision; their configuration says so.
    whole = configs["vae"].get("force_upcast", True)
    text_config = text_settings(CLIPTextConfig, configs["text_encoder"], kind, model)
    check_parts(configs["unet"], configs["vae"], text_config.hidden_size, kind, model)
    for part, cls in (("unet", _UNETS[kind]), ("vae", AutoencoderKL)):
        check_numbers(cls, configs[part], kind, model)
    if not isinstance(text_config.eos_token_id, int):
        found = f"has eos_token_id = {text_config.eos_token_id!r} in the config.json of its text"
        raise problem(kind, model, f"{found}_encoder.")
    makers: dict[str, tuple[Callable[[], nn.Module], torch.dtype]] = {
        "unet": (lambda: _UNETS[kind].from_config(configs["unet"]), dtype),
        "vae": (
            lambda: AutoencoderKL.from_config(configs["vae"]),
            torch.float32 if whole else dtype,
        ),
        "text_encoder": (lambda: CLIPTextModel(text_config), dtype),
    }
    # Read first, because it is small: its errors should come before gigabytes are read.
    settings = trained_settings(configs["scheduler"], kind, model)
    process = VariancePreserving.from_config(settings)
    predicts = _predicts(settings["prediction_type"])
    tokenizer = load_tokenizer(
        CLIPTokenizerFast, tokenizer_folder, text_config.vocab_size, kind, model
    )
    modules = {
        part: build(make, stored(part), precision, kind, model, finders.get(part)).to(device)
        for part, (make, precision) in makers.items()
    }
    return Backbone(
        name=model.name,
        kind=kind,
        tokenizer=tokenizer,
        process=process,
        predicts=predicts,
        **modules,
    )


def _predicts(prediction_type: str) -> str:
    """The kind (one of process.KINDS) for diffusers' name of a prediction type."""
    try:
        return _PREDICTS[prediction_type]
    except KeyError:
        raise ValueError(
            f"The model predicts {prediction_type!r}; ReScore can use UNets that predict "
            f"{' or '.join(map(repr, _PREDICTS))}."
        ) from None
