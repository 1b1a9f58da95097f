"""A world in which the best prediction is known in closed form: every prompt is a Gaussian.

Under the prompt with mean m, clean latents are z_0 ~ N(m, S^2). Then z_t = s z_0 + n eps is
Gaussian too, N(s m, D) with D = s^2 S^2 + n^2, and what a model of each kind should say is linear
in it, with e = z_t - s m:

    epsilon     E[eps | z_t] = n e / D
    denoised    E[z_0 | z_t] = m + s S^2 e / D
    v           E[s eps - n z_0 | z_t] = s n (1 - S^2) e / D - n m
    flow        E[eps - z_0 | z_t] = (n - s S^2) e / D - m

The deterministic path that leads from one level to another keeps e / sqrt(D) as it is.

A prompt's embedding is its mean, written into a `[b, 1, 1]` tensor.
"""

import torch
from rescore.pipelines.models.denoiser import Denoiser
from rescore.pipelines.models.process import Level, Process, VariancePreserving
from torch import Tensor

SPREAD = 0.5  # S


def variance(level: Level) -> float:
    """The variance of z_t, D."""
    return level.signal**2 * SPREAD**2 + level.noise**2


def exact_eps(z_t: Tensor, level: Level, mean: Tensor | float) -> Tensor:
    return level.noise * (z_t - level.signal * mean) / variance(level)


def exact_output(z_t: Tensor, level: Level, mean: Tensor | float, kind: str) -> Tensor:
    """What a model of a kind, one of `process.KINDS`, should say."""
    s, n = level.signal, level.noise
    strayed = (z_t - s * mean) / variance(level)
    if kind == "epsilon":
        return n * strayed
    if kind == "denoised":
        return mean + s * SPREAD**2 * strayed
    if kind == "v":
        return s * n * (1 - SPREAD**2) * strayed - n * mean
    return (n - s * SPREAD**2) * strayed - mean


def carried(z: Tensor, here: Level, there: Level, mean: Tensor | float) -> Tensor:
    """Where the exact probability flow takes latents from one level to another."""
    strayed = (z - here.signal * mean) / variance(here) ** 0.5
    return there.signal * mean + variance(there) ** 0.5 * strayed


class GaussianModel:
    """The `output` of a denoiser of the Gaussian world, which keeps the rows of each call."""

    def __init__(self, process: Process, kind: str) -> None:
        self.process, self.kind = process, kind
        self.rows: list[int] = []

    def __call__(self, z_t: Tensor, t: float, cond: Tensor) -> Tensor:
        self.rows.append(len(z_t))
        mean = cond.view(-1, 1, 1, 1, 1).to(z_t)
        return exact_output(z_t, self._level(t), mean, self.kind)

    def _level(self, t: float) -> Level:
        if isinstance(self.process, VariancePreserving):
            return self.process.level(round(t))
        return Level(t, 1 - t / 1000, t / 1000)


def gaussian_model(process: Process, kind: str = "epsilon") -> Denoiser:
    """The model of the Gaussian world; its `output.rows` are the rows of each call so far."""
    return Denoiser("gaussian", process, kind, GaussianModel(process, kind))


def prompt(mean: float) -> Tensor:
    return torch.full((1, 1, 1), mean, dtype=torch.float64)
