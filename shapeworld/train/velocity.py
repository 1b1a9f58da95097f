"""The denoising loss of all three models: velocities, met with noise alone as well."""

from collections.abc import Callable
from typing import Any

import torch
from diffusers import DDIMScheduler
from torch import Tensor
from torch.nn import functional

FAINT = 0.15  # of a batch, what is trained at the noisiest steps, mostly with less signal yet


def velocity_loss(
    predict: Callable[[Tensor, Tensor], Tensor],
    latents: Tensor,
    schedule: dict[str, Any],
    generator: torch.Generator,
    faint: float = FAINT,
) -> Tensor:
    """Mean squared error of the predicted velocity v (Salimans & Ho, 2022, Appendix D).

    Timesteps are drawn with a density that grows linearly with t: much noise is where a caption
    decides what a clip shows and how it moves; removing a little of it is learnt fast. In a share
    of the batch, `faint`, the signal is dimmed at the noisiest steps, in two fifths of it to
    nothing. These schedules leave a little of it at the last step (Lin et al., 2024), and averaged
    over a clip that little shows how everything moves: no word would be needed for it, and none
    would be learnt. Sampling begins with noise alone, and there the words are all there is.
    """
    count = len(latents)
    noising = DDIMScheduler.from_config(schedule)
    last = noising.config.num_train_timesteps - 1

    def draw() -> Tensor:
        return torch.rand(count, generator=generator)

    # Evenly spread over 0..1, so that every batch has its share of what is faint.
    place = (torch.randperm(count, generator=generator) + draw()) / (count * faint)
    dim = place < 1
    t = torch.where(dim, last - 150 * draw(), last * draw().sqrt()).round().long()
    left = torch.where(place < 0.8, (place - 0.4).clamp(min=0) / 0.8, 1)
    left, a_t = (x.view(-1, *[1] * (latents.ndim - 1)) for x in (left, noising.alphas_cumprod[t]))
    noise = torch.randn(latents.shape, generator=generator)
    z_t = left * a_t.sqrt() * latents + (1 - left**2 * a_t).sqrt() * noise
    # The velocity from which z_0 = sqrt(a_t) z_t - sqrt(1 - a_t) v, however dim z_t is.
    v = (a_t.sqrt() * z_t - latents) / (1 - a_t).sqrt()
    return functional.mse_loss(predict(z_t, t), v)
