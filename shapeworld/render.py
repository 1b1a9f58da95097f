"""From a scene to pixels and ground truth: clip, masks, optical flow and visibility."""

from typing import NamedTuple

import numpy as np
import torch
from einops import rearrange, reduce
from torch import Tensor

from .scene import CANVAS, COLOURS, RADII, Background, Scene, caption, path

SUPERSAMPLING = 4  # sub-pixels a side; coverage is the mean over their centres


class Rendering(NamedTuple):
    """A clip with everything that is known about it."""

    clip: Tensor  # [f, h, w, 3] float32 in 0..1
    coverage: Tensor  # [f, h, w] float32: share of each pixel that the moving object covers
    mask: Tensor  # [f, h, w] bool: pixels of which the moving object covers at least half
    forward_flow: Tensor  # [f-1, 2, h, w] float32: pixels to the right and down, frame i to i+1
    backward_flow: Tensor  # [f-1, 2, h, w]: frame i+1 to i
    visible_forward: Tensor  # [f-1, h, w] bool: the point of frame i is still seen in frame i+1
    visible_backward: Tensor  # [f-1, h, w] bool: the point of frame i+1 was seen in frame i
    caption: str


def render(scene: Scene) -> Rendering:
    """Draw a scene. Exact and deterministic: coverage counts 4 x 4 sub-pixel centres."""
    centres = path(scene)
    backdrop = _backdrop(scene.background)
    if scene.second is not None:
        second = scene.second
        alpha = _coverage(second.shape, RADII[second.size], (second.x, second.y))
        backdrop = _over(backdrop, alpha, COLOURS[second.colour])
    alphas = np.stack([_coverage(scene.shape, scene.radius, tuple(c)) for c in centres])
    clip = np.stack([_over(backdrop, alpha, COLOURS[scene.colour]) for alpha in alphas])

    masks = alphas >= 0.5
    steps = np.diff(centres, axis=0)
    forward = masks[:-1, None] * steps[:, :, None, None]
    backward = masks[1:, None] * -steps[:, :, None, None]
    # The object is never hidden and never leaves; the backdrop is hidden where the object is.
    visible_forward = masks[:-1] | ~masks[1:]
    visible_backward = masks[1:] | ~masks[:-1]
    return Rendering(
        clip=torch.from_numpy(clip.astype(np.float32)),
        coverage=torch.from_numpy(alphas.astype(np.float32)),
        mask=torch.from_numpy(masks),
        forward_flow=torch.from_numpy(forward.astype(np.float32)),
        backward_flow=torch.from_numpy(backward.astype(np.float32)),
        visible_forward=torch.from_numpy(visible_forward),
        visible_backward=torch.from_numpy(visible_backward),
        caption=caption(scene),
    )


def inside(shape: str, radius: float, dx: np.ndarray, dy: np.ndarray) -> np.ndarray:
    """Whether points at (dx, dy) pixels from the centre belong to a shape of this radius.

    The four shapes look about equally large: a square's half side is 0.9 radii, a triangle points
    up with its tip 1.25 radii above the centre, a ring is empty within half a radius.
    """
    if shape == "circle":
        return dx**2 + dy**2 <= radius**2
    if shape == "square":
        return np.maximum(np.abs(dx), np.abs(dy)) <= 0.9 * radius
    if shape == "ring":
        squared = dx**2 + dy**2
        return (squared <= radius**2) & (squared >= (radius / 2) ** 2)
    # Equilateral triangle around its centroid: the base lies half a circumradius below it.
    circumradius = 1.25 * radius
    below_sides = np.sqrt(3) * np.abs(dx) - dy <= circumradius
    return below_sides & (dy <= circumradius / 2)


def _coverage(shape: str, radius: float, centre: tuple[float, float]) -> np.ndarray:
    x, y = _subpixels()
    hit = inside(shape, radius, x - centre[0], y - centre[1])
    return reduce(
        hit.astype(np.float64),
        "(h s) (w t) -> h w",
        "mean",
        s=SUPERSAMPLING,
        t=SUPERSAMPLING,
    )


def _subpixels() -> tuple[np.ndarray, np.ndarray]:
    steps = (np.arange(CANVAS * SUPERSAMPLING) + 0.5) / SUPERSAMPLING
    return steps[None, :], steps[:, None]


def _backdrop(background: Background) -> np.ndarray:
    x, y = _subpixels()
    x, y = np.broadcast_arrays(x, y)
    if background.pattern == "gradient":
        # Runs from one colour to the other between the two corners that lie furthest apart.
        half = CANVAS / 2
        reach = half * (abs(np.cos(background.angle)) + abs(np.sin(background.angle)))
        along = (x - half) * np.cos(background.angle) + (y - half) * np.sin(background.angle)
        share = 0.5 + along / (2 * reach)
    elif background.pattern == "plain":
        share = np.zeros_like(x)
    else:
        x, y = x + background.offset[0], y + background.offset[1]
        if background.pattern == "striped":
            along = x * np.cos(background.angle) + y * np.sin(background.angle)
            cells = np.floor(along / background.width)
        else:
            cells = np.floor(x / background.width) + np.floor(y / background.width)
        share = cells % 2
    share = reduce(share, "(h s) (w t) -> h w", "mean", s=SUPERSAMPLING, t=SUPERSAMPLING)
    first, last = np.array(background.palette)
    return first + rearrange(share, "h w -> h w 1") * (last - first)


def _over(backdrop: np.ndarray, alpha: np.ndarray, colour: tuple[float, float, float]):
    alpha = rearrange(alpha, "h w -> h w 1")
    return backdrop * (1 - alpha) + np.array(colour) * alpha
