"""Gradients in less memory: modules that run again in the backward pass, as they ran before."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

# For a module that runs now: within what it runs again, so that attention is changed as it is now.
Again: TypeAlias = Callable[[nn.Module], AbstractContextManager[None]]


@contextmanager
def checkpointed(modules: Sequence[nn.Module], again: Again) -> Iterator[None]:
    """Within the `with`, `modules` keep no activations for their gradients and run again instead.

    Values and gradients are the same, also if a plan that changed attention has ended by then.
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
    # The models are in eval mode: there is no random state to bring back.
    return checkpoint(
        forward,
        *args,
        use_reentrant=False,
        preserve_rng_state=False,
        context_fn=lambda: (nullcontext(), then),
        **kwargs,
    )
