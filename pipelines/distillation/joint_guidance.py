"""Joint guidance: delta denoising by an image model, frame by frame, beside the video model."""

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

    It uses the level and the noise of the step, as all terms do, but its own prompts: `pair` gives
    the image model's guided noise predictions for a draw, (target, source).
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
        """Check that the image model takes the same noised latents as the model of the loop.

        The models may have different kinds of output, because both are converted to noise. Latent
        space and noise process must be the same.

        Raises:
            ValueError: if one of the two differs.
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
