"""From the gradients of a step's terms to the one that moves the latents."""

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from ..models.grid import ClipGrid
from ..models.process import Latents
from .terms import Keys, Result, Weighted

Shaping: TypeAlias = Callable[[Latents], Latents]


def shapings(terms: Sequence[Weighted], z: Latents, grid: ClipGrid) -> tuple[Shaping, ...]:
    """What the refinements and masks of each term do to its gradient on latents like `z`.

    Terms with the same refinements and masks share one function.

    Raises:
        ValueError: if a mask or a refinement does not fit the clip.
    """
    made: dict[tuple[int, ...], Shaping] = {}
    keys = [tuple(map(id, (*entry.refinements, *entry.masks))) for entry in terms]
    for key, entry in zip(keys, terms, strict=True):
        if key not in made:
            made[key] = _shaping(entry, z, grid)
    return tuple(made[key] for key in keys)


def _shaping(entry: Weighted, z: Latents, grid: ClipGrid) -> Shaping:
    refine = [refinement.on_grid(z, grid) for refinement in entry.refinements]
    mask = mask_on_grid(entry.masks, z, grid)

    def shape(gradient: Latents) -> Latents:
        for step in refine:
            gradient = step(gradient)
        return mask * gradient

    return shape


def mask_on_grid(masks: Sequence[Tensor], z: Latents, grid: ClipGrid) -> Tensor:
    """The product of masks on the grid of the latents; 1 without any."""
    product = torch.ones((), dtype=z.dtype, device=z.device)
    for mask in masks:
        product = product * grid.covered(mask).to(z)
    return product


def summed(
    terms: Sequence[Weighted],
    results: Mapping[int, Result],
    shapes: Sequence[Shaping],
    pull_back: Callable[[Keys], Latents],
    check: Callable[[Tensor, str], None],
) -> dict[Shaping, Latents]:
    """The weighted sums of the terms' gradients on the latents, one sum for each shaping.

    `pull_back` is the vector-Jacobian product from keys to latents. It is linear, so gradients of
    the same shaping go through it together. `check` gets every gradient with the names of its
    terms, and may raise.
    """
    sums: dict[Shaping, Latents] = {}
    on_keys: dict[Shaping, dict[str, Tensor]] = {}
    names: dict[Shaping, list[str]] = {}
    for i, result in results.items():
        entry, shape = terms[i], shapes[i]
        if result.gradient is not None:
            check(result.gradient, entry.term.name)
            sums[shape] = sums.get(shape, 0) + entry.weight * result.gradient
        for name, gradient in result.on_keys.items():
            check(gradient, entry.term.name)
            keys = on_keys.setdefault(shape, {})
            keys[name] = keys.get(name, 0) + entry.weight * gradient
        if result.on_keys:
            names.setdefault(shape, []).append(entry.term.name)
    for shape, keys in on_keys.items():
        gradient = pull_back(keys)
        check(gradient, " + ".join(names[shape]))
        sums[shape] = sums.get(shape, 0) + gradient
    return sums
