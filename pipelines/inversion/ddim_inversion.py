"""DDIM inversion: from a clip's latents to the noise from which sampling leads back to them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch

from ..models.denoiser import Ask
from ..models.process import (
    Latents,
    Level,
    Prediction,
    check_grid,
    check_latents,
    move,
    split,
    target,
)
from .trajectory import Progress, Trajectory


@dataclass(frozen=True)
class Refinement:
    """Fixed-point iterations that make every inversion step the exact inverse of a denoising step.

    Not in VideoDirector; see Pan et al., 2023 (AIDI), for images. Each step makes at most
    `iterations` of them, each one model call. It ends early when its latents move by no more than
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
    predict: Ask,
    levels: Sequence[Level],
    on_step: Callable[[Progress], None] | None = None,
    *,
    refinement: Refinement = _NONE,
    kind: str = "epsilon",
) -> Trajectory:
    """The latents at every level of a grid, from the clip towards noise.

    Implements DDIM (Song et al., 2021, Eq. 13) from less noise to more; for a flow it is Euler's
    method. `levels` are T + 1 levels with growing noise. `latents[i]` of the result is at
    `levels[i]`, and `latents[0]` is `z_0`.

    Each step calls the model at the level it goes to, because denoising will call it there on the
    way back. With `refinement` the model is also called at the latents that the step leads to, so
    that denoising comes back to the clip exactly. Over a step the prediction, expressed as `kind`,
    is taken as constant: "epsilon" for DDIM, "flow" for Euler's method. `on_step` is called after
    every step and may raise an exception to stop.

    Raises:
        ValueError: for levels that do not ascend, or latents that are not finite.
        FloatingPointError: if a step gives latents that are not finite.
    """
    check_grid(levels)
    check_latents(z_0)
    steps, latents = len(levels) - 1, [z_0]
    for i, (here, there) in enumerate(pairwise(levels)):
        z = _up(latents[i], predict(latents[i], there), here, there, kind)
        for _ in range(refinement.iterations):
            last, z = z, _up(latents[i], predict(z, there), here, there, kind)
            if float((z - last).square().mean().sqrt()) <= refinement.tolerance:
                break
        if not bool(torch.isfinite(z).all()):
            raise FloatingPointError(
                f"Inversion left the range of numbers at step {i + 1} of {steps}. With a float16 "
                "model, try bfloat16 or float32; with refinement, use fewer iterations."
            )
        latents.append(z)
        if on_step is not None:
            on_step(Progress(i + 1, steps, z))
    return Trajectory(torch.stack(latents), tuple(levels))


def _up(z: Latents, said: Prediction, here: Level, there: Level, kind: str) -> Latents:
    """A step to a noisier level `there`, with the prediction `said` made at that level."""
    return move(split(target(*said, there, kind), z, here, kind), there)
