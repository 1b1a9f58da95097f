"""Edit a clip with a tuned model: invert it, then sample with the new prompt."""

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
    """Invert a clip with a tuned model, then sample it with the target prompt.

    This is how EI2 edits (Zhang et al., 2023, Sec. 5); its cfg is 7.5. The paper gives neither the
    number of steps nor the prompt of the inversion. In Tune-A-Video it is empty; here it is the
    negative prompt, which usually is empty, too. With `describe` it is the source prompt, which
    keeps the rest of the clip closer to the source. `on_step` gets the number of steps done, of
    `2 * steps`, and may raise an exception to stop.
    """
    inverting = prompts.source if describe else prompts.negative
    grid, tell = denoiser.grid(steps), on_step or (lambda done: None)
    inverted = ddim_invert(
        z_0,
        lambda z, level: denoiser(z, level, inverting),
        grid,
        lambda progress: tell(progress.step),
    )

    def predict(z: Latents, level: Level) -> Prediction:
        return denoiser.guided(z, level, prompts.target, prompts.negative, cfg)

    return ddim_sample(inverted.latents[-1], predict, grid, lambda done, _: tell(steps + done))
