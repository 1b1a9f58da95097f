"""Put weights from files into modules: safely, without a copy, and completely."""

import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import get_ident
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from .layout import problem
from .tensor_file import open_tensors

logger = logging.getLogger(__name__)

# Renames weights: (weights of a file, names in the module) -> weights by the module's names.
FindWeights: TypeAlias = Callable[[Mapping[str, Tensor], Sequence[str]], Mapping[str, Tensor]]
_FORMATS = (
    torch.float64,
    torch.float32,
    torch.bfloat16,
    torch.float16,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
)

# Names that attention layers of autoencoders had before diffusers 0.18.
_OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
_OLD_ATTENTION_NAME = re.compile(r"(attentions\.\d+)\.(query|key|value|proj_attn)\.")
# Prefixes of weights that were saved from inside a wrapper.
_WRAPPINGS = ("state_dict.", "module.", "_orig_mod.")
_WHOLE = (
    "the whole file as published, with tensors only, best as .safetensors (a broken download looks "
    "like this)"
)
# How many parameters a module may have: `_MOST` for each tensor of its file, plus `_SPARE`.
_MOST, _SPARE = 4, 1000


def read_weights(files: Sequence[Path], kind: str, model: Path) -> dict[str, Tensor]:
    """All tensors of some safetensors or pickle files, on the CPU; no code of pickles is run.

    Raises:
        ModelError: for a file that is missing, damaged, or holds more than tensors.
    """
    tensors: dict[str, Tensor] = {}
    for file in files:
        if not file.exists():
            raise problem(kind, model, f"is no file ({file.name} is not there).")
        try:
            found, _ = open_tensors(file)
        except ValueError as error:
            raise problem(kind, model, f"cannot be read: {error}.", _WHOLE) from error
        if twice := sorted(found.keys() & tensors.keys()):
            what = f"has {twice[0]} in several of its files ({', '.join(f.name for f in files)})."
            raise problem(kind, model, what, "one set of weights")
        tensors |= found
    return _bare_names(tensors)


def _bare_names(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors without the prefixes that training scripts put before all names."""
    for prefix in _WRAPPINGS * 2:
        if tensors and all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return tensors


@contextmanager
def limited(tensors: int) -> Iterator[None]:
    """Within the `with`, limit the parameters of modules to what fits a file of `tensors` tensors.

    Wrong settings with very many layers would keep the machine busy for hours.

    Raises:
        ValueError: when there are more parameters.
    """
    made, here = 0, get_ident()

    def count(*_: object) -> None:
        nonlocal made
        made += get_ident() == here
        if made > _MOST * tensors + _SPARE:
            raise ValueError(f"it asks for far more weights than the {tensors} there are")

    hook = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()


def build(
    make: Callable[[], nn.Module],
    weights: Mapping[str, Tensor],
    dtype: torch.dtype,
    kind: str,
    model: Path,
    find: FindWeights | None = None,
    *,
    whole: Sequence[str] = (),
    fill: Callable[[nn.Module], None] | None = None,
) -> nn.Module:
    """The module that `make` returns, with `weights` in `dtype`, not trainable.

    It is made on the meta device and takes over the tensors: no second copy, no random
    initialisation. `find` renames the weights to the module's names. Weights without a place in the
    module are left out, and the log says so. Weights whose name contains one of the words `whole`
    stay in float32. `fill` makes the buffers that no file stores; without it, only position ids are
    made.

    Raises:
        ModelError: if the module cannot be made, or a weight is missing, has another shape or is
            quantised.
    """
    try:
        with torch.device("meta"), limited(len(weights)):
            module = make()
    # Wrong settings can raise any exception.
    except Exception as error:
        raise problem(kind, model, f"has a config.json that makes no model ({error}).") from error
    name, places = type(module).__name__, module.state_dict()
    if find is not None:
        weights = find(weights, list(places))
    if missing := sorted(places.keys() - weights.keys()):
        found = f"lacks {len(missing)} of the {len(places)} weights of its {name} ({missing[0]})."
        raise problem(kind, model, found)
    for key, place in places.items():
        if weights[key].shape != place.shape:
            have, want = tuple(weights[key].shape), tuple(place.shape)
            found = f"has a {key} of shape {have} where its settings say {want}."
            raise problem(kind, model, found)
        if place.is_floating_point() and weights[key].dtype not in _FORMATS:
            found = f"has a {key} in {weights[key].dtype}, so its weights are quantised."
            raise problem(kind, model, found, "weights in float32, bfloat16, float16 or float8")
    if unused := sorted(weights.keys() - places.keys()):
        logger.info("%s: %d weights have no place in %s: %s", model, len(unused), name, unused[:5])
    try:
        fitted = {
            key: _in_precision(
                weights[key], torch.float32 if set(whole) & set(key.split(".")) else dtype
            )
            for key in places
        }
    # If memory runs out, torch raises a RuntimeError, Python a MemoryError.
    except (MemoryError, RuntimeError) as error:
        found = f"needs more memory for its {name} than there is ({error})."
        raise problem(kind, model, found) from error
    module.load_state_dict(fitted, assign=True)
    (fill or _fill_position_ids)(module)
    unfilled = [name for name, buffer in module.named_buffers() if buffer.is_meta]
    assert not unfilled, f"{name} has buffers that no file fills: {unfilled}"
    return module.eval().requires_grad_(False)


def modern_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of an autoencoder, with today's names of its attention layers."""
    return {
        _OLD_ATTENTION_NAME.sub(lambda m: f"{m[1]}.{_OLD_ATTENTION[m[2]]}.", name): tensor
        for name, tensor in weights.items()
    }


def text_names(weights: Mapping[str, Tensor], names: Iterable[str]) -> dict[str, Tensor]:
    """The weights of a text encoder, renamed to the `names` of the installed transformers.

    Releases before 5, and most files, put all names under `text_model`.
    """
    prefix = "text_model."
    outer = prefix if any(name.startswith(prefix) for name in names) else ""
    return {outer + name.removeprefix(prefix): tensor for name, tensor in weights.items()}


def _in_precision(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.to(dtype) if tensor.is_floating_point() else tensor


def _fill_position_ids(module: nn.Module) -> None:
    """Make the only buffer of a CLIP text encoder that no file stores: 0, 1, 2, ..."""
    for part in module.modules():
        ids = getattr(part, "position_ids", None)
        if isinstance(ids, Tensor) and ids.is_meta:
            part.register_buffer("position_ids", torch.arange(ids.numel())[None], persistent=False)
