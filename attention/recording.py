"""Seeing what attention layers see: a model call that keeps keys and goes only as far as needed."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TypeAlias, TypeVar

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from .layers import Attend, Entry, Layer, Plan, Site

Out = TypeVar("Out")  # of the model's call
# What is kept of one clip, of its queries, keys and values, each `[samples, h, n, d]`.
Take: TypeAlias = Callable[[Tensor, Tensor, Tensor], Tensor]


def take_keys(
    q: Float[Tensor, "_ h n d"], k: Float[Tensor, "s h m d"], v: Float[Tensor, "_ h _ d"]
) -> Float[Tensor, "s m c"]:
    """The keys of all heads side by side, as the layer's `to_k` gives them."""
    return rearrange(k, "s h m d -> s m (h d)")


class Recorder:
    """Keeps something of chosen layers, for chosen clips, with its graph where there is one."""

    def __init__(self, sites: Sequence[Site], rows: Iterable[int], take: Take = take_keys) -> None:
        self.sites, self.rows, self.take = tuple(sites), frozenset(rows), take
        self._kept: dict[tuple[str, int], Tensor] = {}

    def keep(self, layer: Layer, q: Tensor, k: Tensor, v: Tensor) -> bool:
        """Keep what is wanted of a layer, and say whether there was anything."""
        taken = _taken(self.take, self.rows, layer, q, k, v)
        self._kept.update({(layer.site.name, row): part for row, part in taken.items()})
        return len(taken) > 0

    @property
    def complete(self) -> bool:
        """Whether everything that is wanted is there."""
        return len(self._kept) == len(self.sites) * len(self.rows)

    def at(self, site: Site) -> Tensor:
        """What was kept at a layer: the clips in the order of their numbers, stacked."""
        return torch.stack([self._kept[site.name, row] for row in sorted(self.rows)])


class _Enough(BaseException):
    """Raised where nothing more is needed; no error, and not to be caught as one."""


def forward_recorded(
    run: Callable[[Plan], Out],
    recorders: Sequence[Recorder],
    *,
    plan: Plan = (),
    output: bool = True,
) -> Out | None:
    """Fill recorders by one call of a model: `run` makes it, under the plan it is given.

    With `output`, what follows the last layer needed runs without a graph, so the output has none;
    the records have theirs where gradients are enabled. Without it, the model is left at that layer
    and None returned: the rest is never computed. `plan` changes attention meanwhile.

    Raises:
        RuntimeError: if the model did not reach all layers, or not for all clips.
    """
    watched = [
        Entry(r.sites, _Watched(r, recorders, output), partial(_watched_again, r.take, r.rows))
        for r in recorders
    ]
    # Restores the mode, which is changed on the way.
    with torch.set_grad_enabled(torch.is_grad_enabled()):
        try:
            result = run([*plan, *watched])
        except _Enough:
            result = None
    if not all(recorder.complete for recorder in recorders):
        raise RuntimeError("The model ran, but not through all layers that were to be recorded.")
    return result


class _Watched:
    """Lets a recorder see a layer, and ends the graph or the call once all recorders are full."""

    def __init__(self, recorder: Recorder, recorders: Sequence[Recorder], output: bool) -> None:
        self.recorder, self.recorders, self.output = recorder, recorders, output

    def __call__(self, layer: Layer, q: Tensor, k: Tensor, v: Tensor, attend: Attend) -> Tensor:
        kept = self.recorder.keep(layer, q, k, v)
        if kept and all(recorder.complete for recorder in self.recorders):
            if not self.output:
                raise _Enough
            torch.set_grad_enabled(False)
        return attend(q, k, v)


def _watched_again(
    take: Take, rows: frozenset[int], layer: Layer, q: Tensor, k: Tensor, v: Tensor, attend: Attend
) -> Tensor:
    """What a checkpoint runs instead of `_Watched`: it counts what is computed, and keeps none."""
    _taken(take, rows, layer, q, k, v)
    return attend(q, k, v)


def _taken(
    take: Take, rows: frozenset[int], layer: Layer, q: Tensor, k: Tensor, v: Tensor
) -> dict[int, Tensor]:
    """What is taken of the clips in `rows`, by their numbers."""
    k = k if layer.keys is None else layer.keys
    parts = (rearrange(p, "(r s) h n d -> r s h n d", r=len(layer.rows)) for p in (q, k, v))
    by_clip = zip(layer.rows, *parts, strict=True)
    return {row: take(*part) for row, *part in by_clip if row in rows}
