"""Shift-restricted temporal attention (STAM): along time, with the features' statistics kept."""

from collections.abc import Callable
from functools import partial
from types import MappingProxyType

import torch
from jaxtyping import Float
from torch import Tensor

from .temporal import TemporalAttention, instance_norm


def instance_center(z: Float[Tensor, "*batch f d"]) -> Float[Tensor, "*batch f d"]:
    """Features without their mean over the frames (EI2, Zhang et al., 2023, Eq. 6)."""
    return z - z.mean(dim=-2, keepdim=True)


class CentredTemporalAttention(TemporalAttention):
    """Temporal attention that keeps the temporal mean of its input, but for the output bias.

    Deviation: what is read is centred once more. Softmax weights add up to 1 over the frames that
    are read and not over those that read, so that Eq. 9 keeps the mean only in expectation, under
    the assumptions of Proposition 1; this way it is kept for every input, which is what the paper
    aims at (Eq. 5).
    """

    def __init__(
        self,
        dim: int,
        heads: int = 1,
        head_dim: int | None = None,
        *,
        spectral: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(
            dim, heads, head_dim, norm=instance_center, spectral=spectral, generator=generator
        )

    def attended(self, z: Float[Tensor, "rows f d"]) -> Float[Tensor, "rows f inner"]:
        """Attention(IC(z), IC(z)), centred: its mean over the frames is zero."""
        return instance_center(super().attended(z))


class ShiftRestrictedTemporalAttention(CentredTemporalAttention):
    """STAM(z) = z + Linear(IC(Attention(IC(z), IC(z)))) (EI2, Zhang et al., 2023, Eq. 9).

    Deviation: the outer centring; see `CentredTemporalAttention`. "stam-as-printed" is without it.

    Takes and gives features `[..., f, d]`. Instance centring in place of LayerNorm keeps the mean
    over the frames; value and output maps of spectral norm 1 (Eq. 8) bound how far the variance can
    move (Eq. 7). The output bias begins at zero. The paper does not say how the maps begin: here
    the query map begins at zero, all frames read the same, and the module begins as the identity to
    within rounding.
    """

    def __init__(
        self,
        dim: int,
        heads: int = 1,
        head_dim: int | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(dim, heads, head_dim, spectral=True, generator=generator)


# Name -> what makes a temporal module: (dim, heads, head_dim, generator=).
TEMPORAL: MappingProxyType[str, Callable[..., TemporalAttention]] = MappingProxyType(
    {
        "layer-norm": TemporalAttention,  # Tune-A-Video
        "instance-norm": partial(TemporalAttention, norm=instance_norm),
        "centred": CentredTemporalAttention,  # instance centring without spectral norms
        "spectral": partial(TemporalAttention, spectral=True),  # and the other way round
        "stam": ShiftRestrictedTemporalAttention,
        # Eq. 9 of EI2 as it is printed: without the second centring, the mean moves a little.
        "stam-as-printed": partial(TemporalAttention, norm=instance_center, spectral=True),
    }
)
