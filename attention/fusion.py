"""Weighted attention fusion: an edited clip also reads the keys and values of its source."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from .install import Layer
from .processor import Attend, attend
from .sites import Site


def fused_attention(
    q: Float[Tensor, "b h n d"],
    k: Float[Tensor, "b h m d"],
    v: Float[Tensor, "b h m d"],
    k_reference: Float[Tensor, "b h l d"],
    v_reference: Float[Tensor, "b h l d"],
    weight: float | int,
) -> Float[Tensor, "b h n d"]:
    """weight * self-attention + (1 - weight) * attention to a reference.

    Implements Eq. 11 to 13 of ASSD (Zhu et al., 2024), `weight` being its lambda. Weight 1 is plain
    self-attention, bit for bit.
    """
    return _fuse(attend(q, k, v), q, k_reference, v_reference, weight)


def _fuse(
    own: Tensor, q: Tensor, k_reference: Tensor, v_reference: Tensor, weight: float | int
) -> Tensor:
    if weight == 1:
        return own
    return weight * own + (1 - weight) * attend(q, k_reference, v_reference)


@dataclass(frozen=True)
class Fusion:
    """How much edited clips read of their sources: in how many of the last spatial layers, and how.

    `weight` is what their own attention counts. ASSD leaves both open; the defaults are ours.
    """

    layers: int = 3
    weight: float | int = 0.5

    def __post_init__(self) -> None:
        if self.layers < 1:
            raise ValueError(f"Attention is fused in {self.layers} layers; it must be 1 or more.")
        _check_weight(self.weight)


class AttentionFusion:
    """Fused attention as a change: clips that are edited also read their reference clips.

    `pairs` names the reference of each edited clip, by their numbers; all other clips attend as
    they would anyway. A reference comes in the same batch as its edited clip, or in an earlier one:
    its keys and values are then kept as long as this object, which serves one step. They have no
    graph.

    Raises, when called:
        ValueError: if an edited clip comes before its reference.
    """

    def __init__(self, pairs: Mapping[int, int], weight: float | int) -> None:
        _check_weight(weight)
        self.pairs, self.weight = dict(pairs), weight
        self._references: dict[tuple[Site, int], tuple[Tensor, Tensor]] = {}

    def __call__(self, layer: Layer, q: Tensor, k: Tensor, v: Tensor, attend: Attend) -> Tensor:
        own = attend(q, k, v)
        by_clip = (rearrange(p, "(r s) h n d -> r s h n d", r=len(layer.rows)) for p in (k, v))
        present = {
            row: (k_row.detach(), v_row.detach())
            for row, k_row, v_row in zip(layer.rows, *by_clip, strict=True)
        }
        for edited, reference in self.pairs.items():
            if reference in present and edited not in present:
                # Copies, for a view would keep what all clips of the batch have.
                kept = tuple(part.clone() for part in present[reference])
                self._references[layer.site, reference] = kept
        indices = [i for i, row in enumerate(layer.rows) if row in self.pairs]
        if not indices:
            return own
        references = [self._reference(layer, layer.rows[i], present) for i in indices]
        k_reference, v_reference = (torch.cat(parts) for parts in zip(*references, strict=True))
        samples = torch.arange(len(q), device=q.device).view(len(layer.rows), -1)[indices].flatten()
        fused = _fuse(own[samples], q[samples], k_reference, v_reference, self.weight)
        return own.index_copy(0, samples, fused)

    def _reference(
        self, layer: Layer, row: int, present: Mapping[int, tuple[Tensor, Tensor]]
    ) -> tuple[Tensor, Tensor]:
        reference = self.pairs[row]
        if reference in present:
            return present[reference]
        if (layer.site, reference) not in self._references:
            raise ValueError(
                f"Clip {row} of the batch is edited before its reference, clip {reference}, was "
                f"seen at {layer.site.name}. References come first."
            )
        return self._references[layer.site, reference]


def _check_weight(weight: float | int) -> None:
    if not 0 <= weight <= 1:
        raise ValueError(f"The fusion weight is {weight}; it must lie within 0..1.")
