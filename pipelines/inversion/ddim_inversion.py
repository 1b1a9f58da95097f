"""DDIM inversion: from a clip's latents to the noise that the model would make them from."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..models.schedule import Latents, ddim_step
from .trajectory import Trajectory

# The noise prediction under one prompt: (z_t, t) -> eps.
Eps: TypeAlias = Callable[[Latents, int], Latents]


class InversionProgress(NamedTuple):
    """What `on_step` is shown: `step` of `steps` are done, and `z` is where they have led."""

    step: int
    steps: int
    z: Latents


@dataclass(frozen=True)
class Refinement:
    """Fixed-point iterations that make every inversion step the exact inverse of a denoising one.

    Not in VideoDirector; see Pan et al., 2023 (AIDI), for images. `iterations` is the most that
    are made per step, each one model call; a step ends early once its latents move by no more than
    `tolerance` (root mean square).
    """

    iterations: int = 0
    tolerance: float = 1e-4

    def __post_init__(self) -> None:
        if self.iterations < 0:
            raise ValueError(
                f"The number of refinements is {self.iterations}; it must be 0 (none) or more."
            )
        if not self.tolerance >= 0:
            raise ValueError(f"The tolerance is {self.tolerance}; it must be 0 or more.")


_NONE = Refinement()


@torch.no_grad()
def ddim_invert(
    z_0: Latents,
    eps_theta: Eps,
    alphas_bar: Float[Tensor, " T"],
    timesteps: Sequence[int] | Int[Tensor, " levels"],
    on_step: Callable[[InversionProgress], None] | None = None,
    *,
    refinement: Refinement = _NONE,
) -> Trajectory:
    """The latents at every timestep of a grid, from the clip towards noise.

    Implements DDIM (Song et al., 2021, Eq. 13) integrated upwards. `timesteps` ascends from the
    clean end, T + 1 of them, and `latents[i]` of the result belongs to `timesteps[i]`; `latents[0]`
    is `z_0`. Each step asks the model at the timestep it goes to, which is where denoising will ask
    it when it comes back; with `refinement` also at the latents it goes to, so that denoising
    returns to the clip exactly. `on_step` is called after every step and may raise to stop.

    Raises:
        ValueError: for a grid that does not ascend within the schedule, or latents that are not
            finite.
        FloatingPointError: if a step gives latents that are not finite.
    """
    timesteps = tuple(int(t) for t in timesteps)
    check_grid(timesteps, alphas_bar)
    if not bool(torch.isfinite(z_0).all()):
        raise ValueError(
            "The clip's latents hold NaN or infinite values. Check the clip that was encoded; a "
            "VAE that overflows in float16 must run in float32."
        )
    steps, latents = len(timesteps) - 1, [z_0]
    for i, (t_from, t_to) in enumerate(pairwise(timesteps)):
        a_from, a_to = alphas_bar[t_from].item(), alphas_bar[t_to].item()
        z = ddim_step(latents[i], eps_theta(latents[i], t_to), a_from, a_to)
        for _ in range(refinement.iterations):
            last, z = z, ddim_step(latents[i], eps_theta(z, t_to), a_from, a_to)
            if float((z - last).square().mean().sqrt()) <= refinement.tolerance:
                break
        if not bool(torch.isfinite(z).all()):
            raise FloatingPointError(
                f"Inversion left the range of numbers at step {i + 1} of {steps}. With a float16 "
                "model, try bfloat16 or float32; with refinement, use fewer iterations."
            )
        latents.append(z)
        if on_step is not None:
            on_step(InversionProgress(i + 1, steps, z))
    return Trajectory(torch.stack(latents), timesteps)


def check_grid(timesteps: Sequence[int], alphas_bar: Tensor) -> None:
    """Raise ValueError unless timesteps ascend within the schedule and are at least two."""
    ascends = all(a < b for a, b in pairwise(timesteps))
    if len(timesteps) < 2 or not ascends or timesteps[0] < 0 or timesteps[-1] >= len(alphas_bar):
        raise ValueError(
            f"The timesteps {list(timesteps)} are no grid: at least two are needed, ascending, "
            f"between 0 and {len(alphas_bar) - 1}."
        )
