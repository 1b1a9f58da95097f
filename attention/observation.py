"""Record temporal attention weights and spatial keys during one run of a model."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .layers import Plan, Site, attention_maps
from .recording import Out, Recorder, forward_recorded, take_keys


class Observation(NamedTuple):
    """The records of one clip, by the names of the layers, in float32."""

    rows: dict[str, Float[Tensor, "p h f k"]]  # temporal attention weights of some frames
    frames: dict[str, Int[Tensor, "p h f k"]]  # which frames these are
    keys: dict[str, Float[Tensor, "f n c"]]


def observe(
    run: Callable[[Plan], Out],
    temporal: Sequence[Site],
    spatial: Sequence[Site],
    *,
    top_k: int = 1,
    picked: Mapping[str, Tensor] | None = None,
    output: bool = True,
) -> tuple[Observation, Out | None]:
    """Record some layers of a model while `run` calls it once, with one clip (number 0).

    Temporal maps are not kept as a whole. For each query frame only the `top_k` largest weights are
    kept, or those at the frames `picked` by an earlier observation. Records have a graph if
    gradients are enabled; the output has none, see `forward_recorded`.
    """
    recorders = {
        site.name: Recorder(
            [site],
            [0],
            partial(_largest, top_k) if picked is None else partial(_at, picked[site.name]),
        )
        for site in temporal
    }
    keys = Recorder(spatial, [0], take_keys)
    every = [*recorders.values(), *([keys] if spatial else [])]
    result = forward_recorded(run, every, output=output)
    rows, chosen = {}, {}
    for site in temporal:
        (seen,) = recorders[site.name].at(site)
        if picked is None:
            rows[site.name], chosen[site.name] = seen[0], seen[1].long()
        else:
            rows[site.name], chosen[site.name] = seen, picked[site.name]
    keys_seen = {site.name: keys.at(site)[0].float() for site in spatial}
    return Observation(rows, chosen, keys_seen), result


def _largest(top_k: int, q: Tensor, k: Tensor, v: Tensor) -> Float[Tensor, "2 p h f k"]:
    """The largest weights, and the numbers of the frames that they belong to."""
    kept, frames = attention_maps(q, k).topk(min(top_k, k.shape[2]), dim=-1)
    return torch.stack([kept, frames.to(kept)])


def _at(frames: Tensor, q: Tensor, k: Tensor, v: Tensor) -> Float[Tensor, "p h f k"]:
    return attention_maps(q, k).gather(-1, frames)
