"""From a scene to pixels and ground truth: clip, masks, optical flow and visibility."""

from typing import NamedTuple

import numpy as np
import torch
from einops import rearrange, reduce
from torch import Tensor

from .scene import CANVAS, COLOURS, RADII, Background, Scene, backdrop_path, caption, path

SUPERSAMPLING = 4  # sub-pixels a side; coverage is the mean over their centres
# Of a texture, in turns a pixel to the right and downwards: waves of 7 to 8 pixels.
_WAVES = ((1 / 9, 1 / 14), (-1 / 8, 1 / 17), (1 / 16, -1 / 8), (1 / 13, 1 / 9))


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
    centres, shifts = path(scene), backdrop_path(scene)
    moving = shifts if any(scene.pan) else shifts[:1]
    backdrops = [_backdrop(scene, shift) for shift in moving] * (scene.frames // len(moving))
    alphas = np.stack([_covered(scene, centre) for centre in centres])
    colours = [np.array(COLOURS[scene.colour]) * _brightness(scene.texture, c) for c in centres]
    clip = np.stack([_over(*layers) for layers in zip(backdrops, alphas, colours, strict=True)])

    masks = alphas >= 0.5
    steps, runs = np.diff(centres, axis=0), np.diff(shifts, axis=0)
    forward = np.where(masks[:-1, None], *(a[:, :, None, None] for a in (steps, runs)))
    backward = np.where(masks[1:, None], *(-a[:, :, None, None] for a in (steps, runs)))
    # The object is never hidden and never leaves. The backdrop is hidden where the object is in the
    # other frame, as seen from the moving backdrop, and beyond the border of the canvas.
    ahead = [_gone(scene, *moved) for moved in zip(centres[1:], runs, strict=True)]
    behind = [_gone(scene, *moved) for moved in zip(centres[:-1], -runs, strict=True)]
    visible_forward = masks[:-1] | ~np.stack(ahead)
    visible_backward = masks[1:] | ~np.stack(behind)
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


def _covered(scene: Scene, centre: np.ndarray) -> np.ndarray:
    return _coverage(scene.shape, scene.radius, tuple(centre))


def _gone(scene: Scene, centre: np.ndarray, run: np.ndarray) -> np.ndarray:
    """Whether a point of the backdrop is hidden or off the canvas after it ran `run` pixels.

    `centre` is where the object is then.
    """
    middle = np.arange(CANVAS) + 0.5
    x, y = middle[None, :] + run[0], middle[:, None] + run[1]
    left = (x < 0) | (x > CANVAS) | (y < 0) | (y > CANVAS)
    return left | (_covered(scene, centre - run) >= 0.5)


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


def _backdrop(scene: Scene, shift: np.ndarray) -> np.ndarray:
    """All that lies behind the object, moved by `shift` pixels."""
    backdrop, second = _pattern(scene.background, shift), scene.second
    if second is not None:
        centre = second.x + shift[0], second.y + shift[1]
        alpha = _coverage(second.shape, RADII[second.size], centre)
        backdrop = _over(backdrop, alpha, np.array(COLOURS[second.colour]))
    return backdrop * _brightness(scene.texture, shift)


def _brightness(texture: float, origin: np.ndarray) -> np.ndarray | float:
    """What a texture that has moved by `origin` leaves of the brightness of each pixel."""
    if texture == 0:
        return 1.0
    x, y = _subpixels()
    turns = [u * (x - origin[0]) + v * (y - origin[1]) for u, v in _WAVES]
    share = 0.5 + sum(np.sin(2 * np.pi * turn) for turn in turns) / (2 * len(_WAVES))
    share = reduce(share, "(h s) (w t) -> h w 1", "mean", s=SUPERSAMPLING, t=SUPERSAMPLING)
    return 1 - texture * share


def _pattern(background: Background, shift: np.ndarray) -> np.ndarray:
    x, y = _subpixels()
    x, y = np.broadcast_arrays(x - shift[0], y - shift[1])
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


def _over(backdrop: np.ndarray, alpha: np.ndarray, colour: np.ndarray) -> np.ndarray:
    """`colour` is one `[3]`, or one a pixel `[h, w, 3]`."""
    alpha = rearrange(alpha, "h w -> h w 1")
    return backdrop * (1 - alpha) + colour * alpha
