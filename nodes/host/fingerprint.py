"""What the host's objects hold: equal for equal settings, weights and functions.

MODELs and CONDITIONING hold objects and functions of the host's nodes and of other packs. They are
told apart by what they hold, and not by their address, which another object may get later.
"""

import logging
from collections.abc import Iterator, Mapping, Set
from contextlib import ExitStack, contextmanager
from enum import Enum
from functools import partial
from hashlib import sha256
from types import CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any
from uuid import UUID
from weakref import WeakKeyDictionary

import comfy.model_management
import numpy as np
import torch
from torch import Tensor, nn

from ...pipelines.models.fingerprint import sample

# Larger tensors are weights: a few of their numbers are enough to tell them apart.
_WHOLE = 2**22
# All of a MODEL that nodes can set, beside its options. A prediction may depend on it.
_SET_BY_NODES = (
    "patches", "object_patches", "weight_wrapper_patches", "attachments", "callbacks", "wrappers",
    "injections", "hook_patches", "force_cast_weights", "additional_models",
)  # fmt: skip
# What nodes have set on a MODEL, as it was when it was first asked for: runs leave state in it.
_set_by_nodes: WeakKeyDictionary[Any, bytes] = WeakKeyDictionary()


def digest_of(value: Any, *, without: Set[str] = frozenset()) -> bytes:
    """A digest of anything of the host's: of a MODEL, its weights and all that nodes set on it.

    Entries of mappings that `without` names do not count.
    """
    return _Digest(without).of(value)


class _Digest:
    """The digests of values, each computed once."""

    def __init__(self, without: Set[str]) -> None:
        self.without = without
        self.known: dict[int, tuple[bytes, Any]] = {}  # with the value, which keeps its address

    def of(self, value: Any) -> bytes:
        if id(value) not in self.known:
            self.known[id(value)] = b"around this", value  # for circles
            digest = sha256()
            for piece in self._pieces(value):
                digest.update(piece)
            self.known[id(value)] = digest.digest(), value
        return self.known[id(value)][0]

    def _pieces(self, value: Any) -> Iterator[bytes]:
        if value is None or isinstance(value, str | int | float | complex | bytes | torch.dtype):
            yield repr(value).encode()
        elif isinstance(value, Enum | type | ModuleType):
            yield repr(value).encode()
        elif isinstance(value, torch.device | UUID | logging.Logger):
            yield type(value).__name__.encode()  # results do not depend on it
        elif isinstance(value, Tensor):
            yield from _of_tensor(value)
        elif isinstance(value, np.ndarray | np.generic):
            yield from (repr((value.dtype, value.shape)).encode(), value.tobytes())
        elif isinstance(value, Mapping):
            kept = [(k, v) for k, v in value.items() if k not in self.without]
            yield from self._parts("mapping", *(part for pair in kept for part in pair))
        elif isinstance(value, list | tuple):
            yield from self._parts("row", *value)
        elif isinstance(value, Set):
            yield from sorted(self.of(part) for part in value)
        elif isinstance(value, FunctionType):
            name, held = f"{value.__module__}.{value.__qualname__}", value.__closure__ or ()
            yield from self._parts(
                name, value.__code__, value.__defaults__, value.__kwdefaults__, *held
            )
        elif isinstance(value, CodeType):
            yield from self._parts("code", value.co_code, *value.co_names, *value.co_consts)
        elif isinstance(value, CellType):  # what a function holds of the one around it
            yield from self._parts("cell", *_content(value))
        elif isinstance(value, MethodType):
            yield from self._parts("method", value.__func__, value.__self__)
        elif isinstance(value, partial):
            yield from self._parts("partial", value.func, value.args, value.keywords)
        elif hasattr(value, "patches_uuid"):
            yield from self._of_patcher(value)
        else:
            yield from self._of_object(value)

    def _parts(self, name: str, *parts: Any) -> Iterator[bytes]:
        """A name, and parts with their number, so that no two can look the same."""
        yield f"{name} of {len(parts)}: ".encode()
        for part in parts:
            yield self.of(part)

    def _of_object(self, value: Any) -> Iterator[bytes]:
        slots = (s for kind in type(value).__mro__ for s in kind.__dict__.get("__slots__", ()))
        held = {name: getattr(value, name) for name in slots if hasattr(value, name)}
        held |= getattr(value, "__dict__", {})
        name = getattr(value, "__qualname__", type(value).__qualname__)  # its own if written in C
        if not held and not callable(value):
            name += f" at {id(value)}"  # nothing else tells it from others
        yield from self._parts(name, held)

    def _of_patcher(self, patcher: Any) -> Iterator[bytes]:
        model = patcher.model
        if id(model) not in self.known:
            for part in model.modules():  # functions may hold it, and its weights may be patched
                self.known[id(part)] = b"part of the model", part
            # Models that other packs add have neither.
            settings = getattr(getattr(model, "model_config", None), "unet_config", None)
            computes_in = getattr(model, "manual_cast_dtype", None)
            yield repr((type(model).__name__, settings, computes_in)).encode()
            with _ejected(model):
                for name, weight in model.named_parameters():
                    before = patcher.backup.get(name)  # as it was before patches went into it
                    held = weight if before is None else before.weight
                    yield from (name.encode(), *_of_weight(held))
        if patcher not in _set_by_nodes:
            held = [getattr(patcher, name) for name in _SET_BY_NODES]
            _set_by_nodes[patcher] = self.of([patcher.model_options, *held])
        yield _set_by_nodes[patcher]


@contextmanager
def _ejected(model: nn.Module) -> Iterator[None]:
    """Within the `with`, the model is without the modules that a run has left in it."""
    with ExitStack() as stack:
        for loaded in comfy.model_management.current_loaded_models:
            if loaded.model is not None and loaded.model.model is model:
                stack.enter_context(loaded.model.use_ejected())
        yield


def _content(cell: CellType) -> list[Any]:
    """What a cell holds; nothing, if it is not filled yet."""
    try:
        return [cell.cell_contents]
    except ValueError:
        return []


def _of_tensor(value: Tensor) -> Iterator[bytes]:
    if value.numel() > _WHOLE or type(value) not in (Tensor, nn.Parameter):
        yield from _of_weight(value)
    else:
        yield repr((str(value.dtype), tuple(value.shape))).encode()
        yield value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()


def _of_weight(weight: Tensor) -> Iterator[bytes]:
    """Format, shape, and a few numbers; of quantised weights, of the tensors in them."""
    yield repr((type(weight).__name__, str(weight.dtype), tuple(weight.shape))).encode()
    if hasattr(weight, "__tensor_flatten__"):
        for name in weight.__tensor_flatten__()[0]:
            yield from _of_weight(getattr(weight, name))
    elif weight.numel():
        yield sample(weight).cpu().numpy().tobytes()
