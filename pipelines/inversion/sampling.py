"""Plain sampling from noise, or from an inverted clip, along a grid of levels."""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch

from ..models.denoiser import Ask
from ..models.process import Latents, Level, move


@torch.no_grad()
def ddim_sample(
    z_T: Latents,
    predict: Ask,
    levels: Sequence[Level],
    on_step: Callable[[int, Latents], None] | None = None,
) -> Latents:
    """Denoise latents along a grid of levels, given from clean to noisy, as for `ddim_invert`.

    Implements Eq. 12 of DDIM (Song et al., 2021) with eta = 0; for a flow it is Euler's method.
    `predict(z, level)` is the (guided) prediction under one prompt. `on_step(done, z)` is called
    after every step and may raise an exception to stop.
    """
    z = z_T
    for done, (here, there) in enumerate(pairwise(reversed(levels)), start=1):
        z = move(predict(z, here), there)
        if on_step is not None:
            on_step(done, z)
    return z
