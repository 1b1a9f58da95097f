"""What travels on ReScore's own wires: the name of each socket and the object behind it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..pipelines.prediction import Prompts

MODEL = "RESCORE_MODEL"  # pipelines.backbones.Backbone: a loaded model
PROMPTS = "RESCORE_PROMPTS"  # PromptPair
TERMS = "RESCORE_TERMS"  # tuple of pipelines.terms.Weighted
STATE = "RESCORE_STATE"  # pipelines.score_distillation.State
TUNING = "RESCORE_TUNING"  # pipelines.one_shot_tuning.State
LOSSES = "LOSS_MAP"  # the host's own type: {"loss": [one number per step]}

# Keys a LATENT of ours carries beside the host's "samples".
PIXEL_SIZE = "rescore_pixel_size"  # (height, width) of the clip before it was padded


@dataclass(frozen=True)
class PromptPair:
    """Source and target prompt, as text and as what the model's text encoder makes of them."""

    source: str
    target: str
    negative: str
    embeddings: "Prompts"
