"""Record what attention layers get, such as keys, in a model call that ends where it may."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TypeAlias, TypeVar

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from .layers import Attend, Entry, Layer, Plan, Site

Out = TypeVar("Out")  # the result of the model's call
# What to keep of one clip, from its queries, keys and values, each `[samples, h, n, d]`.
Take: TypeAlias = Callable[[Tensor, Tensor, Tensor], Tensor]


def take_keys(
    q: Float[Tensor, "_ h n d"], k: Float[Tensor, "s h m d"], v: Float[Tensor, "_ h _ d"]
) -> Float[Tensor, "s m c"]:
    """The keys of all heads side by side, in the layout of the output of `to_k`."""
    return rearrange(k, "s h m d -> s m (h d)")


class Recorder:
    """Keeps what `take` returns at some layers, for some clips, with its graph if there is one."""

    def __init__(self, sites: Sequence[Site], rows: Iterable[int], take: Take = take_keys) -> None:
        self.sites, self.rows, self.take = tuple(sites), frozenset(rows), take
        self._kept: dict[tuple[str, int], Tensor] = {}

    def keep(self, layer: Layer, q: Tensor, k: Tensor, v: Tensor) -> bool:
        """Keep what is wanted of this layer; False if there was nothing."""
        taken = _taken(self.take, self.rows, layer, q, k, v)
        self._kept.update({(layer.site.name, row): part for row, part in taken.items()})
        return len(taken) > 0

    @property
    def complete(self) -> bool:
        """Whether all layers and clips are recorded."""
        return len(self._kept) == len(self.sites) * len(self.rows)

    def at(self, site: Site) -> Tensor:
        """The record of a layer: all clips, stacked in the order of their numbers."""
        return torch.stack([self._kept[site.name, row] for row in sorted(self.rows)])


class _Enough(BaseException):
    """Raised to end a call early. It is no error, so it is no `Exception`."""


def forward_recorded(
    run: Callable[[Plan], Out],
    recorders: Sequence[Recorder],
    *,
    plan: Plan = (),
    output: bool = True,
) -> Out | None:
    """Fill recorders in one call of a model, which `run` makes with the plan that it gets.

    With `output`, the layers after the last record run without a graph, so the output has none. The
    records have a graph if gradients are enabled. Without `output`, the call ends after the last
    record, and the result is None. `plan` holds further changes of attention.

    Raises:
        RuntimeError: if the model did not reach all layers, or not for all clips.
    """
    watched = [
        Entry(r.sites, _Watched(r, recorders, output), partial(_watched_again, r.take, r.rows))
        for r in recorders
    ]
    # `_Watched` switches gradients off during the call; this restores the mode.
    with torch.set_grad_enabled(torch.is_grad_enabled()):
        try:
            result = run([*plan, *watched])
        except _Enough:
            result = None
    if not all(recorder.complete for recorder in recorders):
        raise RuntimeError("The model ran, but not through all layers that were to be recorded.")
    return result


class _Watched:
    """The change that records a layer; ends the graph or the call when all recorders are full."""

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
    """What a checkpointed layer runs the second time: the same computation, without recording."""
    _taken(take, rows, layer, q, k, v)
    return attend(q, k, v)


def _taken(
    take: Take, rows: frozenset[int], layer: Layer, q: Tensor, k: Tensor, v: Tensor
) -> dict[int, Tensor]:
    """What `take` returns for the clips in `rows`, by their numbers."""
    k = k if layer.keys is None else layer.keys
    parts = (rearrange(p, "(r s) h n d -> r s h n d", r=len(layer.rows)) for p in (q, k, v))
    by_clip = zip(layer.rows, *parts, strict=True)
    return {row: take(*part) for row, *part in by_clip if row in rows}
