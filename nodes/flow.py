"""Nodes that compute and show the optical flow of a clip, and smooth gradients along it."""

import logging
from dataclasses import replace
from pathlib import Path

from . import host, layouts
from .sockets import FLOW, TERMS
from .terms import CATEGORY as TERMS_CATEGORY
from .widgets import COMBO, FLOAT, INT, SOCKET, Node, outputs

CATEGORY = f"{host.CATEGORY}/flow"
log = logging.getLogger("rescore")


class OpticalFlow(Node):
    TITLE = "Optical Flow"
    SEARCH_ALIASES = ["estimate motion", "RAFT", "DIS flow", "motion vectors"]
    DESCRIPTION = (
        "Computes where every pixel of a clip goes in the next frame, and where it came from. dis "
        "needs no weights (OpenCV's dense inverse search); raft is more exact and needs "
        "torchvision with weights that are already on this machine."
    )
    CATEGORY = CATEGORY
    FUNCTION = "compute"
    RETURN_TYPES, RETURN_NAMES, OUTPUT_TOOLTIPS = outputs(
        flow=(FLOW, "The flow, for Flow Smoothing and Show Flow."),
    )
    REQUIRED = {
        "images": SOCKET("IMAGE", "The source clip, at full size."),
        "method": COMBO(["dis", "raft"],
            "dis runs anywhere and is fast. If Show Flow looks ragged or misses fast motion, try "
            "raft, with its weights in models/optical_flow, where ComfyUI looks for them."),
    }  # fmt: skip

    def compute(self, images, method: str):
        from ..pipelines.flow.estimation import estimate_flow

        clip = layouts.clip_from_image(images)
        bar = host.progress(max(clip.shape[2] - 1, 1))
        weights = _raft_file() if method == "raft" else None
        return (estimate_flow(clip, method, weights=weights, on_pair=lambda done, _: bar(done)),)


def _raft_file() -> Path | None:
    """RAFT's weights in the host's `optical_flow` folders, the large model's before others."""
    found = [
        file
        for folder in host.roots("optical_flow")
        for file in sorted(folder.rglob("*raft*"))
        if file.suffix in (".pth", ".pt", ".safetensors")
    ]
    return min(found, key=lambda file: "large" not in file.name, default=None)


class ShowFlow(Node):
    TITLE = "Show Flow"
    SEARCH_ALIASES = ["visualize flow", "visualise flow", "flow to image", "preview flow"]
    DESCRIPTION = (
        "Shows optical flow as the usual colour wheel: the hue is the direction (right is red, "
        "down yellow-green, left cyan, up violet), the strength of the colour the speed, white "
        "stands still. Places that the next frame hides are black."
    )
    CATEGORY = CATEGORY
    FUNCTION = "show"
    RETURN_TYPES, RETURN_NAMES, OUTPUT_TOOLTIPS = outputs(
        images=("IMAGE", "One picture for every two neighbouring frames."),
    )
    REQUIRED = {
        "flow": SOCKET(FLOW, "The flow to show, from Optical Flow."),
        "longest": FLOAT(0, 0, 1000, 0.5,
            "Pixels a frame that get the full colour; 0 takes the fastest of the clip. Set it to "
            "compare clips."),
    }  # fmt: skip

    def show(self, flow, longest: float):
        from einops import rearrange

        from ..pipelines.flow.colours import flow_picture

        if flow.frames == 1:
            return (_no_flow(flow),)
        pictures = flow_picture(flow.forward, longest or None)
        pictures = pictures * rearrange(flow.visible_forward, "n h w -> n 1 h w").to(pictures)
        return (rearrange(pictures, "n c h w -> n h w c").cpu(),)


def _no_flow(flow):
    """One white picture, as nothing moves, and a word that there was nothing to show."""
    text = "The clip has one frame, so there is no flow to show."
    log.warning("%s", text)
    host.tell(text)
    return flow.forward.new_ones(1, *flow.forward.shape[2:], 3).cpu()


class FlowSmoothing(Node):
    TITLE = "Flow Smoothing (inspired by)"
    SEARCH_ALIASES = ["reduce flicker", "temporal smoothing", "deflicker"]
    DESCRIPTION = (
        "Smooths the gradients of all terms on the wire so far along the source clip's optical "
        "flow: each point moves as it does in the neighbouring frames, which removes flicker. "
        "Inspired by the abstract of flow-enhanced score distillation (arXiv 2406.04888v3); the "
        "definition is ours."
    )
    CATEGORY = TERMS_CATEGORY
    FUNCTION = "apply"
    RETURN_TYPES, RETURN_NAMES, OUTPUT_TOOLTIPS = outputs(
        terms=(TERMS, "The same terms, smoothed."),
    )
    REQUIRED = {
        "terms": SOCKET(TERMS, "The terms whose gradients are smoothed."),
        "flow": SOCKET(FLOW, "The source clip's flow, from Optical Flow."),
        "strength": FLOAT(0.5, 0, 1, 0.05,
            "0 leaves gradients as they are, 1 takes the mean of a point's neighbours in time "
            "alone. If the edit flickers, raise it."),
        "radius": INT(1, 1, 16,
            "How many frames on each side take part. If slow flicker is left, raise it."),
    }  # fmt: skip

    def apply(self, terms: tuple, flow, strength: float, radius: int):
        from ..pipelines.flow import FlowSmoothing as Smoothing

        smoothing = Smoothing(flow, strength, radius)
        return (tuple(replace(e, refinements=(*e.refinements, smoothing)) for e in terms),)


NODE_CLASS_MAPPINGS = {
    "ReScoreOpticalFlow": OpticalFlow,
    "ReScoreShowFlow": ShowFlow,
    "ReScoreFlowSmoothing": FlowSmoothing,
}
