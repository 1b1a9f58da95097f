"""Clips that read what an attention layer sees of other clips in the same step."""

from collections.abc import Callable, Mapping
from typing import TypeAlias

import torch
from einops import rearrange
from torch import Tensor

from .layers import Attend, Layer, Site

# Queries, keys and values of one clip at one layer, each `[samples, h, n, d]`.
Parts: TypeAlias = tuple[Tensor, Tensor, Tensor]
# What the heads of a clip read, given its own parts and those of its counterpart.
Read: TypeAlias = Callable[[Layer, Parts, Parts, Attend], Tensor]


class Counterparts:
    """A change that lets some clips attend with a look at their counterparts.

    `pairs` names the counterpart of each clip that is changed, by their numbers; all others attend
    as they would anyway. A counterpart comes in the same call of the model or in an earlier one.
    Only in the second case anything of it is kept, without its graph, by this object, which serves
    one step.

    Raises, when called:
        ValueError: if a clip comes before its counterpart.
    """

    def __init__(self, pairs: Mapping[int, int], read: Read) -> None:
        self.pairs, self.read = dict(pairs), read
        self._kept: dict[tuple[Site, int], Parts] = {}

    def __call__(self, layer: Layer, q: Tensor, k: Tensor, v: Tensor, attend: Attend) -> Tensor:
        by_clip = [rearrange(p, "(r s) h n d -> r s h n d", r=len(layer.rows)) for p in (q, k, v)]
        parts = dict(zip(layer.rows, zip(*by_clip, strict=True), strict=True))
        read = [
            self.read(layer, parts[row], self._counterpart(layer, row, parts), attend)
            if row in self.pairs
            else attend(*parts[row])
            for row in layer.rows
        ]
        self._keep(layer, parts)
        return torch.cat(read)

    def _counterpart(self, layer: Layer, row: int, parts: Mapping[int, Parts]) -> Parts:
        wanted = self.pairs[row]
        if wanted in parts:
            return parts[wanted]
        try:
            return self._kept[layer.site, wanted]
        except KeyError:
            raise ValueError(
                f"Clip {row} of the batch came to {layer.site.name} before its counterpart, clip "
                f"{wanted}. Counterparts come first."
            ) from None

    def _keep(self, layer: Layer, parts: Mapping[int, Parts]) -> None:
        """Keep what a clip of a later call will read."""
        for row, wanted in self.pairs.items():
            if wanted in parts and row not in parts:
                # Copies, for a view would keep what all clips of the call have; and such as a
                # later call with a graph may read.
                with torch.inference_mode(False):
                    q, k, v = (part.detach().clone() for part in parts[wanted])
                self._kept[layer.site, wanted] = q, k, v
