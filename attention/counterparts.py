"""Changes by which a clip also reads the attention of another clip of the same step."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import TypeAlias

import torch
from einops import rearrange
from torch import Tensor

from .layers import Attend, Layer, Site
from .layers import attend as plain

# Queries, keys and values of one clip at one layer, each `[samples, h, n, d]`.
Parts: TypeAlias = tuple[Tensor, Tensor, Tensor]
# The output of the heads for one clip at a layer, from its own parts, those of its counterpart, and
# a function that gives the output without this change.
Read: TypeAlias = Callable[[Layer, Parts, Parts, Callable[[], Tensor]], Tensor]


class Counterparts:
    """A change by which some clips also read their counterparts. An object is for one step.

    `pairs` maps the number of each changed clip to that of its counterpart; all other clips attend
    as usual. A counterpart must be in the same call of the model or in an earlier one. If it is in
    an earlier one, its parts are kept here, without their graph.

    Raises, when called:
        ValueError: if a clip comes before its counterpart.
    """

    def __init__(self, pairs: Mapping[int, int], read: Read) -> None:
        self.pairs, self.read = dict(pairs), read
        self._kept: dict[tuple[Site, int], Parts] = {}

    def __call__(self, layer: Layer, q: Tensor, k: Tensor, v: Tensor, attend: Attend) -> Tensor:
        site, by_clip = layer.site, [_by_clip(layer, part) for part in (q, k, v)]
        parts = dict(zip(layer.rows, zip(*by_clip, strict=True), strict=True))
        own = _each_alone(parts) if attend is plain else _all_at_once(layer, attend(q, k, v))
        read = [
            self.read(layer, parts[row], self._counterpart(site, row, parts), partial(own, row))
            if row in self.pairs
            else own(row)
            for row in layer.rows
        ]
        self._keep(site, parts)
        return torch.cat(read)

    def _counterpart(self, site: Site, row: int, parts: Mapping[int, Parts]) -> Parts:
        wanted = self.pairs[row]
        if wanted in parts:
            return parts[wanted]
        try:
            return self._kept[site, wanted]
        except KeyError:
            raise ValueError(
                f"Clip {row} of the batch came to {site.name} before its counterpart, clip "
                f"{wanted}. Counterparts come first."
            ) from None

    def _keep(self, site: Site, parts: Mapping[int, Parts]) -> None:
        """Keep the parts that a clip of a later call will read."""
        for row, wanted in self.pairs.items():
            if wanted in parts and row not in parts:
                # Copies, because a view would keep the tensors of all clips; and not in inference
                # mode, because a later call may have a graph.
                with torch.inference_mode(False):
                    q, k, v = (part.detach().clone() for part in parts[wanted])
                self._kept[site, wanted] = q, k, v


def _by_clip(layer: Layer, part: Tensor) -> Tensor:
    return rearrange(part, "(r s) h n d -> r s h n d", r=len(layer.rows))


def _each_alone(parts: Mapping[int, Parts]) -> Callable[[int], Tensor]:
    """The output of plain attention for each clip, computed only for the clips asked for."""
    return lambda row: plain(*parts[row])


def _all_at_once(layer: Layer, read: Tensor) -> Callable[[int], Tensor]:
    """The output for each clip of another change, which is computed for all clips at once."""
    return dict(zip(layer.rows, _by_clip(layer, read), strict=True)).__getitem__
