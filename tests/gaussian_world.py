"""A world in which the best noise prediction is known in closed form: every prompt is a Gaussian.

Under the prompt with mean m, clean latents are z_0 ~ N(m, s^2). Then z_t is Gaussian too, and the
exact prediction of the noise is linear in it:

    E[eps | z_t] = sqrt(1 - a) (z_t - sqrt(a) m) / (a s^2 + 1 - a)

A prompt's embedding is its mean, written into a `[b, 1, 1]` tensor.
"""

import torch
from torch import Tensor

SPREAD = 0.5


def exact_eps(z_t: Tensor, a: Tensor | float, mean: Tensor | float) -> Tensor:
    a = torch.as_tensor(a, dtype=z_t.dtype)
    return (1 - a).sqrt() * (z_t - a.sqrt() * mean) / (a * SPREAD**2 + 1 - a)


class GaussianModel:
    """`eps_theta` of the Gaussian world, which counts its calls and the rows of each."""

    def __init__(self, alphas_bar: Tensor) -> None:
        self.alphas_bar = alphas_bar
        self.rows: list[int] = []

    def __call__(self, z_t: Tensor, t: int, cond: Tensor) -> Tensor:
        self.rows.append(len(z_t))
        mean = cond.view(-1, 1, 1, 1, 1).to(z_t)
        return exact_eps(z_t, self.alphas_bar[t], mean)


def prompt(mean: float) -> Tensor:
    return torch.full((1, 1, 1), mean, dtype=torch.float64)
