"""Gradients through modules that write into tensors whose values autograd has saved."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_OPERATORS = {"__iadd__", "__isub__", "__imul__", "__itruediv__", "__setitem__"}


class WritesAside(TorchFunctionMode):
    """Within the `with`, a tensor gets new memory before something is written into it.

    What autograd has saved of it so far keeps the old memory, and its values. Only autograd's own
    check of versions does not know this: see `unchecked`.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if torch.is_grad_enabled() and _writes(func.__name__) and isinstance(args[0], Tensor):
            args[0].data = args[0].detach().clone()
        return func(*args, **(kwargs or {}))


def _writes(name: str) -> bool:
    return name in _OPERATORS or (name.endswith("_") and not name.endswith("__"))


def unchecked() -> AbstractContextManager[None]:
    """Within the `with`, autograd saves tensors without a check that nobody writes into them."""
    # Detached: what is saved may be the very tensor that gets new memory.
    return torch.autograd.graph.saved_tensors_hooks(Tensor.detach, lambda saved: saved)
