"""Nodes that measure the motion of a clip, from its optical flow."""

from . import host, layouts
from .measures import CLIP, EDITED, SOURCE, MeasureNode
from .sockets import FLOW
from .widgets import FLOAT, INT, SOCKET

_GIVEN_FLOW = SOCKET(FLOW,
    "This clip's flow from Optical Flow, where it is computed anyway or by raft. Without it, it is "
    "computed by dis."
)  # fmt: skip


def flow_of(clip, given=None):
    """The optical flow of a clip: the given one, or computed here with a progress bar."""
    from ..pipelines.flow.estimation import estimate_flow
    from ..pipelines.measures.motion import check_flow

    if given is not None:
        check_flow(clip, given)
        return given
    show = host.progress(max(1, clip.shape[2] - 1))
    return estimate_flow(clip, on_pair=lambda done, _: show(done))


class MotionSmoothness(MeasureNode):
    TITLE = "Motion Smoothness"
    SEARCH_ALIASES = ["jitter", "shaky video", "temporal smoothness"]
    DESCRIPTION = (
        "How rough a clip's motion is: the mean length of the acceleration F_t+1(p + F_t(p)) - "
        "F_t(p) along its own optical flow F, over all pixels that stay visible for three frames, "
        "in thousandths of the picture's diagonal per frame squared. 0 is still or perfectly even; "
        "lower is smoother. Compare with the source's own value: a frozen edit is smooth, too. "
        "The definition is ours; flow is by dense inverse search (Kroeger et al., 2016; OpenCV)."
    )
    REQUIRED = {
        "images": CLIP,
    }  # fmt: skip
    OPTIONAL = {
        "flow": _GIVEN_FLOW,
    }  # fmt: skip

    def measure(self, images, flow=None):
        from ..pipelines.measures.measure import check_clip
        from ..pipelines.measures.motion import roughness

        clip = layouts.clip_from_image(images)
        check_clip(clip, "clip")
        found = roughness(flow_of(clip, flow))
        return self.given(found)


class WarpingError(MeasureNode):
    TITLE = "Warping Error"
    SEARCH_ALIASES = ["flicker metric", "temporal consistency", "warp error"]
    DESCRIPTION = (
        "How much a clip flickers (Lai et al., 2018): the mean of |x_t(p) - x_t+1(p + F_t(p))|^2 "
        "along the optical flow F, over all pixels still visible in the next frame and the "
        "colours in 0..1, times 1000. Lower is better; a still clip has 0. Flow is by dense "
        "inverse search (Kroeger et al., 2016; OpenCV)."
    )
    REQUIRED = {
        "images": CLIP,
    }  # fmt: skip
    OPTIONAL = {
        "source": SOCKET("IMAGE",
            "The clip whose optical flow is followed, where the edit should move as the source "
            "does; as long and large. Without it, the clip's own."),
        "flow": SOCKET(FLOW,
            "From Optical Flow, where it is computed anyway or by raft: that of the source if one "
            "is wired, else that of the clip."),
    }  # fmt: skip

    def measure(self, images, source=None, flow=None):
        from ..pipelines.measures.measure import check_clip, check_pair
        from ..pipelines.measures.motion import warping_error

        clip = layouts.clip_from_image(images)
        if source is None:
            check_clip(clip, "clip")
            found = warping_error(clip, flow_of(clip, flow))
        else:
            guide = layouts.clip_from_image(source)
            check_pair(guide, clip)
            found = warping_error(clip, flow_of(guide, flow), name="along the source")
        return self.given(found)


class MotionFidelity(MeasureNode):
    TITLE = "Motion Fidelity"
    SEARCH_ALIASES = ["motion similarity", "motion score", "track points"]
    DESCRIPTION = (
        "Whether the edit moves as the source does (Yatim et al., 2024): points are tracked in "
        "both; each track finds the one of the other clip whose steps point its way, by the mean "
        "cosine over time; the score is the mean over the tracks of both clips. 1 is the same "
        "motion, 0 unlike, -1 opposite. Approximated: tracks are chained optical flow (dense "
        "inverse search) instead of CoTracker's and compared where the flow back confirms them, "
        "and steps too small to have a direction agree with each other only."
    )
    REQUIRED = {
        "source": SOURCE,
        "edited": EDITED,
        "points": INT(24, 2, 64,
            "Tracks begin on a grid of this many points each way, over the first frame. Raise it "
            "if the object that moves is small.", advanced=True),
        "still": FLOAT(0.2, 0, 10, 0.05,
            "Steps from frame to frame of at most this many pixels count as standing still. Raise "
            "it if noise in a still background lowers the score.", advanced=True),
    }  # fmt: skip
    OPTIONAL = {
        "mask": SOCKET("MASK",
            "Where tracks begin; its first frame counts. Without it they begin everywhere, and a "
            "still background counts as much as its area."),
        "source_flow": _GIVEN_FLOW,
        "edited_flow": _GIVEN_FLOW,
    }  # fmt: skip

    def measure(
        self, source, edited, points: int, still: float, mask=None, source_flow=None,
        edited_flow=None,
    ):  # fmt: skip
        from ..pipelines.measures.measure import check_pair
        from ..pipelines.measures.region import region
        from ..pipelines.measures.tracks import follow, grid, motion_fidelity

        clips = layouts.clip_from_image(source), layouts.clip_from_image(edited)
        check_pair(*clips)
        height, width = clips[0].shape[-2:]
        where = None
        if mask is not None:
            first = layouts.masks_of(mask)[:1]
            where = region(first, 1, height, width, "inside").where[0]
        starts = grid(height, width, points, where)
        tracks = (
            follow(flow_of(clip, flow), starts)
            for clip, flow in zip(clips, (source_flow, edited_flow), strict=True)
        )
        found = motion_fidelity(*tracks, still=still)
        return self.given(found)


NODE_CLASS_MAPPINGS = {
    "ReScoreMotionSmoothness": MotionSmoothness,
    "ReScoreWarpingError": WarpingError,
    "ReScoreMotionFidelity": MotionFidelity,
}
