"""Reading a clip back without any network: which object, how it moves, and what lies behind it.

Colours are told apart by hue, shapes by fitting templates, motions by least squares on the path of
the object, backgrounds by which kind of pattern explains most of what the backdrop shows. Tests
hold the accuracy on rendered clips, and on blurred, noisy and faded ones.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from einops import rearrange, reduce
from torch import Tensor

from .render import inside
from .scene import CANVAS, COLOURS, MOTIONS, RADII, SHAPES

_TINT, _MIN_CHROMA = 0.17, 0.22  # most of a backdrop's pixel, least of an object's (0.40 to 0.62)
_MIN_AREA, _MAX_AREA = 60, 1200  # pixels; objects cover 130 to 640
_REACH = 20  # pixels from the centre to the border of a shape template
_MIN_EXTENT = 1.5  # pixels, root mean square; the slowest motion has 4
_MIN_SHARE = 0.6  # of the path's variance that a motion must explain
_MIN_LIKENESS = 0.5  # intersection over union of an object with the nearest template
_PLAIN = 0.015  # root mean square of a pattern in a backdrop; the faintest gradient has 0.03
_MOTTLED = 0.045  # root mean square of anything else in a plain backdrop
_MIN_PATTERN = 0.35  # of the backdrop's variance that a pattern must explain


_STRIPES = [(math.cos(a), math.sin(a)) for a in np.arange(4) * math.pi / 4]


@dataclass(frozen=True)
class Reading:
    """What a clip shows. An attribute is None where nothing of the kind was seen."""

    colour: str | None
    shape: str | None
    size: str | None
    motion: str | None
    background: str | None
    centres: np.ndarray  # [f, 2] of the object as (x, y) in pixels, NaN where it was not seen
    mask: Tensor  # [f, h, w] bool: pixels that the object covers at least half
    others: tuple[tuple[str, str | None], ...] = ()  # colour and shape of everything else seen


@dataclass(frozen=True)
class _Object:
    colour: str
    alpha: np.ndarray  # [f, h, w] coverage, 0..1
    centres: np.ndarray  # [f, 2]
    extent: float  # root mean square distance of the centres from their mean, pixels
    area: float  # pixels, median over the frames


def read(clip: Tensor) -> Reading:
    """What a clip `[f, 64, 64, 3]` in 0..1 shows; a single frame is a clip with f = 1.

    The object is the largest coloured thing that moves, or the largest if nothing moves. Motions
    are read from four frames on. Raises ValueError for other shapes and for non-finite pixels.
    """
    if clip.ndim != 4 or len(clip) == 0 or clip.shape[1:] != (CANVAS, CANVAS, 3):
        raise ValueError(
            f"A shape-world clip is [frames, {CANVAS}, {CANVAS}, 3], not {list(clip.shape)}; "
            "add the frame axis of a single image with clip[None]."
        )
    if not clip.isfinite().all():
        raise ValueError("The clip holds NaN or infinite pixels: nothing can be read from it.")
    pixels = _smooth(clip.detach().to("cpu", torch.float32).numpy())
    seen = _objects(pixels)
    background = _background(pixels, seen)
    if not seen:
        nothing = np.full((len(pixels), 2), np.nan)
        mask = torch.zeros(pixels.shape[:3], dtype=torch.bool)
        return Reading(None, None, None, None, background, nothing, mask)
    # Two hues within one object move alike: then the larger part is the object.
    pace = max(_MIN_EXTENT, 0.5 * max(item.extent for item in seen))
    seen.sort(key=lambda item: (item.extent >= pace, item.area), reverse=True)
    moving, *others = seen
    shape, size = _shape_and_size(moving)
    return Reading(
        colour=moving.colour,
        shape=shape,
        size=size,
        motion=_motion(moving.centres) if moving.extent >= _MIN_EXTENT else None,
        background=background,
        centres=moving.centres,
        mask=torch.from_numpy(moving.alpha >= 0.5),
        others=tuple((item.colour, _shape_and_size(item)[0]) for item in others),
    )


def _smooth(images: np.ndarray) -> np.ndarray:
    """Weigh every pixel with its neighbours, 1 2 1 both ways: a third of the noise remains."""
    for axis in (-3, -2):
        pad = [(0, 0)] * images.ndim
        pad[axis] = (1, 1)
        padded = np.moveaxis(np.pad(images, pad, mode="edge"), axis, 0)
        images = np.moveaxis((padded[:-2] + 2 * padded[1:-1] + padded[2:]) / 4, 0, axis)
    return images


def _chroma(colours: np.ndarray) -> np.ndarray:
    return colours - colours.mean(axis=-1, keepdims=True)


def _sharpen(alpha: np.ndarray) -> np.ndarray:
    """Undo about as much blur as `_smooth` made, and drop the faint tint of a backdrop."""
    return np.clip(2 * alpha - 0.5, 0.0, 1.0)


def _objects(pixels: np.ndarray) -> list[_Object]:
    """Everything of a canonical hue that is large and vivid enough in most frames."""
    canonical = _chroma(np.array(list(COLOURS.values()), dtype=np.float32))
    directions = canonical / np.linalg.norm(canonical, axis=1, keepdims=True)
    vividness = _chroma(pixels) @ directions.T
    nearest = vividness.argmax(axis=-1)
    x, y = _grid()
    seen = []
    for index, colour in enumerate(COLOURS):
        vivid = vividness[..., index]
        own = (nearest == index) & (vivid > _MIN_CHROMA)
        if not _MIN_AREA <= np.median(own.sum(axis=(1, 2))) <= _MAX_AREA:
            continue
        floor, peak = min(np.median(vivid), _TINT), np.percentile(vivid[own], 75)
        alpha = _sharpen((vivid - floor) / (peak - floor)) * (nearest == index)
        centres = np.stack([_settle(frame) for frame in alpha])
        near = np.stack([np.hypot(x - cx, y - cy) <= _REACH for cx, cy in centres])
        area = float(np.median((alpha * near).sum(axis=(1, 2))))
        if area < max(_MIN_AREA, 0.5 * np.median(alpha.sum(axis=(1, 2)))):
            continue  # speckles all over the picture
        alpha *= near
        spread = centres - np.nanmean(centres, axis=0)
        extent = math.sqrt(np.nanmean((spread**2).sum(axis=1)))
        seen.append(_Object(colour, alpha, centres, extent, area))
    return seen


def _grid() -> tuple[np.ndarray, np.ndarray]:
    """x and y of the pixels' centres, as a row and a column."""
    centres = np.arange(CANVAS) + 0.5
    return centres[None, :], centres[:, None]


def _settle(alpha: np.ndarray) -> np.ndarray:
    """Centroid (x, y) of the main blob of one frame; stray pixels far from it do not count."""
    x, y = _grid()
    rows, columns = np.nonzero(alpha >= 0.5)
    if len(rows) < _MIN_AREA // 2:
        return np.full(2, np.nan)
    centre = np.array([np.median(columns), np.median(rows)]) + 0.5
    for _ in range(2):
        near = alpha * (np.hypot(x - centre[0], y - centre[1]) <= _REACH)
        centre = np.array([(near * x).sum(), (near * y).sum()]) / near.sum()
    return centre


@lru_cache(maxsize=1)
def _templates() -> tuple[list[tuple[str, float]], np.ndarray]:
    """Shape and radius of every template, and their coverage `[n, pixels]` around the centre."""
    steps = (np.arange((2 * _REACH + 1) * 4) + 0.5) / 4 - _REACH - 0.5
    kinds = [(shape, radius) for shape in SHAPES for radius in np.arange(5.0, 17.5, 0.5)]
    covers = [
        reduce(
            inside(shape, radius, steps[None, :], steps[:, None]).astype(float),
            "(h s) (w t) -> h w",
            "mean",
            s=4,
            t=4,
        )
        for shape, radius in kinds
    ]
    covers = _sharpen(_smooth(np.stack(covers)[..., None])[..., 0])
    return kinds, rearrange(covers, "n h w -> n (h w)")


def _shape_and_size(item: _Object) -> tuple[str | None, str | None]:
    """Shape and size of the template most like the object, averaged over the frames on its path."""
    offsets = np.arange(-_REACH, _REACH + 1)
    patches = []
    for alpha, centre in zip(item.alpha, item.centres, strict=True):
        if not np.isnan(centre).any():
            patches.append(
                _sample(alpha, centre[0] + offsets[None, :], centre[1] + offsets[:, None])
            )
    patch = np.mean(patches, axis=0).ravel()
    kinds, covers = _templates()
    distances = (covers**2).sum(axis=1) - 2 * covers @ patch
    nearest = int(distances.argmin())
    likeness = np.minimum(covers[nearest], patch).sum() / np.maximum(covers[nearest], patch).sum()
    if likeness < _MIN_LIKENESS:
        return None, None
    shape, radius = kinds[nearest]
    return shape, min(RADII, key=lambda size: abs(RADII[size] - radius))


def _sample(image: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The image at points (x, y), bilinear, 0 outside."""
    padded = np.pad(image, 1)
    x, y = np.broadcast_arrays(x + 0.5, y + 0.5)  # in indices of the padded image
    column = np.clip(np.floor(x).astype(int), 0, padded.shape[1] - 2)
    row = np.clip(np.floor(y).astype(int), 0, padded.shape[0] - 2)
    right, down = np.clip(x - column, 0, 1), np.clip(y - row, 0, 1)
    upper = padded[row, column] * (1 - right) + padded[row, column + 1] * right
    lower = padded[row + 1, column] * (1 - right) + padded[row + 1, column + 1] * right
    return upper * (1 - down) + lower * down


def _motion(centres: np.ndarray) -> str | None:
    """The motion that explains most of the path's variance, by least squares."""
    there = ~np.isnan(centres).any(axis=1)
    if there.sum() < 4:
        return None
    u = np.linspace(0.0, 1.0, len(centres))[there]
    path = centres[there] - centres[there].mean(axis=0)
    unexplained = {motion: _residual(motion, u, path) for motion in MOTIONS}
    best = min(unexplained, key=unexplained.__getitem__)
    return best if unexplained[best] <= (1 - _MIN_SHARE) * (path**2).sum() else None


def _residual(motion: str, u: np.ndarray, path: np.ndarray) -> float:
    """Squared distance between a path and the nearest one that this motion can make."""
    if motion == "circling":
        angle = math.radians(300) * u
        cosine, sine = np.cos(angle), np.sin(angle)
        # (r cos(phase + angle), r sin(phase + angle)) is linear in r cos(phase), r sin(phase).
        basis = np.stack([np.stack([cosine, sine], 1), np.stack([-sine, cosine], 1)])
    else:
        fall = 4 * u * (1 - u)  # of a bounce, down and up again
        x, y = {
            "right": (u, 0 * u),
            "left": (-u, 0 * u),
            "up": (0 * u, -u),
            "down": (0 * u, u),
            "bouncing": (0 * u, fall),
        }[motion]
        basis = np.stack([x, y], 1)[None]
    basis = rearrange(basis - basis.mean(axis=1, keepdims=True), "k f c -> (f c) k")
    weights = np.linalg.lstsq(basis, path.ravel(), rcond=None)[0]
    if motion != "circling":
        weights = np.maximum(weights, 0.0)  # backwards it would be another motion
    return float(((path.ravel() - basis @ weights) ** 2).sum())


def _background(pixels: np.ndarray, seen: list[_Object]) -> str | None:
    """The kind of pattern that explains most of the backdrop's variance."""
    covered = np.zeros(pixels.shape[:3], dtype=bool)
    for item in seen:
        covered |= _smooth((item.alpha > 0)[..., None].astype(float))[..., 0] > 0
    shown = (~covered).sum(axis=0)
    free = shown > 0
    if free.sum() < 200:
        return None
    plate = (pixels * ~covered[..., None]).sum(axis=0)[free] / shown[free][:, None]
    plate -= plate.mean(axis=0)
    variance = (plate**2).sum(axis=1).mean()
    x, y = (axis[free] for axis in np.broadcast_arrays(*_grid()))
    explained = {
        "gradient": _explained(np.stack([x, y], axis=1), plate),
        "striped": max(_explained_by_bins(x * c + y * s, plate) for c, s in _STRIPES),
        "checker": max(_explained(wave[free.ravel()], plate) for wave in _checker_waves()),
    }
    best = max(explained, key=explained.__getitem__)
    if explained[best] < 3 * _PLAIN**2 and variance < 3 * _MOTTLED**2:
        return "plain"
    # A gradient looks striped as well, while stripes hardly brighten from end to end.
    if explained["gradient"] > 0.6 * variance:
        return "gradient"
    return best if explained[best] > _MIN_PATTERN * variance else None


def _explained(basis: np.ndarray, plate: np.ndarray) -> float:
    """Variance of the plate's colours `[n, 3]` that a basis `[n, k]` explains."""
    basis = basis - basis.mean(axis=0)
    shared = basis.T @ plate
    weights = np.linalg.lstsq(basis.T @ basis, shared, rcond=None)[0]
    return float((weights * shared).sum() / len(plate))


def _explained_by_bins(along: np.ndarray, plate: np.ndarray) -> float:
    """Variance of the plate's colours that depends on the position along one direction alone."""
    bins = np.floor(along - along.min()).astype(int)
    counts = np.bincount(bins)
    sums = np.stack([np.bincount(bins, channel) for channel in plate.T])
    return float((sums**2 / np.maximum(counts, 1)).sum() / len(plate))


@lru_cache(maxsize=1)
def _checker_waves() -> list[np.ndarray]:
    """For every width of a cell, the checker's fundamental wave in all its phases, `[pixels, 4]`.

    It explains two thirds of a perfect checkerboard.
    """
    x, y = _grid()
    found = []
    for width in range(7, 14):
        across, down = math.pi / width * x, math.pi / width * y
        waves = [f(across) * g(down) for f in (np.cos, np.sin) for g in (np.cos, np.sin)]
        found.append(rearrange(np.stack(waves), "k h w -> (h w) k"))
    return found
