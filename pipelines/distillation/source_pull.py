"""FlowAlign's pull: what the model takes for the edited clip is drawn back to the source."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from ..models.process import Latents
from .terms import Draw, Needs, Predictions, Result


@dataclass(frozen=True)
class SourcePull:
    """The source consistency of FlowAlign as a term. Its number is the pull's root mean square.

    With the weight zeta, z moves by zeta (D_s - D_e) in every step, however far the step itself
    goes: D_e and D_s are the guided predictions of the edited and of the source clip. FlowAlign
    (2505.23145, and its authors' code) takes zeta 0.01 and adds it to FlowEdit's step. A step that
    goes nowhere does not pull.
    """

    name: str = "source pull"
    needs: ClassVar[Needs] = Needs(target=True, source=True)

    def __call__(
        self, draw: Draw, predictions: Predictions, z: Latents, z_source: Latents
    ) -> Result:
        away = predictions.target.z_0 - predictions.source.z_0
        # The loop multiplies gradients by the step's length.
        gradient = away / draw.step if draw.step else torch.zeros_like(away)
        return Result(gradient, float(away.square().mean().sqrt()))
