"""How smoothly a clip moves, and how well its colours follow the motion."""

import math

from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from ..flow import Flow, warp
from .measure import Measure, check_clip, mean

_SURE = 0.999  # of a visibility that was interpolated: all pixels around are visible


def roughness(flow: Flow) -> Measure:
    """Mean acceleration along the motion, in thousandths of the picture's diagonal per frame^2.

    The acceleration of what pixel p of frame t shows is F_{t+1}(p + F_t(p)) - F_t(p), with F_t the
    flow from frame t to t + 1: 0 for whatever stands still or moves evenly. Its length is averaged
    over all pixels that stay visible over the three frames; `values` are one for each three.
    The definition is ours: it needs no trained interpolator, and lower is smoother.

    Raises:
        ValueError: for less than three frames, or if nothing stays visible.
    """
    if flow.frames < 3:
        raise ValueError(
            f"The clip has {flow.frames} frame(s); acceleration is measured over three or more."
        )
    forward, seen = flow.forward.float(), _weights(flow.visible_forward)
    now, then = forward[:-1], warp(forward[1:], forward[:-1])
    lengths = (then - now).square().sum(dim=1).sqrt()
    visible = (seen[:-1] >= _SURE) & (warp(seen[1:], now) >= _SURE)
    thousandth = math.hypot(*forward.shape[-2:]) / 1000
    return _pooled(
        "roughness of motion", lengths / thousandth, visible[:, 0], "diagonal/1000", "three frames"
    )


def warping_error(clip: Float[Tensor, "1 3 f H W"], flow: Flow, *, name: str = "") -> Measure:
    """Warping error, times 1000: how much colours change along the motion (Lai et al., 2018).

    The mean of |x_t(p) - x_{t+1}(p + F_t(p))|^2, over the colours in 0..1 (Lai et al. sum them) and
    over all pixels p still visible in the next frame. Editing papers often take the flow of the
    source, which `flow` may be; `name` then says so. Visibility is the flow's own. `values` are one
    for each two frames that follow each other. A still clip has 0.

    Raises:
        ValueError: if the clip cannot be measured, is not as long or large as the flow, or if
            nothing stays visible.
    """
    check_clip(clip, "clip", frames=2)
    check_flow(clip, flow)
    frames = rearrange(clip, "1 c f h w -> f c h w").float()
    change = (frames[:-1] - warp(frames[1:], flow.forward.float())).square().mean(dim=1)
    visible = _weights(flow.visible_forward)[:, 0] >= _SURE
    title = f"warping error {name}".strip()
    return _pooled(title, 1000 * change, visible, "x1000", "pair of neighbours")


def check_flow(clip: Float[Tensor, "1 3 f H W"], flow: Flow) -> None:
    """Check that a flow fits a clip.

    Raises:
        ValueError: if it is of another length or size.
    """
    if flow.frames != clip.shape[2] or flow.forward.shape[2:] != clip.shape[3:]:
        height, width = flow.forward.shape[2:]
        raise ValueError(
            f"The flow is of {flow.frames} frames of {width} x {height}, and the clip has "
            f"{clip.shape[2]} of {clip.shape[4]} x {clip.shape[3]}. Compute the flow of this clip."
        )


def _weights(visible: Tensor) -> Float[Tensor, "n 1 h w"]:
    return rearrange(visible.float(), "n h w -> n 1 h w")


def _pooled(name: str, amounts: Tensor, visible: Tensor, unit: str, each: str) -> Measure:
    """The mean over everything visible, lower being better, and its means over time."""
    values = [x[v].double().mean().item() for x, v in zip(amounts, visible, strict=True)]
    if math.isnan(mean(values)):
        raise ValueError(
            "No pixel of the clip stays visible from frame to frame, as far as its optical flow "
            "tells, so its motion cannot be measured. Is it cut, or noise?"
        )
    value = amounts[visible].double().mean().item()
    return Measure(name, value, unit, "lower", tuple(values), each)
