"""Temporal attention as a residual module: Tune-A-Video's, with the parts that EI2 changes."""

from collections.abc import Callable
from typing import TypeAlias

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from .linear import SpectralLinear, TrainedLinear, drawn_weight

Features: TypeAlias = Float[Tensor, "*batch f d"]

# The largest batch of the fused attention kernels; one row is one position of a clip.
_ROWS_PER_KERNEL = 2**15


def layer_norm(z: Features) -> Features:
    """Each frame's features normalised over the channels (mean 0, variance 1), without weights.

    In Tune-A-Video it has weights, which start as the identity and are never trained.
    """
    return functional.layer_norm(z, z.shape[-1:])


def unchanged(z: Features) -> Features:
    """No normalisation at all."""
    return z


def instance_norm(z: Features) -> Features:
    """Each channel normalised over the frames to mean 0 and variance 1 (Ulyanov et al., 2016)."""
    variance = z.var(dim=-2, keepdim=True, unbiased=False)
    return (z - z.mean(dim=-2, keepdim=True)) * torch.rsqrt(variance + 1e-5)


class TemporalAttention(nn.Module):
    """z + Linear(Attention(norm(z), norm(z))) along the frames (Zhang et al., 2023, Eq. 4).

    Every position of the picture attends to the same position in all frames. With `spectral`, the
    value and output maps are divided by their largest singular values (Eq. 8). Without it the
    output map starts at zero, so that the module starts as the identity; with `drawn_bias` its bias
    is drawn, as in Tune-A-Video's code, and the module starts by adding it. An output map of norm 1
    cannot be zero; then the query map starts at zero, so that at first every frame reads the mean
    of all frames.

    Weights are drawn from `generator` and kept in float32. The module computes in the precision of
    its input.
    """

    def __init__(
        self,
        dim: int,
        heads: int = 1,
        head_dim: int | None = None,
        *,
        norm: Callable[[Features], Features] = layer_norm,
        spectral: bool = False,
        drawn_bias: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if head_dim is None and dim % heads:
            raise ValueError(f"{dim} channels cannot be split over {heads} heads; give head_dim.")
        inner = heads * (head_dim or dim // heads)
        self.heads = heads
        self.norm = norm
        query, key, value = (drawn_weight(inner, dim, generator) for _ in range(3))
        output, bias = drawn_weight(dim, inner, generator), torch.zeros(dim)
        if drawn_bias:
            bias = drawn_weight(dim, inner, generator)[:, 0]  # a new nn.Linear's: the same bounds
        self.to_k = TrainedLinear(key)
        if spectral:
            self.to_q = TrainedLinear(torch.zeros_like(query))
            self.to_v = SpectralLinear(value, generator=generator)
            self.to_out = SpectralLinear(output, bias, generator=generator)
        else:
            self.to_q = TrainedLinear(query)
            self.to_v = TrainedLinear(value)
            self.to_out = TrainedLinear(torch.zeros_like(output), bias)

    def forward(self, z: Features) -> Features:
        rows = z.reshape(-1, *z.shape[-2:])
        return z + self.to_out(self.attended(rows)).view_as(z)

    def attended(self, z: Float[Tensor, "rows f d"]) -> Float[Tensor, "rows f inner"]:
        """The output of the attention, Attention(norm(z), norm(z)), before Linear."""
        x = self.norm(z)
        q, k, v = (
            rearrange(project(x), "rows f (h d) -> rows h f d", h=self.heads)
            for project in (self.to_q, self.to_k, self.to_v)
        )
        parts = zip(*(p.split(_ROWS_PER_KERNEL) for p in (q, k, v)), strict=True)
        read = [functional.scaled_dot_product_attention(*part) for part in parts]
        return rearrange(torch.cat(read), "rows h f d -> rows f (h d)")

    def refine_norms(self) -> None:
        """Update the spectral norms of the maps, after a change of the weights."""
        for part in self.children():
            if isinstance(part, SpectralLinear):
                part.refine()
