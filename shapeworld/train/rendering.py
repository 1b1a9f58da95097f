"""Many clips of one length at once, rendered on the device that trains."""

from collections.abc import Iterator

import numpy as np
import torch
from einops import rearrange, reduce
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..render import SUPERSAMPLING
from ..scene import BACKGROUNDS, CANVAS, COLOURS, RADII, SHAPES, Scene, caption, path
from .data import Source

_FIXED = 23  # numbers of a row before the centres


def scene_row(scene: Scene) -> np.ndarray:
    """All that a picture of the scene depends on, as one row of `23 + 2 f` numbers."""
    ground, second = scene.background, scene.second
    moving = (SHAPES.index(scene.shape), scene.radius, *COLOURS[scene.colour])
    pattern = (BACKGROUNDS.index(ground.pattern), *ground.palette[0], *ground.palette[1])
    lies = (ground.width, ground.angle, *ground.offset)
    other: tuple[float, ...] = (0.0,) * 7  # of radius 0: nothing is seen
    if second is not None:
        radius = RADII[second.size]
        kind = SHAPES.index(second.shape)
        other = (kind, radius, *COLOURS[second.colour], second.x, second.y)
    return np.concatenate([moving, pattern, lies, other, path(scene).ravel()])


class _Scenes(Dataset):
    """The rows and captions of a source's scenes of one length."""

    def __init__(self, source: Source, frames: int) -> None:
        self.source, self.frames, self.seeds = source, frames, source.seeds(frames)

    def __len__(self) -> int:
        return len(self.seeds)

    def __getitem__(self, index: int) -> tuple[np.ndarray, str]:
        scene = self.source.sample(self.seeds[index], frames=self.frames)
        return scene_row(scene), caption(scene)


def scene_rows(
    source: Source, frames: int, *, workers: int = 0
) -> tuple[Float[Tensor, "n r"], list[str]]:
    """The rows, in float64, and the captions of a source's scenes of one length."""
    scenes = _Scenes(source, frames)
    loader = DataLoader(scenes, batch_size=256, num_workers=workers, collate_fn=_gathered)
    rows, captions = zip(*loader, strict=True)
    return torch.cat(rows), [text for texts in captions for text in texts]


def _gathered(items: list[tuple[np.ndarray, str]]) -> tuple[Tensor, list[str]]:
    rows, texts = zip(*items, strict=True)
    return torch.from_numpy(np.stack(rows)), list(texts)


def in_chunks(rows: Float[Tensor, "n r"], count: int) -> Iterator[Float[Tensor, "b 3 f h w"]]:
    """The clips of all rows, `count` at a time, rendered in float32."""
    for chunk in rows.split(count):
        yield render_rows(chunk.float())


def render_rows(rows: Float[Tensor, "b r"]) -> Float[Tensor, "b 3 f h w"]:
    """The clips of some scenes in 0..1, as `render` draws them, on the device of the rows.

    In float64 pixels are those of `render`; in float32 a sub-pixel on an outline may differ.
    """
    fixed, centres = rows[:, :_FIXED], rearrange(rows[:, _FIXED:], "b (f two) -> b f two", two=2)
    shape, radius, colour, pattern, first, last, width, angle, offset, *other = fixed.split(
        (1, 1, 3, 1, 3, 3, 1, 1, 2, 1, 1, 3, 2), dim=1
    )
    other_shape, other_radius, other_colour, other_centre = other
    share = rearrange(_shares(pattern, width, angle, offset), "b h w -> b 1 1 h w")
    first, last, colour, other_colour = (
        rearrange(c, "b c -> b c 1 1 1") for c in (first, last, colour, other_colour)
    )
    backdrop = first + share * (last - first)
    beside = _covered(other_shape, other_radius, other_centre[:, None])[:, None]
    backdrop = backdrop * (1 - beside) + other_colour * beside
    alpha = _covered(shape, radius, centres)[:, None]
    return backdrop * (1 - alpha) + colour * alpha


def _steps(like: Tensor) -> Tensor:
    """The centres of the sub-pixels along one side, in pixels."""
    count = torch.arange(CANVAS * SUPERSAMPLING, device=like.device, dtype=like.dtype)
    return (count + 0.5) / SUPERSAMPLING


def _pixels(values: Tensor) -> Tensor:
    return reduce(values, "... (h s) (w t) -> ... h w", "mean", s=SUPERSAMPLING, t=SUPERSAMPLING)


def _covered(
    shape: Float[Tensor, "b 1"], radius: Float[Tensor, "b 1"], centres: Float[Tensor, "b f 2"]
) -> Float[Tensor, "b f h w"]:
    """Share of each pixel that an object of this shape and radius covers; see `render.inside`."""
    steps = _steps(centres)
    dx = steps - centres[:, :, :1, None]
    dy = rearrange(steps, "y -> y 1") - centres[:, :, 1:, None]
    shape, radius = shape[..., None, None], radius[..., None, None]
    squared = dx**2 + dy**2
    disc = squared <= radius**2
    square = (dx.abs() <= 0.9 * radius) & (dy.abs() <= 0.9 * radius)
    triangle = (3**0.5 * dx.abs() - dy <= 1.25 * radius) & (dy <= 1.25 * radius / 2)
    hit = torch.where(shape == SHAPES.index("triangle"), triangle, disc)
    hit = torch.where(shape == SHAPES.index("square"), square, hit)
    hit &= (shape != SHAPES.index("ring")) | (squared >= (radius / 2) ** 2)
    return _pixels(hit.to(centres.dtype))


def _shares(
    pattern: Float[Tensor, "b 1"],
    width: Float[Tensor, "b 1"],
    angle: Float[Tensor, "b 1"],
    offset: Float[Tensor, "b 2"],
) -> Float[Tensor, "b h w"]:
    """How much of its second colour each pixel of a backdrop shows."""
    pattern, width = pattern[..., None], width[..., None]
    cosine, sine = angle.cos()[..., None], angle.sin()[..., None]
    x = _steps(width)[None, None]
    y = rearrange(x, "1 1 y -> 1 y 1")
    half = CANVAS / 2
    reach = half * (cosine.abs() + sine.abs())
    gradient = 0.5 + ((x - half) * cosine + (y - half) * sine) / (2 * reach)
    x, y = x + offset[:, :1, None], y + offset[:, 1:, None]
    stripes = ((x * cosine + y * sine) / width).floor()
    checker = (x / width).floor() + (y / width).floor()
    cells = torch.where(pattern == BACKGROUNDS.index("striped"), stripes, checker) % 2
    share = torch.where(pattern == BACKGROUNDS.index("gradient"), gradient, cells)
    return _pixels(torch.where(pattern == BACKGROUNDS.index("plain"), 0 * share, share))
