"""Joint guidance: an image model's delta denoising, frame by frame, beside the video model's."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from ..models.denoiser import Denoiser, LatentSpace
from ..models.process import Latents, Process
from .delta_denoising import delta_denoising_gradient
from .terms import Draw, Needs, Predictions, Result


@dataclass(frozen=True, eq=False)
class ImageDeltaDenoising:
    """Image DDS as a term (ASSD, Zhu et al., 2024, Eq. 14 and 15), with a model of its own.

    It shares the level and the noise of the step with all other terms, and has its own prompts:
    `pair` gives the image model's guided predictions of noise for a draw, (target, source).
    """

    pair: Callable[[Draw], tuple[Latents, Latents]]
    process: Process
    space: LatentSpace
    model: str  # its name, for messages
    name: str = "image delta denoising"
    needs: ClassVar[Needs] = Needs()

    def __call__(
        self, draw: Draw, predictions: Predictions, z: Latents, z_source: Latents
    ) -> Result:
        gradient = delta_denoising_gradient(*self.pair(draw))
        return Result(gradient, float(gradient.square().mean().sqrt()))

    def check(self, denoiser: Denoiser) -> None:
        """Check that the image model reads the same latents at the same noise as the loop's model.

        Predictions of noise are compared, so the models may predict different kinds of output; the
        amount of noise in z_t must be equal.

        Raises:
            ValueError: if process or latent space differs.
        """
        if self.space != denoiser.space:
            raise ValueError(
                f"{self.model} and {denoiser.name} have different latent spaces "
                f"({_told(self.space)}; {_told(denoiser.space)}), so they cannot guide the same "
                "clip. Take models of one family, such as Stable Diffusion 1.5 and ZeroScope."
            )
        if self.process != denoiser.process:
            raise ValueError(
                f"{self.model} and {denoiser.name} were trained with different noise schedules, so "
                "one noised clip cannot serve both. Stable Diffusion 1.5 goes with ModelScope and "
                "ZeroScope, and not with AnimateDiff."
            )


def _told(space: LatentSpace | None) -> str:
    if space is None:
        return "unknown"
    return (
        f"{space.channels} channels, {space.pixels_per_latent} pixels a latent, "
        f"scaling {space.scaling_factor:g}"
    )
