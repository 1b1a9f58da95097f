"""Gradients of a whole UNet in less memory: layers run again in the backward pass."""

from contextlib import AbstractContextManager
from typing import Any

from diffusers.models.attention_processor import Attention
from torch import nn

from .. import checkpointing
from .install import Installed


def checkpointed(unet: nn.Module) -> AbstractContextManager[None]:
    """Within the `with`, the layers of a UNet's blocks keep no activations for their gradients.

    They run again in the backward pass. That takes about a third more time, and the memory of one
    layer (a residual block, a transformer) instead of all. Values and gradients are the same, also
    if a plan changed attention and has ended by then: a layer is run again as it was.
    """
    blocks = [*unet.down_blocks, *unet.up_blocks]
    blocks += [unet.mid_block] if unet.mid_block is not None else []
    lists = [part for block in blocks for part in block.children()]
    layers = [layer for part in lists if isinstance(part, nn.ModuleList) for layer in part]
    return checkpointing.checkpointed(layers, _again)


def _again(layer: nn.Module) -> "_Again":
    return _Again([module for module in layer.modules() if isinstance(module, Attention)])


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
