"""What travels on ReScore's own wires: the name of each socket and the object behind it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from ..pipelines.inversion.decoupled_guidance import GuidanceSettings
    from ..pipelines.inversion.trajectory import Trajectory
    from ..pipelines.models.denoiser import Prompts
    from ..pipelines.windows import Windows

MODEL = "RESCORE_MODEL"  # a loaded model: pipelines.models, or the host's
PROMPTS = "RESCORE_PROMPTS"  # PromptPair
TERMS = "RESCORE_TERMS"  # tuple of pipelines.distillation.terms.Weighted
STATE = "RESCORE_STATE"  # pipelines.distillation.score_distillation.State
TRAJECTORY = "RESCORE_TRAJECTORY"  # Inversion
GUIDANCE = "RESCORE_GUIDANCE"  # Guidance
NULL_TEXT = "RESCORE_NULL_TEXT"  # pipelines.inversion.trajectory.NullText
FLOW = "RESCORE_FLOW"  # pipelines.flow.Flow
FUSION = "RESCORE_FUSION"  # tuple of attention.layers.Control, such as attention.fusion.Fusion
TUNING = "RESCORE_TUNING"  # pipelines.tuning.one_shot_tuning.State
CLIP_SCORER = "RESCORE_CLIP"  # pipelines.models.vision.clip_scorer.ClipScorer
DINO = "RESCORE_DINO"  # pipelines.models.vision.dino.Dino
DETECTOR = "RESCORE_DETECTOR"  # pipelines.models.vision.grounding_dino.Detector
TRACKER = "RESCORE_TRACKER"  # pipelines.models.vision.sam2_video.Tracker
BOXES = "RESCORE_BOXES"  # tuple of pipelines.masks.boxes.FrameBoxes, one a frame
REGION = "RESCORE_REGION"  # pipelines.masks.region.Region
MEASURE = "RESCORE_MEASURE"  # pipelines.measures.measure.Measure
MEASURES = "RESCORE_MEASURES"  # pipelines.measures.table.Table
LOSSES = "LOSS_MAP"  # the host's own type: {"loss": [one number per step]}

# Keys a LATENT of ours carries beside the host's "samples".
PIXEL_SIZE = "rescore_pixel_size"  # (height, width) of the clip before it was padded
FRAMES = "rescore_frames"  # how many frames it had before it was padded at its end


@dataclass(frozen=True)
class PromptPair:
    """Source, target and negative prompt, as text and as embeddings."""

    source: str
    target: str
    negative: str
    embeddings: "Prompts"


@dataclass(frozen=True, eq=False)
class Inversion:
    """An inverted clip: its trajectory to noise, and what the nodes along it must know."""

    trajectory: "Trajectory"
    pixel_size: tuple[int, int] | None  # (height, width) before it was padded, if known
    windows: "Windows | None" = None  # in which a long clip goes through the model
    frames: int | None = None  # before it was padded at its end, if known


@dataclass(frozen=True, eq=False)
class Guidance:
    """Decoupled guidance: how strong it is, and where the foreground is."""

    settings: "GuidanceSettings"
    mask: "Tensor | None"  # [n, H, W]; without one, all is background
