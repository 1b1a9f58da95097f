"""The types of ReScore's own sockets, and the objects that go through their wires."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from ..pipelines.inversion.decoupled_guidance import GuidanceSettings
    from ..pipelines.inversion.trajectory import Trajectory
    from ..pipelines.models.denoiser import Prompts
    from ..pipelines.windows import Windows

MODEL = "RESCORE_MODEL"  # a loaded model: pipelines.models, or the host's
STAGE = "RESCORE_STAGE"  # pipelines.models.cascade.stage.Stage
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

# Entries of our LATENTs, beside the host's "samples".
PIXEL_SIZE = "rescore_pixel_size"  # (height, width) of the clip without padding
FRAMES = "rescore_frames"  # the number of frames of the clip without padding


@dataclass(frozen=True)
class PromptPair:
    """Source, target and negative prompt, as text and as embeddings."""

    source: str
    target: str
    negative: str
    embeddings: "Prompts"


@dataclass(frozen=True, eq=False)
class Inversion:
    """An inverted clip: its trajectory to noise, and what later nodes need to know."""

    trajectory: "Trajectory"
    pixel_size: tuple[int, int] | None  # (height, width) without padding, if known
    windows: "Windows | None" = None  # in which a long clip goes through the model
    frames: int | None = None  # without padding, if known


@dataclass(frozen=True, eq=False)
class Guidance:
    """The settings of decoupled guidance, and where the foreground is."""

    settings: "GuidanceSettings"
    mask: "Tensor | None"  # [n, H, W]; None: all is background
