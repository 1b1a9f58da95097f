"""Whole models of transformers from a folder: settings and safetensors, nothing that runs code."""

from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from .unet.layout import problem, read_json, weight_files

Model = TypeVar("Model", bound=nn.Module)
Tokenizer = TypeVar("Tokenizer", bound=PreTrainedTokenizerBase)

# Entries of a config.json that would have transformers fetch a part, or import one.
_ELSEWHERE = ("backbone", "use_timm_backbone", "use_pretrained_backbone", "auto_map")


@torch.inference_mode(False)
def load_pretrained(make: type[Model], folder: Path, kind: str) -> Model:
    """A model of the class `make`, in float32, in eval mode and not trainable.

    Everything is read from `folder`, weights from safetensors only.

    Raises:
        ModelError: if something else, too little or damaged files lie there, or pickles.
    """
    check_model_type(folder, kind)
    if pickles := [f.name for f in weight_files(folder, kind, folder) if f.suffix == ".bin"]:
        found = f"has its weights in a pickle ({pickles[0]}), which could run code."
        raise problem(kind, folder, found, "model.safetensors")
    try:
        model, report = make.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
    # Settings and weights can be wrong in many ways, and each has an exception of its own.
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        found = f"cannot be read as a {make.__name__} ({type(error).__name__}: {reason})."
        raise problem(kind, folder, found) from error
    if missing := sorted(report["missing_keys"]):
        found = f"lacks {len(missing)} weights of its {make.__name__} ({missing[0]})."
        raise problem(kind, folder, found)
    return model.float().eval().requires_grad_(False)


def check_model_type(folder: Path, kind: str) -> dict[str, Any]:
    """The `config.json` of a folder, if it is of a kind and holds all of its model.

    Raises:
        ModelError: if it is another model's, or its parts would have to come from elsewhere.
    """
    if not folder.is_dir():
        raise problem(kind, folder, "is a file." if folder.exists() else "does not exist.")
    config = read_json(folder / "config.json", kind, folder)
    named = str(config.get("model_type", "nothing")).replace("_", "-")
    if named != kind:
        raise problem(kind, folder, f"has a model of type {named} in its config.json.")
    if elsewhere := [entry for entry in _ELSEWHERE if config.get(entry)]:
        found = f"has a config.json that takes a part from elsewhere ({elsewhere[0]})."
        raise problem(kind, folder, found, "a folder that holds the whole model")
    return config


def load_tokenizer(
    make: type[Tokenizer], place: Path, vocabulary: int, kind: str, folder: Path
) -> Tokenizer:
    """The tokenizer that lies in `place`, for a model from `folder` that knows `vocabulary` tokens.

    Raises:
        ModelError: if its files are damaged, or it has more tokens than the model.
    """
    try:
        tokenizer = make.from_pretrained(place, local_files_only=True)
    # The tokenizers package raises bare exceptions for damaged files.
    except Exception as error:
        raise problem(kind, folder, f"has a damaged tokenizer ({error}).") from error
    if len(tokenizer) > vocabulary:
        found = f"has a tokenizer of {len(tokenizer)} tokens and a model that knows {vocabulary}."
        raise problem(kind, folder, found)
    return tokenizer
