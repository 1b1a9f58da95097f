"""Weights from files into modules: read safely, put into place without a copy, nothing left out."""

import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from .layout import problem

logger = logging.getLogger(__name__)

# The names of a module's weights -> those of them that a file has, and maybe others.
FindWeights: TypeAlias = Callable[[Sequence[str]], Mapping[str, Tensor]]

# Names that attention layers of autoencoders had before diffusers 0.18.
_OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
_OLD_ATTENTION_NAME = re.compile(r"(attentions\.\d+)\.(query|key|value|proj_attn)\.")
_DAMAGED = "the whole file as published (a broken download looks like this)"


def read_weights(files: Sequence[Path], kind: str, model: Path) -> dict[str, Tensor]:
    """All tensors of some safetensors or pickle files, on the CPU; pickles as data only.

    Raises:
        ModelError: for a file that is missing, damaged, or holds more than tensors.
    """
    tensors: dict[str, Tensor] = {}
    for file in files:
        if not file.is_file():
            raise problem(kind, model, f"is no file ({file.name} is not there).")
        size = f"{file.stat().st_size:,} bytes"
        if file.suffix == ".safetensors":
            try:
                tensors |= load_file(file)
            except (SafetensorError, OSError) as error:
                found = f"cannot be read: {file.name} ({size}) is damaged ({error})."
                raise problem(kind, model, found, _DAMAGED) from error
        else:
            tensors |= _read_pickle(file, kind, model)
    return tensors


def _read_pickle(file: Path, kind: str, model: Path) -> dict[str, Tensor]:
    try:
        found = torch.load(file, map_location="cpu", weights_only=True)
    # torch gives each kind of damage an exception of its own, some of them bare.
    except Exception as error:
        what = f"cannot be read: {file.name} is damaged, or a pickle that holds more than tensors."
        raise problem(kind, model, what, "tensors only, best as .safetensors") from error
    while isinstance(found, dict) and isinstance(found.get("state_dict"), dict):
        found = found["state_dict"]
    if not isinstance(found, dict):
        raise problem(kind, model, f"holds a {type(found).__name__} and no weights by name.")
    return {
        str(name).removeprefix("module."): tensor
        for name, tensor in found.items()
        if isinstance(tensor, Tensor)
    }


def build(
    make: Callable[[], nn.Module],
    find: FindWeights,
    dtype: torch.dtype,
    kind: str,
    model: Path,
) -> nn.Module:
    """The module `make` returns, with the weights `find` has for it, not trainable.

    It is made without memory and takes over the tensors, so that loading costs no second copy and
    no random initialisation. Weights it has no place for are left out and logged.

    Raises:
        ModelError: if the module cannot be made, or a weight is missing or has another shape.
    """
    try:
        with torch.device("meta"):
            module = make()
    except (TypeError, ValueError, NotImplementedError) as error:
        raise problem(kind, model, f"has a config.json that makes no model ({error}).") from error
    name, places = type(module).__name__, module.state_dict()
    weights = find(list(places))
    if missing := sorted(places.keys() - weights.keys()):
        found = f"lacks {len(missing)} of the {len(places)} weights of its {name} ({missing[0]})."
        raise problem(kind, model, found)
    for key, place in places.items():
        if weights[key].shape != place.shape:
            have, want = tuple(weights[key].shape), tuple(place.shape)
            found = f"has a {key} of shape {have} where its settings say {want}."
            raise problem(kind, model, found)
    if unused := sorted(weights.keys() - places.keys()):
        logger.info("%s: %d weights have no place in %s: %s", model, len(unused), name, unused[:5])
    fitted = {key: _in_precision(weights[key], dtype) for key in places}
    module.load_state_dict(fitted, assign=True)
    _fill_position_ids(module)
    return module.eval().requires_grad_(False)


def modern_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """An autoencoder's weights, with attention layers named as they are today."""
    return {
        _OLD_ATTENTION_NAME.sub(lambda m: f"{m[1]}.{_OLD_ATTENTION[m[2]]}.", name): tensor
        for name, tensor in weights.items()
    }


def text_names(weights: Mapping[str, Tensor], names: Iterable[str]) -> dict[str, Tensor]:
    """A text encoder's weights, named as the installed transformers names them: `names`.

    Releases before 5 put everything under `text_model`, and so do most files.
    """
    prefix = "text_model."
    outer = prefix if any(name.startswith(prefix) for name in names) else ""
    return {outer + name.removeprefix(prefix): tensor for name, tensor in weights.items()}


def _in_precision(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.to(dtype) if tensor.is_floating_point() else tensor


def _fill_position_ids(module: nn.Module) -> None:
    """Make the one buffer of a CLIP text encoder that is not stored: 0, 1, 2, ..."""
    for part in module.modules():
        ids = getattr(part, "position_ids", None)
        if isinstance(ids, Tensor) and ids.is_meta:
            part.register_buffer("position_ids", torch.arange(ids.numel())[None], persistent=False)
    unfilled = [name for name, buffer in module.named_buffers() if buffer.is_meta]
    assert not unfilled, f"{type(module).__name__} has buffers that no file fills: {unfilled}"
