"""Nodes that measure edits without any model: what was kept, and how it moves."""

from typing import Any

from . import host
from .sockets import MEASURE

CATEGORY = f"{host.CATEGORY}/measures"

# What every measure node gives.
OUTPUTS = (MEASURE, "FLOAT")
OUTPUT_NAMES = ("measure", "value")
OUTPUT_TOOLTIPS = ("For Collect Measures, with its values over time.", "The number alone.")

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


def compared(source, edited, mask, region: str, threshold: float):
    """Both clips, and the pixels to compare them at."""
    from ..pipelines.measures.region import region as pixels

    clips = host.clip_from_image(source), host.clip_from_image(edited)
    mask = None if mask is None else host.masks_from_host(mask)
    where = pixels(mask, *clips[0].shape[2:], region, threshold=threshold)
    return *clips, where


def flow_of(clip):
    """The clip's optical flow, with a progress bar."""
    from ..pipelines.flow.estimation import estimate_flow

    show = host.progress(max(1, clip.shape[2] - 1))
    return estimate_flow(clip, on_pair=lambda done, _: show(done))


class MaskedPSNR:
    """Peak signal-to-noise ratio."""

    DESCRIPTION = (
        "How exactly the edit keeps the source's pixels, in dB: PSNR = -10 log10(MSE), over the "
        "chosen pixels of all frames together, values in 0..1. 40 is all but invisible, 30 looks "
        "alike, below 20 is other. Higher is better; equal pixels give infinity."
    )
    CATEGORY = CATEGORY
    FUNCTION = "measure"
    RETURN_TYPES = OUTPUTS
    RETURN_NAMES = OUTPUT_NAMES
    OUTPUT_TOOLTIPS = OUTPUT_TOOLTIPS

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


class MaskedSSIM:
    """Structural similarity."""

    DESCRIPTION = (
        "How well the edit keeps the source's structure: SSIM (Wang et al., 2004, Eq. 13), with "
        "means, variances and covariance under a Gaussian window of 11 x 11 pixels, averaged over "
        "all windows that lie in the region as a whole. Higher is better; equal clips have 1."
    )
    CATEGORY = CATEGORY
    FUNCTION = "measure"
    RETURN_TYPES = OUTPUTS
    RETURN_NAMES = OUTPUT_NAMES
    OUTPUT_TOOLTIPS = OUTPUT_TOOLTIPS
    INPUT_TYPES = MaskedPSNR.INPUT_TYPES

    def measure(self, source, edited, region: str, threshold: float, mask=None):
        from ..pipelines.measures.fidelity import ssim

        found = ssim(*compared(source, edited, mask, region, threshold))
        return (found, found.value)


class MotionSmoothness:
    """Acceleration along the optical flow."""

    DESCRIPTION = (
        "How rough a clip's motion is: the mean length of the acceleration F_t+1(p + F_t(p)) - "
        "F_t(p) along its own optical flow F, over all pixels that stay visible for three frames, "
        "in thousandths of the picture's diagonal per frame squared. 0 is still or perfectly even; "
        "lower is smoother. Compare with the source's own value: a frozen edit is smooth, too. "
        "The definition is ours; flow is by dense inverse search (Kroeger et al., 2016; OpenCV)."
    )
    CATEGORY = CATEGORY
    FUNCTION = "measure"
    RETURN_TYPES = OUTPUTS
    RETURN_NAMES = OUTPUT_NAMES
    OUTPUT_TOOLTIPS = OUTPUT_TOOLTIPS

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"images": CLIP}}

    def measure(self, images):
        from ..pipelines.measures.measure import check_clip
        from ..pipelines.measures.motion import roughness

        clip = host.clip_from_image(images)
        check_clip(clip, "clip", frames=3)
        found = roughness(flow_of(clip))
        return (found, found.value)


class WarpingError:
    """Change of colours along the optical flow."""

    DESCRIPTION = (
        "How much a clip flickers (Lai et al., 2018): the mean of |x_t(p) - x_t+1(p + F_t(p))|^2 "
        "along the optical flow F, over all pixels still visible in the next frame and the "
        "colours in 0..1, times 1000. Lower is better; a still clip has 0. Flow is by dense "
        "inverse search (Kroeger et al., 2016; OpenCV)."
    )
    CATEGORY = CATEGORY
    FUNCTION = "measure"
    RETURN_TYPES = OUTPUTS
    RETURN_NAMES = OUTPUT_NAMES
    OUTPUT_TOOLTIPS = OUTPUT_TOOLTIPS

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {"images": CLIP},
            "optional": {
                "source": (
                    "IMAGE",
                    {
                        "tooltip": "The clip whose optical flow is followed, where the edit should "
                        "move as the source does; as long and large. Without it, the clip's own."
                    },
                ),
            },
        }

    def measure(self, images, source=None):
        from ..pipelines.measures.measure import check_clip, check_pair
        from ..pipelines.measures.motion import warping_error

        clip = host.clip_from_image(images)
        if source is None:
            check_clip(clip, "clip", frames=2)
            found = warping_error(clip, flow_of(clip))
        else:
            guide = host.clip_from_image(source)
            check_pair(guide, clip, frames=2)
            found = warping_error(clip, flow_of(guide), name="along the source")
        return (found, found.value)


class MotionFidelity:
    """Correlation of point tracks."""

    DESCRIPTION = (
        "Whether the edit moves as the source does (Yatim et al., 2024): points are tracked in "
        "both; each track finds the one of the other clip whose steps point its way, by the mean "
        "cosine over time; the score is the mean over the tracks of both clips. 1 is the same "
        "motion, 0 unlike, -1 opposite. Approximated: tracks are chained optical flow (dense "
        "inverse search) instead of CoTracker's and compared where the flow back confirms them, "
        "and steps too small to have a direction agree with each other only."
    )
    CATEGORY = CATEGORY
    FUNCTION = "measure"
    RETURN_TYPES = OUTPUTS
    RETURN_NAMES = OUTPUT_NAMES
    OUTPUT_TOOLTIPS = OUTPUT_TOOLTIPS

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "source": SOURCE,
                "edited": EDITED,
                "points": (
                    "INT",
                    {
                        "default": 24,
                        "min": 2,
                        "max": 64,
                        "step": 1,
                        "tooltip": "Tracks begin on a grid of this many points each way, over the "
                        "first frame. Raise it if the object that moves is small.",
                    },
                ),
                "still": (
                    "FLOAT",
                    {
                        "default": 0.2,
                        "min": 0.0,
                        "max": 10.0,
                        "step": 0.05,
                        "tooltip": "Steps from frame to frame of at most this many pixels count as "
                        "standing still. Raise it if noise in a still background lowers the score.",
                    },
                ),
            },
            "optional": {
                "mask": (
                    "MASK",
                    {
                        "tooltip": "Where tracks begin; its first frame counts. Without it they "
                        "begin everywhere, and a still background counts as much as its area."
                    },
                ),
            },
        }

    def measure(self, source, edited, points: int, still: float, mask=None):
        from ..pipelines.measures.measure import check_pair
        from ..pipelines.measures.region import region
        from ..pipelines.measures.tracks import follow, grid, motion_fidelity

        clips = host.clip_from_image(source), host.clip_from_image(edited)
        check_pair(*clips, frames=2)
        height, width = clips[0].shape[-2:]
        where = None
        if mask is not None:
            first = host.masks_from_host(mask)[:1]
            where = region(first, 1, height, width, "inside").where[0]
        starts = grid(height, width, points, where)
        found = motion_fidelity(*(follow(flow_of(clip), starts) for clip in clips), still=still)
        return (found, found.value)


NODE_CLASS_MAPPINGS = {
    "ReScorePSNR": MaskedPSNR,
    "ReScoreSSIM": MaskedSSIM,
    "ReScoreMotionSmoothness": MotionSmoothness,
    "ReScoreWarpingError": WarpingError,
    "ReScoreMotionFidelity": MotionFidelity,
}
NODE_DISPLAY_NAME_MAPPINGS = {
    "ReScorePSNR": "PSNR",
    "ReScoreSSIM": "SSIM",
    "ReScoreMotionSmoothness": "Motion Smoothness",
    "ReScoreWarpingError": "Warping Error",
    "ReScoreMotionFidelity": "Motion Fidelity",
}
