"""Video delta denoising: the direction from the source prompt to the target prompt."""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from ..models.process import Latents
from .terms import Draw, Needs, Predictions, Result


def delta_denoising_gradient(
    eps_target: Float[Tensor, "b c f h w"], eps_source: Float[Tensor, "b c f h w"]
) -> Float[Tensor, "b c f h w"]:
    """The gradient of V-DDS on the latents: the plain difference of two guided predictions.

    `eps_target` is predicted for the noised edited clip under the target prompt, `eps_source` for
    the equally noised source clip under the source prompt. What both get wrong about the source
    cancels (Hertz et al., 2023, Eq. 3; for videos DreamMotion, Jeong et al., 2024, Eq. 10).

    Deviation: without the factor 2000 / (H W) of the authors' notebook; the step size is explicit.
    """
    return eps_target - eps_source


@dataclass(frozen=True)
class DeltaDenoising:
    """V-DDS as a term. Its number is the root mean square of the gradient."""

    name: str = "delta denoising"
    needs: ClassVar[Needs] = Needs(target=True, source=True)

    def __call__(
        self, draw: Draw, predictions: Predictions, z: Latents, z_source: Latents
    ) -> Result:
        gradient = delta_denoising_gradient(predictions.target.eps, predictions.source.eps)
        return Result(gradient, float(gradient.square().mean().sqrt()))
