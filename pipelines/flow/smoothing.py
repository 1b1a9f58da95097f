"""Average gradients over time, along the optical flow of a clip.

Inspired by the abstract of "Training-Free Video Editing via Optical Flow-Enhanced Score
Distillation" (Zhu et al.), which names such a smoothing; the definition is ours.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float
from torch import Tensor

from ..models.grid import ClipGrid
from ..models.process import Latents
from .fields import Flow, warp

# The visibility of each pixel, 0..1: `[n, h, w]`, or `[n, 1, h, w]`.
Visible: TypeAlias = Bool[Tensor, "..."] | Float[Tensor, "..."]


def smooth_along_flow(
    gradient: Float[Tensor, "b c f h w"],
    forward: Float[Tensor, "n 2 y x"],
    backward: Float[Tensor, "m 2 y2 x2"],
    visible_forward: Visible,
    visible_backward: Visible,
    strength: float | int,
    radius: int,
) -> Float[Tensor, "b c f h w"]:
    """Move each frame's gradient towards the mean of the gradients at the same points over time.

    The mean is over the frame's own gradient, with weight 1, and the gradients of frames up to
    `radius` frames away. These are warped to the frame along the flow, and their weight at each
    point is its visibility there (0..1). `forward[i]` goes from frame i to frame i + 1; it and
    `visible_forward[i]`, `[h, w]`, are given at the pixels of frame i. `backward[i]` and
    `visible_backward[i]` go back, at the pixels of frame i + 1. There are f - 1 of each; for
    longer distances they are chained. `strength` 0 keeps the gradient, 1 gives the mean. A clip of
    one frame stays as it is.

    Raises:
        ValueError: unless 0 <= strength <= 1 and radius >= 1, or if a flow has another number of
            frames or another size than the gradient.
    """
    _check(strength, radius)
    frames = gradient.shape[2]
    for flow in (forward, backward):
        if len(flow) != frames - 1 or flow.shape[2:] != gradient.shape[3:]:
            raise ValueError(
                f"The flow is for {len(flow) + 1} frames of {_size(flow)}, and the gradient has "
                f"{frames} frames of {_size(gradient)}. Use the clip's own flow, at latent size."
            )
    if frames == 1 or strength == 0:
        return gradient
    later, weight_later = _from_later_frames(
        gradient, forward.to(gradient), visible_forward.to(gradient), radius
    )
    # With time reversed, earlier frames become later ones.
    earlier, weight_earlier = _from_later_frames(
        gradient.flip(2),
        backward.to(gradient).flip(0),
        visible_backward.to(gradient).flip(0),
        radius,
    )
    mean = (gradient + later + earlier.flip(2)) / (1 + weight_later + weight_earlier.flip(2))
    return gradient + strength * (mean - gradient)


def _from_later_frames(
    gradient: Float[Tensor, "b c f h w"],
    forward: Float[Tensor, "n 2 h w"],
    visible: Visible,
    radius: int,
) -> tuple[Float[Tensor, "b c f h w"], Float[Tensor, "1 1 f h w"]]:
    """For each frame, the weighted sum of the gradients of later frames, and the sum of weights."""
    clips, frames = gradient.shape[0], gradient.shape[2]
    total, weight = torch.zeros_like(gradient), torch.zeros_like(gradient[:1, :1])
    visible = rearrange(visible, "n ... h w -> n (...) h w")
    way, seen = forward, visible
    for distance in range(1, min(radius, frames - 1) + 1):
        if distance > 1:
            # One frame further along the flow; the last frame has none to go to.
            way, seen = way[:-1], seen[:-1]
            seen = seen * warp(visible[distance - 1 :], way)
            way = way + warp(forward[distance - 1 :], way)
        neighbours = rearrange(gradient[:, :, distance:], "b c n h w -> (b n) c h w")
        warped = warp(neighbours, repeat(way, "n c h w -> (b n) c h w", b=clips))
        weights = rearrange(seen, "n 1 h w -> 1 1 n h w")
        total[:, :, :-distance] += weights * rearrange(warped, "(b n) c h w -> b c n h w", b=clips)
        weight[:, :, :-distance] += weights
    return total, weight


@dataclass(frozen=True, eq=False)
class FlowSmoothing:
    """Smoothing along a clip's flow, which may have any resolution. The defaults are ours."""

    flow: Flow
    strength: float | int = 0.5
    radius: int = 1
    name: ClassVar[str] = "flow smoothing"
    compares_frames: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _check(self.strength, self.radius)

    def on_grid(self, z: Latents, grid: ClipGrid) -> Callable[[Latents], Latents]:
        """The function that smooths gradients on latents of the shape of `z`, for this `grid`.

        Raises:
            ValueError: if the flow belongs to a clip of another length or shape.
        """
        height, width = self.flow.forward.shape[2:]
        # A flow may have any resolution, but not another ratio of height to width.
        unlike = abs(height / grid.pixels[0] / (width / grid.pixels[1]) - 1) > 0.05
        if self.flow.frames != grid.frames or unlike:
            raise ValueError(
                f"The flow is another clip's: it has {self.flow.frames} frames of "
                f"{_size(self.flow.forward)}, and the latents are {grid.latent[0]} frames of "
                f"{_size(z)}. Compute the flow of the clip that was encoded."
            )
        flow = self.flow.to(z).held(grid.padded_frames).every(grid.stride)
        flow = flow.resized(*grid.latent[1:], shown=grid.shown)

        def smooth(gradient: Latents) -> Latents:
            return smooth_along_flow(
                gradient,
                flow.forward,
                flow.backward,
                flow.visible_forward,
                flow.visible_backward,
                self.strength,
                self.radius,
            )

        return smooth


def _check(strength: float | int, radius: int) -> None:
    if not 0 <= strength <= 1:
        raise ValueError(f"The smoothing strength is {strength}; it must lie within 0..1.")
    if radius < 1:
        raise ValueError(f"The smoothing radius is {radius} frames; it must be 1 or more.")


def _size(x: Tensor) -> str:
    return f"{x.shape[-1]} x {x.shape[-2]}"
