"""Nodes that measure how much of the source an edit has kept, and what all measure nodes share."""

from typing import Any

from . import host, layouts
from .sockets import MEASURE

CATEGORY = f"{host.CATEGORY}/measures"

SOURCE = ("IMAGE", {"tooltip": "The clip before the edit."})
EDITED = ("IMAGE", {"tooltip": "The clip after the edit, as long and large as the source."})
CLIP = ("IMAGE", {"tooltip": "The clip to measure: an edit, or the source to hold it against."})
REGION = (
    ["outside", "inside", "everywhere"],
    {
        "default": "outside",
        "tooltip": "Where to compare: outside the mask, which is what the edit must not change; "
        "inside it; or everywhere. Without a mask it is everywhere.",
    },
)
THRESHOLD = (
    "FLOAT",
    {
        "default": 0.5,
        "min": 0.0,
        "max": 1.0,
        "step": 0.01,
        "tooltip": "Pixels with a mask of at most this are outside. If the mask is feathered, "
        "lower it to 0.01, so that the soft edge does not count as outside.",
    },
)
MASK = (
    "MASK",
    {"tooltip": "White is where the edit may act. One mask, or one per frame, at any resolution."},
)


class MeasureNode:
    """What all nodes share that measure one clip or compare two."""

    CATEGORY = CATEGORY
    FUNCTION = "measure"
    RETURN_TYPES = (MEASURE, "FLOAT")
    RETURN_NAMES = ("measure", "value")
    OUTPUT_TOOLTIPS = ("For Collect Measures, with its values over time.", "The number alone.")


def compared(source, edited, mask, region: str, threshold: float):
    """Both clips, and the pixels to compare them at."""
    from ..pipelines.measures.region import region as pixels

    clips = layouts.clip_from_image(source), layouts.clip_from_image(edited)
    mask = None if mask is None else layouts.masks_of(mask)
    where = pixels(mask, *clips[0].shape[2:], region, threshold=threshold)
    return *clips, where


class MaskedPSNR(MeasureNode):
    """Peak signal-to-noise ratio."""

    DESCRIPTION = (
        "How exactly the edit keeps the source's pixels, in dB: PSNR = -10 log10(MSE), over the "
        "chosen pixels of all frames together, values in 0..1. 40 is all but invisible, 30 looks "
        "alike, below 20 is other. Higher is better; equal pixels give infinity."
    )

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "source": SOURCE,
                "edited": EDITED,
                "region": REGION,
                "threshold": THRESHOLD,
            },
            "optional": {"mask": MASK},
        }

    def measure(self, source, edited, region: str, threshold: float, mask=None):
        from ..pipelines.measures.fidelity import psnr

        found = psnr(*compared(source, edited, mask, region, threshold))
        return (found, found.value)


class MaskedSSIM(MeasureNode):
    """Structural similarity."""

    DESCRIPTION = (
        "How well the edit keeps the source's structure: SSIM (Wang et al., 2004, Eq. 13), with "
        "means, variances and covariance under a Gaussian window of 11 x 11 pixels, averaged over "
        "all windows that lie in the region as a whole. Higher is better; equal clips have 1."
    )
    INPUT_TYPES = MaskedPSNR.INPUT_TYPES

    def measure(self, source, edited, region: str, threshold: float, mask=None):
        from ..pipelines.measures.fidelity import ssim

        found = ssim(*compared(source, edited, mask, region, threshold))
        return (found, found.value)


NODE_CLASS_MAPPINGS = {"ReScorePSNR": MaskedPSNR, "ReScoreSSIM": MaskedSSIM}
NODE_DISPLAY_NAME_MAPPINGS = {"ReScorePSNR": "PSNR", "ReScoreSSIM": "SSIM"}
