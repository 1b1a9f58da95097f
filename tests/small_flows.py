"""Small flows that several tests are made with."""

import torch

H, W = 11, 17


def random(*shape, seed=0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def steady(x: float, y: float, count: int = 1, height: int = H, width: int = W) -> torch.Tensor:
    """The same vector at every pixel: x to the right, y down."""
    return (
        torch.tensor([x, y], dtype=torch.float64).view(1, 2, 1, 1).repeat(count, 1, height, width)
    )
