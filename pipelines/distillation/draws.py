"""The random draws of a step: its level, its step size, its noise, and how draws are combined."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from ..models.process import Latents, Level, Process, noised
from .settings import Settings
from .terms import Draw, Weighted

# FlowDirector's guidance: how far to go from the gradient of one draw beyond the mean of all.
_BEYOND = 2.75


def level_and_step(
    step: int, steps: int, process: Process, settings: Settings, generator: torch.Generator
) -> tuple[Level, float]:
    """The level of step number `step` of `steps`, and its step size along the gradient.

    In random order each step size is `step_size`. In descending order the levels go evenly along
    the model's clock from `t_max` down to `t_min`, and a step size is `step_size` times the
    decrease in noise to the next level. From pure noise to none, the step sizes add up to
    `step_size`.
    """
    if settings.order == "random":
        return process.drawn(settings.t_min, settings.t_max, generator), settings.step_size
    span = settings.t_max - settings.t_min
    # Rounded, so that a run in two parts has the same levels.
    shares = (round(settings.t_max - span * i / steps, 12) for i in (step, step + 1))
    here, there = (process.at(share) for share in shares)
    return here, settings.step_size * (here.noise - there.noise)


def drawn_noise(
    z: Latents, memory: float | int, before: Latents | None, generator: torch.Generator
) -> Latents:
    """Noise of the shape of `z`, drawn on the CPU: a seed gives the same noise on every device.

    `memory` is the share of its variance that comes from the noise of the step `before`.
    """
    noise = torch.randn(z.shape, generator=generator, dtype=z.dtype).to(z.device)
    if before is None or memory == 0:
        return noise
    return math.sqrt(memory) * before.to(noise) + math.sqrt(1 - memory) * noise


def draw_of(
    z: Latents,
    z_source: Latents,
    level: Level,
    noise: Latents,
    *,
    eta: float | int = 0.0,
    step: float | int = 1.0,
) -> Draw:
    """Both clips with the same noise; the edited one is shifted by eta (1 - s)(z - z_source)."""
    shift = eta * (1 - level.signal)
    z_t = noised(z, noise, level)
    if shift:
        z_t = z_t + shift * (z - z_source)
    return Draw(level, noise, z_t, noised(z_source, noise, level), shift, step)


def eta_of(terms: Sequence[Weighted], share: float | int) -> float:
    """The eta of the terms after a share of the steps; 0 if no term has one.

    Raises:
        ValueError: if terms have different ones: all terms of a step use the same noised clip.
    """
    etas = {term.eta_at(share) for term in (entry.term for entry in terms) if has_eta(term)}
    if len(etas) > 1:
        raise ValueError(
            f"The Delta Denoising terms have different eta ({', '.join(map(str, sorted(etas)))}), "
            "and all terms of a step see the same noised clip. Give them the same eta."
        )
    return etas.pop() if etas else 0.0


def has_eta(term: object) -> bool:
    return hasattr(term, "eta_at")


def shares_of_draws(kind: str, ahead: Sequence[Latents], z_source: Latents) -> list[float]:
    """The weights of the gradients of several draws; they add up to 1.

    "weighted" (DynaEdit, 2603.17989): the softmax over the draws of the cosine between the source
    and z - n G, the latents that the gradient leads to, given as `ahead`. "best against worst"
    (FlowDirector, 2506.05046): guidance from the gradient of the first draw, the worse estimate, to
    the mean over all draws, the better one: mean + 2.75 (mean - first).
    """
    count = len(ahead)
    if kind == "best against worst":
        mean = (1 + _BEYOND) / count
        return [mean - _BEYOND, *[mean] * (count - 1)]
    alike = torch.stack([_cosine(each, z_source) for each in ahead])
    return alike.softmax(dim=0).tolist()


def _cosine(one: Latents, other: Latents) -> Tensor:
    return functional.cosine_similarity(one.flatten().double(), other.flatten().double(), dim=0)
