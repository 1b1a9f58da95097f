"""Gradient checkpointing for the layers of a UNet."""

from contextlib import AbstractContextManager
from typing import Any

from diffusers.models.attention_processor import Attention
from torch import nn

from .. import checkpointing
from .processor import HeadsProcessor


def checkpointed(unet: nn.Module) -> AbstractContextManager[None]:
    """Within the `with`, the layers of a UNet's blocks store no activations for gradients.

    They are run again in the backward pass. This takes about a third more time, and the memory of
    one layer (a residual block or a transformer) instead of all. Values and gradients stay the
    same. If a plan changed attention, the second run has the same changes, even after its end.
    """
    blocks = [*unet.down_blocks, *unet.up_blocks]
    blocks += [unet.mid_block] if unet.mid_block is not None else []
    lists = [part for block in blocks for part in block.children()]
    layers = [layer for part in lists if isinstance(part, nn.ModuleList) for layer in part]
    return checkpointing.checkpointed(layers, _again)


def _again(layer: nn.Module) -> "_Again":
    return _Again([module for module in layer.modules() if isinstance(module, Attention)])


class _Again:
    """Within the `with`, attention layers have the processors from when this object was made.

    It is entered in every backward pass, each time the layers are run again.
    """

    def __init__(self, layers: list[Attention]) -> None:
        self.layers = layers
        self.then = [
            processor.again() if isinstance(processor, HeadsProcessor) else processor
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
