"""Plain DDIM sampling: from noise, or from an inverted clip, down a grid of timesteps."""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from ..models.schedule import Latents, ddim_step


@torch.no_grad()
def ddim_sample(
    z_T: Latents,
    eps_theta: Callable[[Latents, int], Latents],
    alphas_bar: Float[Tensor, " T"],
    timesteps: Sequence[int],
    on_step: Callable[[int, Latents], None] | None = None,
) -> Latents:
    """Denoise latents along a grid that ascends from the clean end, as `ddim_invert` climbs it.

    Implements Eq. 12 of DDIM (Song et al., 2021) with eta = 0. `eps_theta(z, t)` is the (guided)
    prediction under one prompt. `on_step(done, z)` is called after every step and may raise to
    stop.
    """
    z = z_T
    for done, (t_from, t_to) in enumerate(pairwise(reversed(timesteps)), start=1):
        a_from, a_to = alphas_bar[t_from].item(), alphas_bar[t_to].item()
        z = ddim_step(z, eps_theta(z, t_from), a_from, a_to)
        if on_step is not None:
            on_step(done, z)
    return z
