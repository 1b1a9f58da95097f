"""Gradient checkpointing: modules are run again in the backward pass instead of stored."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

# For a module that runs now, the context for its second run: the same changes of attention as now.
Again: TypeAlias = Callable[[nn.Module], AbstractContextManager[None]]


@contextmanager
def checkpointed(
    modules: Sequence[nn.Module], again: Again, *, in_place: bool = False
) -> Iterator[None]:
    """Within the `with`, `modules` store no activations for gradients; they are run again instead.

    Values and gradients stay the same, even if a plan of changes has ended before the second run.
    Modules that write into their inputs (`in_place`) get copies, because they run on them again.
    """
    before = [vars(module).get("forward") for module in modules]
    try:
        for module in modules:
            forward = partial(_on_copies, module.forward) if in_place else module.forward
            module.forward = partial(_run, module, forward, again)
        yield
    finally:
        for module, forward in zip(modules, before, strict=True):
            if forward is not None:
                module.forward = forward
            else:
                vars(module).pop("forward", None)


def _run(
    module: nn.Module, forward: Callable[..., Any], again: Again, *args: Any, **kwargs: Any
) -> Any:
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    then = again(module)
    # The models are in eval mode, so there is no random state to restore.
    return checkpoint(
        forward,
        *args,
        use_reentrant=False,
        preserve_rng_state=False,
        context_fn=lambda: (nullcontext(), then),
        **kwargs,
    )


def _on_copies(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    named = {name: _copy(value) for name, value in kwargs.items()}
    return forward(*map(_copy, args), **named)


def _copy(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    if value.is_floating_point() and not value.requires_grad:
        # torch keeps what needs no gradient as it is, not detached: a later write would change it.
        value = value.detach().requires_grad_()
    return value.clone()
