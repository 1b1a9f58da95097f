"""Delta denoising: the direction from the source prompt to the target prompt."""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from ..models.process import Latents, Level, Prediction
from .terms import Draw, Needs, Predictions, Result

WEIGHTINGS = ("eps", "velocity", "x0", "bare velocity")


def delta_denoising_gradient(
    eps_target: Float[Tensor, "b c f h w"], eps_source: Float[Tensor, "b c f h w"]
) -> Float[Tensor, "b c f h w"]:
    """The gradient of V-DDS on the latents: the plain difference of two guided predictions.

    `eps_target` is the prediction for the noised edited clip under the target prompt, `eps_source`
    that for the source clip with the same noise, under the source prompt. Errors that are in both
    cancel (Hertz et al., 2023, Eq. 3; for videos DreamMotion, Jeong et al., 2024, Eq. 10).

    Deviation: without the factor 2000 / (H W) of the authors' notebook; the step size is explicit.
    """
    return eps_target - eps_source


def residual(target: Prediction, source: Prediction, z: Latents, z_source: Latents) -> Latents:
    """The edit made so far, minus the edit that the model asks for: (z - z_0) - (D_e - D_s).

    D_e and D_s are the guided predictions of the clean edited clip and the clean source. All
    variants of delta denoising are this residual with different weights.
    """
    return (z - z_source) - (target.z_0 - source.z_0)


def velocity_of(prediction: Prediction) -> Latents:
    """How a noised clip changes as noise rises: eps - z_0, which a flow model predicts."""
    return prediction.eps - prediction.z_0


def weight_of(level: Level, weighting: str) -> float:
    """The weight of the residual at a level: s / n for "eps", 1 / n for "velocity", 1 for "x0".

    Raises:
        ValueError: at a level without noise, where "eps" and "velocity" have none.
    """
    if weighting == "x0":
        return 1.0
    if level.noise == 0:
        raise ValueError(
            "Delta denoising compares predictions of noised clips, and at the beginning of this "
            "model's clock there is no noise. Raise t_max above 0."
        )
    return (level.signal if weighting == "eps" else 1.0) / level.noise


@dataclass(frozen=True)
class DeltaDenoising:
    """Delta denoising as a term. Its number is the root mean square of the gradient.

    With the weighting "eps" and eta 0 it is V-DDS (`delta_denoising_gradient`), for every kind of
    model. In a flow model, "velocity" is (v_e - v_s) + (1 - eta)(z - z_0), with velocities v. With
    eta 0 this is DDS with another weight; with eta 1 it is FlowEdit (Kulikov et al., 2025, Alg. 1);
    with an eta that is `rising` from 0 over the run it is DRFS (2509.05342). `eta` also shifts the
    noised edit by a part of the edit: see `Draw.shift`. "bare velocity" is v_e - v_s alone: with
    eta 1 the same as "velocity", with eta 0 DFVEdit (2506.20967): nothing pulls to the source.
    """

    name: str = "delta denoising"
    weighting: str = "eps"
    eta: float | int = 0.0
    rising: bool = False
    needs: ClassVar[Needs] = Needs(target=True, source=True)

    def __post_init__(self) -> None:
        if self.weighting not in WEIGHTINGS:
            raise ValueError(
                f"weighting is {self.weighting!r}; choose one of {', '.join(WEIGHTINGS)}."
            )
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta is {self.eta}; it must lie between 0 (DDS) and 1 (FlowEdit).")

    def eta_at(self, share: float | int) -> float:
        """Eta after a share of the steps."""
        return self.eta * (share if self.rising else 1.0)

    def __call__(
        self, draw: Draw, predictions: Predictions, z: Latents, z_source: Latents
    ) -> Result:
        pair = predictions.target, predictions.source
        if self.weighting == "bare velocity":
            gradient = velocity_of(pair[0]) - velocity_of(pair[1])
        else:
            gradient = weight_of(draw.level, self.weighting) * residual(*pair, z, z_source)
        return Result(gradient, float(gradient.square().mean().sqrt()))
