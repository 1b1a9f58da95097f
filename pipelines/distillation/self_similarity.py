"""Space-time self-similarity: compares which parts inside each clip are like each other."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from .terms import TermOfKeys


def spatial_self_similarity_loss(
    keys_source: Float[Tensor, "f n c"], keys_target: Float[Tensor, "f n c"]
) -> Float[Tensor, ""]:
    """How much the layouts of two clips differ: the distance of their self-similarity maps.

    The map of a frame holds the cosine similarity of the keys of every two of its n places. Squared
    differences are averaged over all pairs of places and over frames (DreamMotion, Jeong et al.,
    2024, Eq. 11 and 12). Deviation: divided by n^2; what makes a weight mean the same at every
    size is how `TermOfKeys` scales the gradient. Computed in float32 at least. If there are more
    places than channels, the maps themselves are never formed.
    """
    source, target = _normalised(keys_source), _normalised(keys_target)
    return _squared_distance(source, target).mean() / keys_source.shape[1] ** 2


def temporal_self_similarity_loss(
    keys_source: Float[Tensor, "f n c"], keys_target: Float[Tensor, "f n c"]
) -> Float[Tensor, ""]:
    """How differently two clips change over time: the same distance, between whole frames.

    A frame is represented by the mean of its keys. The map holds the cosine similarity of every two
    frames, and squared differences are averaged over all pairs (DreamMotion, Eq. 13 to 15).
    Deviation: divided by f^2. Exactly 0, with a zero gradient, for a clip of one frame.
    """
    if len(keys_source) == 1:
        return 0 * keys_target.sum()
    source, target = (
        _normalised(_precise(keys).mean(dim=1)) for keys in (keys_source, keys_target)
    )
    return _squared_distance(source, target) / len(keys_source) ** 2


def _squared_distance(
    a: Float[Tensor, "*batch n c"], b: Float[Tensor, "*batch n c"]
) -> Float[Tensor, "*batch"]:
    """||a a^T - b b^T||^2, with memory for min(n, c)^2 numbers.

    With D = a - b and S = a + b, a a^T - b b^T is the symmetric part of D S^T. Its square is
    1/2 (<D^T D, S^T S> + <D^T S, (D^T S)^T>), with c x c matrices only. Both forms become small
    with D. So no large numbers cancel for nearly equal clips, as they would in
    ||a a^T||^2 - 2 <a a^T, b b^T> + ||b b^T||^2.
    """
    d, s = a - b, a + b
    if a.shape[-2] <= a.shape[-1]:
        difference = d @ s.mT
        return ((difference + difference.mT) / 2).square().sum(dim=(-2, -1))
    mixed = d.mT @ s
    return ((d.mT @ d) * (s.mT @ s) + mixed * mixed.mT).sum(dim=(-2, -1)) / 2


def _normalised(keys: Tensor) -> Tensor:
    return functional.normalize(_precise(keys), dim=-1)


def _precise(keys: Tensor) -> Tensor:
    return keys.to(torch.promote_types(keys.dtype, torch.float32))


class SpatialSelfSimilarity(TermOfKeys):
    """Spatial self-similarity matching as a term."""

    name = "spatial self-similarity"
    loss = staticmethod(spatial_self_similarity_loss)


class TemporalSelfSimilarity(TermOfKeys):
    """Temporal self-similarity matching as a term."""

    name = "temporal self-similarity"
    loss = staticmethod(temporal_self_similarity_loss)
    compares_frames = True
