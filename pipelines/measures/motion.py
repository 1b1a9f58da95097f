"""How smooth the motion of a clip is, and how well its colours follow the motion."""

import math

from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from ..flow import Flow, warp
from .measure import Measure, check_clip, mean

_SURE = 0.999  # an interpolated visibility from here on means: all pixels around are visible


def roughness(flow: Flow) -> Measure:
    """Mean acceleration along the motion, in thousandths of the picture's diagonal per frame^2.

    With F_t the flow from frame t to t + 1, the acceleration of the point at pixel p of frame t is
    F_{t+1}(p + F_t(p)) - F_t(p): 0 if the point stands still or moves evenly. Its length is
    averaged over all pixels that are visible in all three frames; `values` hold one number for each
    three frames. The definition is ours and needs no trained interpolator. Lower is smoother. Less
    than three frames have NaN.

    Raises:
        ValueError: if nothing stays visible.
    """
    name, unit, each = "roughness of motion", "diagonal/1000", "three frames"
    if flow.frames < 3:
        return Measure(name, math.nan, unit, "lower", each=each)
    forward, seen = flow.forward.float(), _weights(flow.visible_forward)
    now, then = forward[:-1], warp(forward[1:], forward[:-1])
    lengths = (then - now).square().sum(dim=1).sqrt()
    visible = (seen[:-1] >= _SURE) & (warp(seen[1:], now) >= _SURE)
    thousandth = math.hypot(*forward.shape[-2:]) / 1000
    return _pooled(name, lengths / thousandth, visible[:, 0], unit, each)


def warping_error(clip: Float[Tensor, "1 3 f H W"], flow: Flow, *, name: str = "") -> Measure:
    """Warping error, times 1000: how much colours change along the motion (Lai et al., 2018).

    The mean of |x_t(p) - x_{t+1}(p + F_t(p))|^2 over the colours in 0..1 (Lai et al. add them up)
    and over all pixels p that are still visible in the next frame, by the visibility of the flow.
    Editing papers often use the flow of the source: then `flow` is that flow and `name` says so.
    `values` hold one number for each pair of neighbouring frames. A still clip has 0, one frame
    has NaN.

    Raises:
        ValueError: if the clip cannot be measured, is not as long or large as the flow, or if
            nothing stays visible.
    """
    check_clip(clip, "clip")
    check_flow(clip, flow)
    title, unit, each = f"warping error {name}".strip(), "x1000", "pair of neighbours"
    if flow.frames < 2:
        return Measure(title, math.nan, unit, "lower", each=each)
    frames = rearrange(clip, "1 c f h w -> f c h w").float()
    change = (frames[:-1] - warp(frames[1:], flow.forward.float())).square().mean(dim=1)
    visible = _weights(flow.visible_forward)[:, 0] >= _SURE
    return _pooled(title, 1000 * change, visible, unit, each)


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
    """A measure from the mean over all visible pixels; lower is better."""
    values = [x[v].double().mean().item() for x, v in zip(amounts, visible, strict=True)]
    if math.isnan(mean(values)):
        raise ValueError(
            "No pixel of the clip stays visible from frame to frame, as far as its optical flow "
            "tells, so its motion cannot be measured. Is it cut, or noise?"
        )
    value = amounts[visible].double().mean().item()
    return Measure(name, value, unit, "lower", tuple(values), each)
