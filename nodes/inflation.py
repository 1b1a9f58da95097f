"""The node that makes a video model from an image model."""

from dataclasses import replace

from . import host
from .running import of_stable_diffusion
from .shared import FIXED_SEED
from .sockets import MODEL
from .widgets import COMBO, INT, SOCKET, Node, outputs

CATEGORY = f"{host.CATEGORY}/tuning"
_VARIANTS = (
    "ei2", "tune-a-video", "stam", "ffam", "centring", "spectral-norm", "instance-norm",
    "full-space-time", "per-frame", "ei2-as-printed", "layer-norm",
)  # fmt: skip


class InflateImageModel(Node):
    TITLE = "Inflate Image Model"
    SEARCH_ALIASES = ["image to video model", "Tune-A-Video", "EI2", "inflate UNet"]
    DESCRIPTION = (
        "Makes a video model of an image model (Stable Diffusion 1.x) for One-Shot Tune: frames "
        "read each other in self-attention, and attention along time is added to every block. The "
        "image model itself stays as it is. EI2 (Zhang et al., 2023), each of its parts alone, and "
        "Tune-A-Video (Wu et al., 2023) to compare it with."
    )
    CATEGORY = CATEGORY
    FUNCTION = "inflate"
    RETURN_TYPES, RETURN_NAMES, OUTPUT_TOOLTIPS = outputs(
        model=(MODEL, "The video model: tune it, or load tuned weights into it."),
        report=("STRING", "What was put in, and how many weights tuning will train."),
    )
    REQUIRED = {
        "model": SOCKET(MODEL,
            "An image model, from Load Image Model (Stable Diffusion 1.4 is the paper's) or "
            "shapeworld-sd from Load Shape-World Model."),
        "variant": COMBO(_VARIANTS,
            "ei2: fine-coarse frame attention and shift-restricted temporal attention. "
            "tune-a-video: the baseline, as its authors' code builds it. layer-norm: it with norms "
            "frame by frame and a bias of zero. stam, ffam: that with one of EI2's two modules; "
            "centring, spectral-norm, instance-norm: with a part of STAM. full-space-time: STAM "
            "with all tokens of all frames, far more memory. per-frame: frames see each other "
            "along time only. ei2-as-printed: ei2 with Eq. 9 to the letter. If edits do not follow "
            "the prompt, use ei2 or stam; if frames flicker, ei2 or ffam."),
        "ratio": INT(2, 1, 64,
            "How much coarser a frame sees the other frames (ei2, ffam). 2 or 4 in the paper. If "
            "memory or time runs out, 4; if frames flicker, 2. 1 is full attention."),
        "seed": FIXED_SEED(
            "Draws the weights along time as they are before tuning. It hardly matters; keep it "
            "for results that can be repeated.", advanced=True),
    }  # fmt: skip

    def inflate(self, model, variant: str, ratio: int, seed: int):
        from ..pipelines.models.unet.inflation import VARIANTS, inflate_backbone
        from ..pipelines.tuning.one_shot_tuning import trained_summary

        of_stable_diffusion(model, "Inflate Image Model")
        chosen = replace(VARIANTS[variant], ratio=ratio)
        video = inflate_backbone(model, chosen, seed=seed)
        return (video, f"{model.name}, inflated: {chosen}. {trained_summary(video.network)}")


NODE_CLASS_MAPPINGS = {"ReScoreInflateImageModel": InflateImageModel}
