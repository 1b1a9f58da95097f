"""The most memory that a piece of work holds at a time, on the CPU."""

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Storages(TorchDispatchMode):
    """Counts the bytes of every storage that an operation makes, for as long as it lives.

    Also where no Python object holds it: a tensor that is kept in an autograd graph is none.
    """

    def __init__(self) -> None:
        super().__init__()
        self.living: set[int] = set()
        self.now = self.peak = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None) -> Any:
        output = func(*args, **(kwargs or {}))
        # A view, or what was changed in place, is nothing new.
        old = {_key(part) for part in tree_leaves((args, kwargs)) if isinstance(part, Tensor)}
        for part in tree_leaves(output):
            if isinstance(part, Tensor) and _key(part) not in old | self.living:
                self._made(part.untyped_storage(), _key(part))
        return output

    def lap(self) -> tuple[int, int]:
        """The most bytes since the last lap, and those that live now."""
        peak, self.peak = self.peak, self.now
        return peak, self.now

    def _made(self, storage: torch.UntypedStorage, key: int) -> None:
        size = storage.nbytes()
        self.living.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._gone, key, size)

    def _gone(self, key: int, size: int) -> None:
        self.living.discard(key)
        self.now -= size


def _key(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def peak_memory(work: Callable[[], object]) -> int:
    """The most bytes of tensors that `work` made and held at a time; what was there is not counted.

    Temporary memory within an operation is not seen.
    """
    with Storages() as storages:
        work()
    return storages.peak
