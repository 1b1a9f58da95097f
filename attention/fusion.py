"""Weighted attention fusion: the edit also attends to the keys and values of its source."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from .counterparts import Counterparts, Parts
from .layers import Clip, Entry, Held, Layer, Layers, check_times


@dataclass(frozen=True)
class Fusion:
    """Attention fusion as a control, in the last spatial layers.

    `weight` is the weight of the edit's own attention. ASSD gives neither the number of layers nor
    the weight; the defaults are ours.
    """

    layers: int = 3
    weight: float | int = 0.5
    start: float = 0.0
    end: float = 1.0
    name: ClassVar[str] = "Attention fusion"
    reads: ClassVar[tuple[str, ...]] = ("uncond", "cond")

    def __post_init__(self) -> None:
        if self.layers < 1:
            raise ValueError(f"Attention is fused in {self.layers} layers; it must be 1 or more.")
        _check_weight(self.weight)
        check_times(self)

    def on(self, layers: Layers, clip: Clip) -> Held:
        """The fusion in a model's last spatial layers."""
        sites = layers.last(self.layers)
        return lambda pairs, frames: Entry(sites, AttentionFusion(pairs, self.weight))


class AttentionFusion(Counterparts):
    """The change: edited clips also read their references; all other clips attend as usual.

    weight * self-attention + (1 - weight) * attention to the reference: Eq. 11 to 13 of ASSD (Zhu
    et al., 2024), where `weight` is lambda. Weight 1 is plain self-attention, bit for bit. `pairs`
    maps each edited clip to its reference. No gradient goes to references.

    Raises:
        ValueError: for a weight outside 0..1; when called, if an edited clip comes before its
            reference.
    """

    def __init__(self, pairs: Mapping[int, int], weight: float | int) -> None:
        _check_weight(weight)
        super().__init__(pairs, self._fused)
        self.weight = weight

    def _fused(
        self, layer: Layer, own: Parts, reference: Parts, unchanged: Callable[[], Tensor]
    ) -> Tensor:
        if self.weight == 1:
            return unchanged()
        k, v = (part.detach() for part in reference[1:])
        return self.weight * unchanged() + (1 - self.weight) * layer.attend(own[0], k, v)


def _check_weight(weight: float | int) -> None:
    if not 0 <= weight <= 1:
        raise ValueError(f"The fusion weight is {weight}; it must lie within 0..1.")
