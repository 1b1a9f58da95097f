"""How well the oracle reads: rendered clips, spoilt ones, and things that are no clips at all."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from einops import rearrange
from rescore.shapeworld.oracle import Reading, read
from rescore.shapeworld.render import render
from rescore.shapeworld.scene import (
    COLOURS,
    Background,
    Scene,
    StaticObject,
    path,
    sample_scene,
)
from torch import Tensor
from torch.nn import functional

ATTRIBUTES = ("colour", "shape", "size", "motion", "background")
FIRST = 900_000_000  # held out, and in no suite


def right(reading: Reading, scene: Scene) -> dict[str, bool]:
    """Which attributes were read as they are; "others" is the second object, or that none is."""
    found = {name: getattr(reading, name) == getattr(scene, name) for name in ATTRIBUTES[:-1]}
    second = scene.second
    return found | {
        "background": reading.background == scene.background.pattern,
        "others": reading.others == (() if second is None else ((second.colour, second.shape),)),
    }


def spoilt(clip: Tensor, seed: int) -> Tensor:
    """Blurred (Gaussian, sigma 1), 0.8 of the contrast, noise of standard deviation 0.05."""
    kernel = torch.exp(-(torch.arange(-4.0, 5.0) ** 2) / 2)
    kernel = (kernel / kernel.sum()).expand(3, 1, 1, 9)
    images = functional.pad(rearrange(clip, "f h w c -> f c h w"), (4, 4, 4, 4), mode="replicate")
    images = functional.conv2d(images, kernel, groups=3)
    images = functional.conv2d(images, kernel.mT, groups=3)
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(seed))
    images = 0.5 + 0.8 * (images - 0.5) + 0.05 * noise
    return rearrange(images, "f c h w -> f h w c").clamp(0, 1)


def shares(count: int, treat=lambda clip, seed: clip) -> dict[str, float]:
    """Share of right readings, over 8 and 16 frames, with and without a second object."""
    rows = []
    for index in range(count):
        seed = FIRST + index
        scene = sample_scene(seed, frames=(8, 16)[index % 2], second=index % 4 >= 2)
        rows.append(right(read(treat(render(scene).clip, seed)), scene))
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}


def test_rendered_clips_are_read_right():
    found = shares(500)
    assert min(found.values()) >= 0.99, found


def test_spoilt_clips_are_read_right():
    found = shares(120, spoilt)
    assert min(found.values()) >= 0.99, found


def test_single_frames_are_read_right():
    rows = []
    for index in range(150):
        scene = sample_scene(FIRST + index, second=False)
        reading = read(render(scene).clip[index % 8][None])
        assert reading.motion is None
        rows.append(right(reading, scene))
    for name in ("colour", "shape", "size", "background"):
        assert np.mean([row[name] for row in rows]) >= 0.99


@pytest.mark.parametrize("frames", [4, 5, 24])
def test_other_lengths_are_read_right(frames: int):
    for seed in range(FIRST, FIRST + 12):
        scene = sample_scene(seed, frames=frames)
        assert all(right(read(render(scene).clip), scene).values())


def test_where_the_object_is():
    for seed in range(FIRST, FIRST + 20):
        scene = sample_scene(seed)
        rendering = render(scene)
        for clip, error, overlap in (
            (rendering.clip, 0.4, 0.88),
            (spoilt(rendering.clip, seed), 0.6, 0.85),
        ):
            reading = read(clip)
            assert np.abs(reading.centres - path(scene)).max() < error
            both, either = reading.mask & rendering.mask, reading.mask | rendering.mask
            assert both.sum() / either.sum() > overlap


def test_the_object_is_the_one_that_moves():
    """Even when the other one is larger."""
    backdrop = Background("plain", ((0.4, 0.4, 0.4), (0.7, 0.7, 0.7)))
    large = StaticObject("circle", "blue", 44.0, 44.0, size="large")
    scene = Scene("ring", "red", "right", backdrop, 24.0, 14.0, 20.0, size="small", second=large)
    reading = read(render(scene).clip)
    assert (reading.colour, reading.shape, reading.size) == ("red", "ring", "small")
    assert reading.others == (("blue", "circle"),)
    still = read(render(scene).clip[:1].expand(8, -1, -1, -1))
    assert (still.colour, still.motion) == ("blue", None)
    assert still.others == (("red", "ring"),)


def test_half_an_edit_is_not_an_edit():
    """An object of two hues has the colour of its larger part."""
    scene = replace(sample_scene(FIRST, second=False), colour="red", shape="square", size="large")
    red, blue = render(scene).clip, render(replace(scene, colour="blue")).clip
    for share, colour in ((0.3, "red"), (0.7, "blue")):
        edge = torch.from_numpy(path(scene)[:, 0] - 12.6 + share * 25.2)
        mask = torch.arange(64)[None, None, :, None] < edge[:, None, None, None]
        assert read(torch.where(mask, blue, red)).colour == colour


@pytest.mark.parametrize(
    "clip",
    [
        torch.zeros(8, 64, 64, 3),
        torch.full((3, 64, 64, 3), 0.5),
        torch.tensor(COLOURS["red"]).expand(8, 64, 64, 3),
        torch.rand(8, 64, 64, 3, generator=torch.Generator().manual_seed(0)),  # grey on average
    ],
    ids=["black", "grey", "all red", "noise"],
)
def test_where_there_is_no_object_none_is_seen(clip: Tensor):
    reading = read(clip)
    assert (reading.colour, reading.shape, reading.size, reading.motion) == (None,) * 4
    assert reading.background == "plain"
    assert reading.others == ()
    assert not reading.mask.any() and reading.mask.shape == clip.shape[:3]
    assert np.isnan(reading.centres).all() and reading.centres.shape == (len(clip), 2)


def test_an_object_that_is_missing_from_some_frames_is_still_read():
    scene = sample_scene(FIRST, frames=16, second=False)
    clip = render(scene).clip.clone()
    empty = render(replace(scene, second=None, x=-200.0)).clip
    clip[3:6] = empty[3:6]
    reading = read(clip)
    assert np.isnan(reading.centres[3:6]).all()
    assert all(right(reading, scene).values())


def test_a_motion_that_nobody_named_is_none():
    """Diagonally, or round the other way: no motion of this world."""
    scene = replace(sample_scene(FIRST, frames=8, second=False), motion="circling", travel=45.0)
    scene = replace(scene, x=32.0, y=32.0, size="small")
    assert read(render(scene).clip).motion == "circling"
    assert read(render(scene).clip.flip(0)).motion is None
    positions = np.linspace(20, 44, 8)
    steps = [
        render(replace(scene, motion="right", travel=0.0, x=p, y=p)).clip[0] for p in positions
    ]
    assert read(torch.stack(steps)).motion is None


def test_mottled_backdrops_are_none_of_the_patterns():
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 3, 7, 7, generator=generator)
    blobs = functional.interpolate(coarse, size=64, mode="bicubic").clamp(0, 1)
    grey = rearrange(blobs.mean(dim=1), "f h w -> f h w 1").expand(8, -1, -1, 3)
    assert read(grey).background is None


def test_any_floating_type_is_read_alike():
    scene = sample_scene(FIRST)
    for dtype in (torch.float64, torch.bfloat16, torch.float16):
        assert all(right(read(render(scene).clip.to(dtype)), scene).values())


@pytest.mark.parametrize("shape", [(64, 64, 3), (8, 3, 64, 64), (8, 32, 32, 3), (0, 64, 64, 3)])
def test_what_is_no_clip_is_refused(shape: tuple[int, ...]):
    with pytest.raises(ValueError, match=r"is \[frames, 64, 64, 3\], not"):
        read(torch.zeros(shape))


def test_broken_pixels_are_refused():
    clip = torch.zeros(2, 64, 64, 3)
    clip[1, 5, 7, 0] = torch.nan
    with pytest.raises(ValueError, match="NaN or infinite"):
        read(clip)
