"""How a tuned model edits its clip: inverted, and sampled with the new prompt."""

from collections.abc import Callable

import torch

from ..inversion.ddim_inversion import ddim_invert
from ..inversion.sampling import ddim_sample
from ..models.denoiser import Denoiser, Prompts
from ..models.process import Latents, Level, Prediction


@torch.no_grad()
def invert_and_edit(
    z_0: Latents,
    denoiser: Denoiser,
    prompts: Prompts,
    *,
    steps: int = 50,
    cfg: float = 7.5,
    describe: bool = False,
    on_step: Callable[[int], None] | None = None,
) -> Latents:
    """A clip edited by a tuned model: inverted, and sampled with the target's prompt.

    EI2's way of editing (Zhang et al., 2023, Sec. 5), with its defaults. The paper does not name
    the prompt of the inversion. Tune-A-Video's is empty: here the negative one, which usually is.
    With `describe` it is the source's, which keeps what is not edited closer to the clip.
    `on_step` is called with the number of steps done, of `2 * steps`, and may raise to stop.
    """
    inverting = prompts.source if describe else prompts.negative
    grid, tell = denoiser.process.grid(steps), on_step or (lambda done: None)
    inverted = ddim_invert(
        z_0,
        lambda z, level: denoiser(z, level, inverting),
        grid,
        lambda progress: tell(progress.step),
    )

    def predict(z: Latents, level: Level) -> Prediction:
        return denoiser.guided(z, level, prompts.target, prompts.negative, cfg)

    return ddim_sample(inverted.latents[-1], predict, grid, lambda done, _: tell(steps + done))
