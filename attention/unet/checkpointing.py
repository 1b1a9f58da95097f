"""Gradients of a whole UNet in less memory: layers run again in the backward pass."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from diffusers.models.attention_processor import Attention
from torch import nn
from torch.utils.checkpoint import checkpoint

from .install import Installed


@contextmanager
def checkpointed(unet: nn.Module) -> Iterator[None]:
    """Within the `with`, the layers of a UNet's blocks keep no activations for their gradients.

    They run again in the backward pass. That takes about a third more time, and the memory of one
    layer (a residual block, a transformer) instead of all. Values and gradients are the same, also
    if a plan changed attention and has ended by then: a layer is run again as it was.
    """
    blocks = [*unet.down_blocks, *unet.up_blocks]
    blocks += [unet.mid_block] if unet.mid_block is not None else []
    lists = [part for block in blocks for part in block.children()]
    layers = [layer for part in lists if isinstance(part, nn.ModuleList) for layer in part]
    before = [vars(layer).get("forward") for layer in layers]
    try:
        for layer in layers:
            layer.forward = partial(_run, layer, layer.forward)
        yield
    finally:
        for layer, forward in zip(layers, before, strict=True):
            if forward is not None:
                layer.forward = forward
            else:
                vars(layer).pop("forward", None)


def _run(layer: nn.Module, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    attentions = [module for module in layer.modules() if isinstance(module, Attention)]
    again = _Again(attentions)
    # The models are in eval mode: there is no random state to restore.
    return checkpoint(
        forward,
        *args,
        use_reentrant=False,
        preserve_rng_state=False,
        context_fn=lambda: (nullcontext(), again),
        **kwargs,
    )


class _Again:
    """Within the `with`, attention layers have the processors they had when this was made.

    Entered each time the layers run again, in every backward pass.
    """

    def __init__(self, layers: list[Attention]) -> None:
        self.layers = layers
        self.then = [
            processor.again() if isinstance(processor, Installed) else processor
            for processor in (layer.processor for layer in layers)
        ]

    def __enter__(self) -> None:
        self.now = [layer.processor for layer in self.layers]
        self._give(self.then)

    def __exit__(self, *_: object) -> None:
        self._give(self.now)
        del self.now

    def _give(self, processors: list[Any]) -> None:
        for layer, processor in zip(self.layers, processors, strict=True):
            layer.set_processor(processor)
