"""Classifier-free guidance, in the one convention used everywhere in ReScore."""

from jaxtyping import Float
from torch import Tensor


def guide(
    eps_uncond: Float[Tensor, "*shape"], eps_cond: Float[Tensor, "*shape"], cfg: float | int
) -> Float[Tensor, "*shape"]:
    """The guided noise prediction eps_uncond + cfg * (eps_cond - eps_uncond).

    Ho & Salimans (2022) write (1 + w) eps_cond - w eps_uncond; here cfg = 1 + w. With cfg 0 the
    result is eps_uncond, with cfg 1 it is eps_cond, both exactly.
    """
    if cfg == 1:
        return eps_cond
    return eps_uncond + cfg * (eps_cond - eps_uncond)
