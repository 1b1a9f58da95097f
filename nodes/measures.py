"""The nodes for PSNR and SSIM, and the base of all nodes that measure."""

import logging
import math

from . import host, layouts
from .sockets import MEASURE
from .widgets import COMBO, FLOAT, SOCKET, Node, outputs

CATEGORY = f"{host.CATEGORY}/measures"

SOURCE = SOCKET("IMAGE", "The clip before the edit.")
EDITED = SOCKET("IMAGE", "The clip after the edit, as long and large as the source.")
CLIP = SOCKET("IMAGE", "The clip to measure: an edit, or the source to hold it against.")


log = logging.getLogger("rescore")


class MeasureNode(Node):
    """A node that measures one clip, or compares two."""

    CATEGORY = CATEGORY
    FUNCTION = "measure"
    RETURN_TYPES, RETURN_NAMES, OUTPUT_TOOLTIPS = outputs(
        measure=(MEASURE, "For Collect Measures, with its values over time."),
        value=("FLOAT", "The number alone."),
    )

    def given(self, found):
        """The measure and its number; where a clip is too short for one, the node says so."""
        short = math.isnan(found.value)
        text = (
            f"The clip is too short for this measure ({found.name}): it has none." if short else ""
        )
        if text:
            log.warning("%s", text)
        host.tell(text)
        return found, found.value


class RegionNode(MeasureNode):
    """A node that compares an edit with its source, inside or outside a mask."""

    REQUIRED = {
        "source": SOURCE,
        "edited": EDITED,
        "region": COMBO(["outside", "inside", "everywhere"],
            "Where to compare: outside the mask, which is what the edit must not change; inside "
            "it; or everywhere. Without a mask it is everywhere."),
        "threshold": FLOAT(0.5, 0, 1, 0.01,
            "Pixels with a mask of at most this are outside. If the mask is feathered, lower it to "
            "0.01, so that the soft edge does not count as outside.", advanced=True),
    }  # fmt: skip
    OPTIONAL = {
        "mask": SOCKET("MASK",
            "White is where the edit may act. One mask, or one per frame, at any resolution."),
    }  # fmt: skip


def compared(source, edited, mask, region: str, threshold: float):
    """Both clips, and the region in which they are compared."""
    from ..pipelines.measures.region import region as pixels

    clips = layouts.clip_from_image(source), layouts.clip_from_image(edited)
    mask = None if mask is None else layouts.masks_of(mask)
    where = pixels(mask, *clips[0].shape[2:], region, threshold=threshold)
    return *clips, where


class MaskedPSNR(RegionNode):
    TITLE = "PSNR"
    SEARCH_ALIASES = ["signal to noise", "pixel difference", "reconstruction quality"]
    DESCRIPTION = (
        "How exactly the edit keeps the source's pixels, in dB: PSNR = -10 log10(MSE), over the "
        "chosen pixels of all frames together, values in 0..1. 40 is all but invisible, 30 looks "
        "alike, below 20 is other. Higher is better; equal pixels give infinity."
    )

    def measure(self, source, edited, region: str, threshold: float, mask=None):
        from ..pipelines.measures.fidelity import psnr

        found = psnr(*compared(source, edited, mask, region, threshold))
        return (found, found.value)


class MaskedSSIM(RegionNode):
    TITLE = "SSIM"
    SEARCH_ALIASES = ["structural similarity", "image similarity", "reconstruction quality"]
    DESCRIPTION = (
        "How well the edit keeps the source's structure: SSIM (Wang et al., 2004, Eq. 13), with "
        "means, variances and covariance under a Gaussian window of 11 x 11 pixels, averaged over "
        "all windows that lie in the region as a whole. Higher is better; equal clips have 1."
    )

    def measure(self, source, edited, region: str, threshold: float, mask=None):
        from ..pipelines.measures.fidelity import ssim

        found = ssim(*compared(source, edited, mask, region, threshold))
        return (found, found.value)


NODE_CLASS_MAPPINGS = {"ReScorePSNR": MaskedPSNR, "ReScoreSSIM": MaskedSSIM}
