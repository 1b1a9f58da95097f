"""Shift-restricted temporal attention (STAM), which limits the shift of features' statistics."""

from collections.abc import Callable
from functools import partial
from types import MappingProxyType

import torch
from jaxtyping import Float
from torch import Tensor

from .temporal import TemporalAttention, instance_norm, unchanged


def instance_center(z: Float[Tensor, "*batch f d"]) -> Float[Tensor, "*batch f d"]:
    """Features without their mean over the frames (EI2, Zhang et al., 2023, Eq. 6)."""
    return z - z.mean(dim=-2, keepdim=True)


class CentredTemporalAttention(TemporalAttention):
    """Temporal attention that keeps the temporal mean of its input, except for the output bias.

    Deviation: the output of the attention is centred once more. Softmax weights add up to 1 over
    the keys, but not over the queries. So Eq. 9 keeps the mean only in expectation, under the
    assumptions of Proposition 1. With the second centring the mean is kept for every input, which
    is the aim of the paper (Eq. 5).
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
        """IC(Attention(IC(z), IC(z))): its mean over the frames is zero."""
        return instance_center(super().attended(z))


class ShiftRestrictedTemporalAttention(CentredTemporalAttention):
    """STAM(z) = z + Linear(IC(Attention(IC(z), IC(z)))) (EI2, Zhang et al., 2023, Eq. 9).

    Deviation: the outer centring; see `CentredTemporalAttention`. "stam-as-printed" is without it.

    Takes and returns features `[..., f, d]`. Instance centring instead of LayerNorm keeps the mean
    over the frames. Value and output maps with spectral norm 1 (Eq. 8) limit the change of the
    variance (Eq. 7). The output bias starts at zero. The paper does not give the initial maps. Here
    the query map starts at zero, so that all frames read the same, and the module starts as the
    identity up to rounding.
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


# For each name, what makes the temporal module: (dim, heads, head_dim, generator=).
TEMPORAL: MappingProxyType[str, Callable[..., TemporalAttention]] = MappingProxyType(
    {
        "layer-norm": TemporalAttention,
        "tune-a-video": partial(TemporalAttention, drawn_bias=True),  # as its authors' code
        "no-norm": partial(TemporalAttention, norm=unchanged),  # "LayerNorm removed" (EI2, Fig. 4)
        "instance-norm": partial(TemporalAttention, norm=instance_norm),
        "centred": CentredTemporalAttention,  # instance centring without spectral norms
        "spectral": partial(TemporalAttention, spectral=True),  # spectral norms without centring
        "stam": ShiftRestrictedTemporalAttention,
        # Eq. 9 of EI2 as printed, without the second centring: the mean changes a little.
        "stam-as-printed": partial(TemporalAttention, norm=instance_center, spectral=True),
    }
)
