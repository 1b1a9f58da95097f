"""Sparse-causal attention: every frame reads the first frame and the one before it."""

import torch
from jaxtyping import Shaped
from torch import Tensor


def sparse_causal_tokens(z: Shaped[Tensor, "b f n d"]) -> Shaped[Tensor, "b f m d"]:
    """For each frame, the tokens of the first frame and then those of the frame before it.

    From Tune-A-Video (Wu et al., 2023, Eq. 5); m = 2 n. The first frame reads itself twice, which
    gives the same result as once.
    """
    first = z[:, :1].expand_as(z)
    before = torch.cat([z[:, :1], z[:, :-1]], dim=1)
    return torch.cat([first, before], dim=2)
