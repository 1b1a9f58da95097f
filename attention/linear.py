"""Linear layers to be trained inside a half-precision model, with or without a spectral norm."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

# Smaller than any norm that occurs, but large enough to divide by without overflow.
_SMALLEST_NORM = 1e-12


class TrainedLinear(nn.Linear):
    """A linear layer with weights in float32 that computes in the precision of its input."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        # On the meta device: nn.Linear would draw weights from the global random state.
        super().__init__(*reversed(weight.shape), bias=bias is not None, device="meta")
        wide = torch.promote_types(weight.dtype, torch.float32)
        self.weight = nn.Parameter(weight.detach().to(wide, copy=True))
        if bias is not None:
            self.bias = nn.Parameter(bias.detach().to(wide, copy=True))

    @property
    def map(self) -> Tensor:
        """The matrix of the layer, in the precision of its weights."""
        return self.weight

    def forward(self, x: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return functional.linear(x, self.map.to(x.dtype), bias)


class SpectralLinear(TrainedLinear):
    """A linear layer whose matrix is divided by its largest singular value: W / sigma_max(W).

    Spectral normalisation (Miyato et al., 2018), as in EI2 (Zhang et al., 2023, Eq. 8). The
    singular vector is a buffer. The forward pass does not change it, so that a second run in
    gradient checkpointing gives the same result; `refine` does. A zero matrix stays zero.
    """

    def __init__(
        self, weight: Tensor, bias: Tensor | None = None, generator: torch.Generator | None = None
    ) -> None:
        super().__init__(weight, bias)
        # Only its size is used. The draw keeps what a seed draws for the layers after this one.
        u = torch.randn(len(weight), generator=generator, dtype=self.weight.dtype)
        self.register_buffer("u", u.to(weight.device))
        self.settle()

    @torch.no_grad()
    def refine(self) -> None:
        """One power iteration, which is enough after a small change of the weights."""
        v = functional.normalize(self.weight.T @ self.u, dim=0)
        u = functional.normalize(self.weight @ v, dim=0)
        # A new tensor: copies of the layer may share the old one.
        self.u = u if torch.isfinite(u).all() and u.any() else self.u

    @torch.no_grad()
    def settle(self) -> None:
        """Compute the singular vector exactly (up to rounding), by a full decomposition."""
        self.u = torch.linalg.svd(self.weight, full_matrices=False).U[:, 0].contiguous()

    @property
    def sigma(self) -> Tensor:
        """The largest singular value, u^T W v with v = W^T u / |W^T u|, differentiable in W."""
        u = self.u
        v = functional.normalize(self.weight.detach().T @ u, dim=0)
        return u @ (self.weight @ v)

    @property
    def map(self) -> Tensor:
        with torch.autocast(self.weight.device.type, enabled=False):
            return self.weight / self.sigma.clamp(min=_SMALLEST_NORM)


def drawn_weight(rows: int, columns: int, generator: torch.Generator | None = None) -> Tensor:
    """A random matrix `[rows, columns]`, with the distribution of a new nn.Linear."""
    bound = 1 / math.sqrt(columns)
    return (2 * torch.rand(rows, columns, generator=generator) - 1) * bound
