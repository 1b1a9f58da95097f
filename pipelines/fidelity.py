"""How close two clips are."""

import math

from jaxtyping import Float
from torch import Tensor


def psnr(a: Float[Tensor, "*shape"], b: Float[Tensor, "*shape"]) -> float:
    """Peak signal-to-noise ratio in dB of values in 0..1; infinite where they are equal."""
    error = float((a.double() - b.double()).square().mean())
    return math.inf if error == 0 else -10 * math.log10(error)
