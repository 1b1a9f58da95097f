"""Structure distance: how much the layout of frames has changed, apart from their appearance."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from .measure import Measure


def structure_distance(source: Float[Tensor, "f t d"], edited: Float[Tensor, "f2 t2 d"]) -> Measure:
    """1000 times the mean over tokens i, j of |S_ij(source) - S_ij(edited)|^2, mean over frames.

    S_ij = cos(k_i, k_j) is the self-similarity of the keys of DINO's last layer. Tumanyan et al.
    (2022, "Splicing ViT Features for Semantic Appearance Transfer") use the norm of the difference;
    the mean of squares is that of PIE-Bench and FiVE-Bench. 0 for equal clips.

    Raises:
        ValueError: for clips of another length or size than each other.
    """
    if source.shape != edited.shape:
        raise ValueError(
            f"The source has {len(source)} frames of {source.shape[1]} tokens and the edit "
            f"{len(edited)} of {edited.shape[1]}. Measure clips of the same length and size."
        )
    values = []
    for before, after in zip(source, edited, strict=True):
        change = _similarity(before) - _similarity(after)
        values.append(1000 * change.square().mean().item())
    value = sum(values) / len(values)
    return Measure("structure distance", value, "x1000", "lower", tuple(values))


def _similarity(keys: Float[Tensor, "t d"]) -> Float[Tensor, "t t"]:
    unit = functional.normalize(keys.double(), dim=-1)
    return torch.einsum("id,jd->ij", unit, unit)
