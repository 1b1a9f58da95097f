"""Windows of one long clip on several cards: `--split-windows`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import ray
import torch
from ray.exceptions import RayTaskError

from .cluster import Share


class Helper:
    """Computes windows for a worker, with a copy of whatever the worker computes them with."""

    def take(self, work: Callable[..., Any]) -> None:
        """What computes one window from now on."""
        self.work = work

    def run(self, *call: Any) -> Any:
        """Compute one window."""
        with torch.inference_mode():
            return self.work(*call)


class SplitWindows:
    """A `Spread` over a worker and its helpers: as many windows at a time as there are of them.

    Results come in the order of the windows, so that they are blended as in one process.
    """

    def __init__(self, cards: int, share: Share) -> None:
        """`cards` counts the worker's own; each helper takes a share like the worker's."""
        make = ray.remote(Helper).options(num_cpus=share.cpus, num_gpus=share.gpus)
        self.helpers = [make.remote() for _ in range(cards - 1)]

    def __call__(self, work: Callable[..., Any]) -> Callable[[Iterable[tuple]], Iterator[Any]]:
        shared = ray.put(work)
        for helper in self.helpers:
            helper.take.remote(shared)

        def compute(calls: Iterable[tuple]) -> Iterator[Any]:
            calls = list(calls)
            cards = [None, *self.helpers]  # the worker computes the first window, and every nth
            turns = [cards[number % len(cards)] for number in range(len(calls))]
            begun = [
                helper and helper.run.remote(*call)
                for helper, call in zip(turns, calls, strict=True)
            ]
            for call, reference in zip(calls, begun, strict=True):
                yield work(*call) if reference is None else _fetched(reference)

        return compute


def _fetched(reference: ray.ObjectRef) -> Any:
    """What a helper has computed, or the very error that it met."""
    try:
        return ray.get(reference)
    except RayTaskError as error:
        raise error.cause from None
