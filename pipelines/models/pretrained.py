"""Whole transformers models from a folder: only settings and weights are read, never code."""

from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from .layout import problem, read_config, weight_files
from .tensor_file import PICKLES
from .weights import limited, read_weights

Model = TypeVar("Model", bound=nn.Module)


@torch.inference_mode(False)
def load_pretrained(
    make: type[Model], folder: Path, kind: str, *, pickles: bool = False, **options: object
) -> Model:
    """A model of the class `make`, in float32, in eval mode and not trainable.

    Everything is read from `folder`: weights from safetensors, and with `pickles` also from
    pickles, of which only tensors are read. `options` go to the class.

    Raises:
        ModelError: if files are missing, damaged, of another model, or refused pickles.
    """
    settings, files = check_model_type(folder, kind), weight_files(folder, kind, folder)
    refused = [file.name for file in files if file.suffix in PICKLES and not pickles]
    if refused:
        found = f"has its weights in a pickle ({refused[0]}), which could run code."
        raise problem(kind, folder, found, "model.safetensors")
    weights = read_weights(files, kind, folder)
    try:
        config = make.config_class.from_dict(settings)
        with limited(len(weights)):
            # No folder is given, so that transformers itself reads no file.
            model, report = make.from_pretrained(
                None, config=config, state_dict=weights, output_loading_info=True, **options
            )
    # Wrong settings and weights raise exceptions of many kinds.
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        found = f"cannot be read as a {make.__name__} ({type(error).__name__}: {reason})."
        raise problem(kind, folder, found) from error
    if missing := sorted(report["missing_keys"]):
        found = f"lacks {len(missing)} weights of its {make.__name__} ({missing[0]})."
        raise problem(kind, folder, found)
    return model.float().eval().requires_grad_(False)


def check_model_type(folder: Path, kind: str) -> dict[str, Any]:
    """The `config.json` of a folder with a model of this kind.

    Raises:
        ModelError: if it belongs to another kind of model, or `read_config` refuses it.
    """
    if not folder.is_dir():
        raise problem(kind, folder, "is a file." if folder.exists() else "does not exist.")
    config = read_config(folder, kind, folder)
    named = str(config.get("model_type", "nothing")).replace("_", "-")
    if named != kind:
        raise problem(kind, folder, f"has a model of type {named} in its config.json.")
    return config
