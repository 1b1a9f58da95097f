"""Joint guidance: an image model's delta denoising, frame by frame, beside the video model's."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ..models.schedule import Latents, NoiseSchedule
from .delta_denoising import delta_denoising_gradient
from .terms import Draw, Predictions, Result, Weighted


class LatentSpace(NamedTuple):
    """What two models must agree on to read the same latents."""

    channels: int
    pixels_per_latent: int
    scaling_factor: float
    shift_factor: float


@dataclass(frozen=True, eq=False)
class ImageDeltaDenoising:
    """Image DDS as a term (ASSD, Zhu et al., 2024, Eq. 14 and 15), with a model of its own.

    It shares the timestep and the noise of the step with all other terms, and has its own prompts:
    `pair` gives the image model's guided predictions for a draw, (target, source).
    """

    pair: Callable[[Draw], tuple[Latents, Latents]]
    schedule: NoiseSchedule
    space: LatentSpace
    model: str  # its name, for messages
    name: str = "image delta denoising"
    needs: frozenset[str] = frozenset()

    def __call__(
        self, draw: Draw, predictions: Predictions, z: Latents, z_source: Latents
    ) -> Result:
        gradient = delta_denoising_gradient(*self.pair(draw))
        return Result(gradient, float(gradient.square().mean().sqrt()))


def check_joint(
    terms: Sequence[Weighted], schedule: NoiseSchedule, space: LatentSpace, model: str
) -> None:
    """See that every model on the wire reads the same latents at the same noise as the loop's own.

    Predictions of noise are compared after a v-prediction has become one, so what a model predicts
    need not agree; how much noise is in z_t must.

    Raises:
        ValueError: if an image model's schedule or latent space differs.
    """
    for entry in terms:
        term = entry.term
        if not isinstance(term, ImageDeltaDenoising):
            continue
        if term.space != space:
            raise ValueError(
                f"{term.model} and {model} have different latent spaces ({_told(term.space)}; "
                f"{_told(space)}), so they cannot guide the same clip. Take models of one family, "
                "such as Stable Diffusion 1.5 and ZeroScope."
            )
        if not schedule.same_noise(term.schedule):
            raise ValueError(
                f"{term.model} and {model} were trained with different noise schedules, so one "
                "noised clip cannot serve both. Stable Diffusion 1.5 goes with ModelScope and "
                "ZeroScope, and not with AnimateDiff."
            )


def _told(space: LatentSpace) -> str:
    return (
        f"{space.channels} channels, {space.pixels_per_latent} pixels a latent, "
        f"scaling {space.scaling_factor:g}"
    )
