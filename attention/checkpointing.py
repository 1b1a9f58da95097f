"""Gradient checkpointing: modules are run again in the backward pass instead of stored."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

# For a module that runs now, the context for its second run: the same changes of attention as now.
Again: TypeAlias = Callable[[nn.Module], AbstractContextManager[None]]


@contextmanager
def checkpointed(modules: Sequence[nn.Module], again: Again) -> Iterator[None]:
    """Within the `with`, `modules` store no activations for gradients; they are run again instead.

    Values and gradients stay the same, even if a plan of changes has ended before the second run.
    """
    before = [vars(module).get("forward") for module in modules]
    try:
        for module in modules:
            module.forward = partial(_run, module, module.forward, again)
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
