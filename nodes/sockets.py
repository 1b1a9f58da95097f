"""What travels on ReScore's own wires: the name of each socket and the object behind it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from ..pipelines.decoupled_guidance import GuidanceSettings
    from ..pipelines.prediction import Prompts
    from ..pipelines.trajectory import Trajectory
    from ..pipelines.windows import Windows

MODEL = "RESCORE_MODEL"  # pipelines.backbones.Backbone: a loaded model
PROMPTS = "RESCORE_PROMPTS"  # PromptPair
TERMS = "RESCORE_TERMS"  # tuple of pipelines.terms.Weighted
STATE = "RESCORE_STATE"  # pipelines.score_distillation.State
TRAJECTORY = "RESCORE_TRAJECTORY"  # Inversion
GUIDANCE = "RESCORE_GUIDANCE"  # Guidance
NULL_TEXT = "RESCORE_NULL_TEXT"  # pipelines.trajectory.NullText
FLOW = "RESCORE_FLOW"  # pipelines.flow.Flow
FUSION = "RESCORE_FUSION"  # attention.fusion.Fusion
TUNING = "RESCORE_TUNING"  # pipelines.one_shot_tuning.State
CLIP_SCORER = "RESCORE_CLIP"  # pipelines.backbones.clip_scorer.ClipScorer
DETECTOR = "RESCORE_DETECTOR"  # pipelines.backbones.grounding_dino.Detector
TRACKER = "RESCORE_TRACKER"  # pipelines.backbones.sam2_video.Tracker
BOXES = "RESCORE_BOXES"  # tuple of pipelines.boxes.FrameBoxes, one for each frame of a clip
MEASURE = "RESCORE_MEASURE"  # pipelines.measures.measure.Measure
MEASURES = "RESCORE_MEASURES"  # pipelines.measures.table.Table
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


@dataclass(frozen=True, eq=False)
class Inversion:
    """An inverted clip: its way to noise, and how the clip is to be treated along it."""

    trajectory: "Trajectory"
    pixel_size: tuple[int, int] | None  # (height, width) before it was padded, if known
    windows: "Windows | None" = None  # in which a long clip goes through the model


@dataclass(frozen=True, eq=False)
class Guidance:
    """Decoupled guidance as it hangs on the wire: how strong, and where the foreground is."""

    settings: "GuidanceSettings"
    mask: "Tensor | None"  # [n, H, W]; without one, all is background
