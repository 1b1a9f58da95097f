"""Pixels, masks and flow against brute force: other geometry, denser sampling, plain loops."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rescore.shapeworld.render import render
from rescore.shapeworld.scene import (
    BACKGROUNDS,
    CANVAS,
    COLOURS,
    RADII,
    SHAPES,
    Background,
    Scene,
    StaticObject,
    caption,
    path,
    sample_scene,
)

DARK, LIGHT = (0.3, 0.35, 0.32), (0.7, 0.6, 0.65)
SEEDS = st.integers(0, 2**31)


def scene(pattern: str = "plain", **changes) -> Scene:
    backdrop = Background(pattern, (DARK, LIGHT), 10.0, 0.0, (3.0, 1.0))
    settings = {"shape": "circle", "colour": "red", "motion": "right", "background": backdrop}
    return Scene(**(settings | {"x": 31.3, "y": 33.1, "travel": 17.0} | changes))


def belongs(shape: str, radius: float, dx: float, dy: float) -> bool:
    """Whether a point belongs to a shape: by angles and edges, not as the renderer puts it."""
    if shape == "triangle":
        tips = [math.radians(angle) for angle in (-90, 30, 150)]  # y down: the first tip is up
        corners = [(1.25 * radius * math.cos(a), 1.25 * radius * math.sin(a)) for a in tips]
        turns = [
            (bx - ax) * (dy - ay) - (by - ay) * (dx - ax)
            for (ax, ay), (bx, by) in zip(corners, corners[1:] + corners[:1], strict=True)
        ]
        return all(turn >= -1e-9 for turn in turns)
    if shape == "square":
        half = 0.9 * radius
        return -half <= dx <= half and -half <= dy <= half
    return (radius / 2 if shape == "ring" else 0) <= math.hypot(dx, dy) <= radius


@pytest.mark.parametrize("shape", SHAPES)
def test_coverage_counts_sixteen_points_of_a_pixel(shape: str):
    drawn = scene(shape=shape, size="small", frames=3)
    coverage = render(drawn).coverage
    for frame, row, column in [(0, 33, 22), (0, 26, 24), (1, 33, 31), (1, 38, 28), (2, 40, 44)]:
        cx, cy = path(drawn)[frame]
        hits = [
            belongs(shape, 8.0, column + (i + 0.5) / 4 - cx, row + (j + 0.5) / 4 - cy)
            for i in range(4)
            for j in range(4)
        ]
        assert coverage[frame, row, column] == sum(hits) / 16


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", RADII)
def test_coverage_agrees_with_dense_sampling(shape: str, size: str):
    drawn = scene(shape=shape, size=size, travel=3.7, frames=2)
    centre = path(drawn)[1]
    coverage = render(drawn).coverage[1].numpy()
    points = (np.arange(CANVAS * 16) + 0.5) / 16 - centre[0]
    inside = np.vectorize(belongs)
    # Rows through the middle, along the base of a triangle and of a square, and across a tip.
    for height in (0.0, 0.625, 0.9, -0.8):
        row = int(centre[1] + height * drawn.radius)
        lines = row + (np.arange(16)[:, None] + 0.5) / 16 - centre[1]
        share = inside(shape, drawn.radius, points[None], lines).reshape(16, CANVAS, 16)
        assert share.any() or height  # the middle is never empty
        assert np.abs(coverage[row] - share.mean(axis=(0, 2))).max() <= 0.15
    # Counting moves an outline by an eighth of a pixel at most, and none is longer than 10 radii.
    area = {
        "circle": math.pi,
        "square": 1.8**2,
        "triangle": 3 * math.sqrt(3) / 4 * 1.25**2,
        "ring": math.pi * 0.75,
    }[shape] * drawn.radius**2
    assert coverage.sum() == pytest.approx(area, abs=10 * drawn.radius / 8)


@settings(max_examples=40, deadline=None)
@given(SEEDS, st.booleans())
def test_objects_stay_on_the_canvas_and_apart(seed: int, second: bool):
    drawn = sample_scene(seed, frames=5, second=second)
    rendering = render(drawn)
    border = torch.ones(CANVAS, CANVAS, dtype=torch.bool)
    border[1:-1, 1:-1] = False
    assert rendering.coverage[:, border].max() == 0
    if second:
        alone = render(replace(drawn, second=None)).clip
        of_second = (rendering.clip != alone).any(-1)
        assert of_second.any()
        assert not (of_second & (rendering.coverage > 0)).any()
        assert not of_second[0, border].any()


def test_a_pixel_blends_object_and_backdrop_by_coverage():
    drawn = scene("striped")
    rendering = render(drawn)
    # Stripes of width 10 shifted by 3: column 5 is dark (cell 0), column 12 light (cell 1).
    torch.testing.assert_close(rendering.clip[0, 2, 5], torch.tensor(DARK))
    torch.testing.assert_close(rendering.clip[0, 2, 12], torch.tensor(LIGHT))
    red = torch.tensor(COLOURS["red"])
    blend = rendering.coverage[..., None]
    backdrop = rendering.clip[-1, :, :20]  # the object has left these columns by the last frame
    expected = backdrop * (1 - blend[0, :, :20]) + red * blend[0, :, :20]
    assert 0 < blend[0, :, :20].max() and blend[-1, :, :20].max() == 0
    torch.testing.assert_close(rendering.clip[0, :, :20], expected)
    assert (rendering.clip[0][rendering.coverage[0] == 1] == red).all()


def test_patterns():
    def corner(pattern: str, **changes) -> np.ndarray:
        drawn = scene(pattern)
        backdrop = replace(drawn.background, **changes)
        return render(replace(drawn, background=backdrop)).clip[0].numpy()

    assert (corner("plain")[:10, :10] == np.float32(DARK)).all()
    checker = corner("checker", offset=(0.0, 0.0))
    np.testing.assert_array_equal(checker[3, 4], np.float32(DARK))
    np.testing.assert_array_equal(checker[3, 14], np.float32(LIGHT))
    np.testing.assert_array_equal(checker[13, 4], np.float32(LIGHT))
    np.testing.assert_array_equal(checker[13, 14], np.float32(DARK))
    diagonal = corner("striped", angle=math.pi / 4, offset=(0.0, 0.0))
    np.testing.assert_array_equal(diagonal[2, 5], diagonal[5, 2])
    gradient = corner("gradient", angle=math.pi / 2)  # downwards
    np.testing.assert_allclose(gradient[:, 0], gradient[:, 63])
    expected = np.array(DARK) + (np.arange(CANVAS)[:, None] + 0.5) / CANVAS * (
        np.array(LIGHT) - np.array(DARK)
    )
    np.testing.assert_allclose(gradient[:, 0], expected, atol=1e-6)


def test_shapes_and_types():
    rendering = render(scene(frames=7, second=StaticObject("ring", "blue", 12.0, 54.0)))
    assert rendering.clip.shape == (7, CANVAS, CANVAS, 3)
    assert rendering.clip.dtype == torch.float32
    assert 0 <= rendering.clip.min() and rendering.clip.max() <= 1
    assert rendering.coverage.shape == rendering.mask.shape == (7, CANVAS, CANVAS)
    assert rendering.mask.dtype == torch.bool
    assert rendering.forward_flow.shape == rendering.backward_flow.shape == (6, 2, CANVAS, CANVAS)
    assert rendering.visible_forward.shape == rendering.visible_backward.shape == (6, 64, 64)
    assert rendering.caption == caption(scene(second=StaticObject("ring", "blue", 12.0, 54.0)))


@settings(max_examples=10, deadline=None)
@given(SEEDS)
def test_a_seed_means_one_clip(seed: int):
    first, again = render(sample_scene(seed)), render(sample_scene(seed))
    assert all(torch.equal(a, b) for a, b in zip(first[:-1], again[:-1], strict=True))


@settings(max_examples=25, deadline=None)
@given(SEEDS, st.integers(2, 11))
def test_flow_follows_a_point_of_the_object(seed: int, frames: int):
    """A point keeps its place in the object; the backdrop does not move at all."""
    drawn = sample_scene(seed, frames=frames)
    rendering, centres = render(drawn), path(drawn)
    for i in range(frames - 1):
        rows, columns = np.nonzero(rendering.mask[i].numpy())
        points = np.stack([columns, rows], axis=1) + 0.5
        flow = rendering.forward_flow[i].numpy()[:, rows, columns].T
        np.testing.assert_allclose(points + flow - centres[i + 1], points - centres[i], atol=1e-5)
        rows, columns = np.nonzero(rendering.mask[i + 1].numpy())
        points = np.stack([columns, rows], axis=1) + 0.5
        flow = rendering.backward_flow[i].numpy()[:, rows, columns].T
        np.testing.assert_allclose(points + flow - centres[i], points - centres[i + 1], atol=1e-5)
    still = ~rendering.mask
    assert (rendering.forward_flow.abs().sum(1) * still[:-1]).max() == 0
    assert (rendering.backward_flow.abs().sum(1) * still[1:]).max() == 0


@settings(max_examples=25, deadline=None)
@given(SEEDS)
def test_forward_and_backward_flow_cancel_where_both_are_visible(seed: int):
    rendering = render(sample_scene(seed, frames=5))
    for forward, backward, visible, coverage in zip(
        rendering.forward_flow,
        rendering.backward_flow,
        rendering.visible_forward,
        rendering.coverage,
        strict=False,
    ):
        rows, columns = torch.nonzero(visible & ((coverage == 0) | (coverage == 1)), as_tuple=True)
        there = forward[:, rows, columns]
        right = (columns + there[0]).round().long()
        down = (rows + there[1]).round().long()
        # Rounding to a pixel can fall off the outline of the object, nowhere else.
        back = backward[:, down, right]
        missed = ((there + back).abs().amax(0) > 1e-5).float().mean()
        assert missed < 0.01


@pytest.mark.parametrize("pattern", ["plain", "checker"])
@pytest.mark.parametrize(("motion", "step"), [("right", (0, 3)), ("up", (-3, 0))])
def test_the_next_frame_carried_back_is_the_frame(pattern: str, motion: str, step: tuple[int, int]):
    """With whole-pixel flow no interpolation is needed: equality to the last bit."""
    rendering = render(scene(pattern, motion=motion, travel=21.0, x=32.5, y=32.5))
    for i in range(7):
        seen = 0
        for row in range(0, CANVAS, 2):
            for column in range(CANVAS):
                flow = rendering.forward_flow[i, :, row, column].tolist()
                partly = 0 < rendering.coverage[i, row, column] < 1
                if partly or not rendering.visible_forward[i, row, column]:
                    continue
                assert flow in ([0, 0], [step[1], step[0]])
                place = (row + int(flow[1]), column + int(flow[0]))
                if flow == [0, 0] and rendering.coverage[i + 1][place] > 0:
                    continue  # the coming outline covers part of this pixel
                assert torch.equal(rendering.clip[i, row, column], rendering.clip[i + 1][place])
                seen += 1
        assert seen > 1500


@settings(max_examples=25, deadline=None)
@given(SEEDS)
def test_a_point_is_visible_where_the_next_frame_shows_it(seed: int):
    """Against a clip without the object: hidden backdrop is what the object covers mostly."""
    drawn = sample_scene(seed, frames=4)
    rendering = render(drawn)
    for i in range(3):
        for j, visible in (
            (i, rendering.visible_forward[i]),
            (i + 1, rendering.visible_backward[i]),
        ):
            other = 2 * i + 1 - j
            backdrop = rendering.coverage[j] == 0
            shown = rendering.coverage[other] == 0
            covered = rendering.coverage[other] == 1
            assert visible[backdrop & shown].all()
            assert not visible[backdrop & covered].any()
            assert visible[rendering.coverage[j] == 1].all()
            # What is shown in both frames is the same backdrop.
            both = backdrop & shown
            assert torch.equal(rendering.clip[j][both], rendering.clip[other][both])


@pytest.mark.parametrize("pattern", BACKGROUNDS)
@pytest.mark.parametrize("pan", [(0.0, 0.0), (14.0, -7.0)])
def test_under_a_moving_camera_the_flow_carries_all_that_is_seen(
    pattern: str, pan: tuple[float, float]
):
    """Pixel by pixel; what a visible point looks like does not change, whatever lies on it."""
    second = StaticObject("square", "cyan", 14.0, 14.0)
    drawn = scene(pattern, travel=21.0, x=32.5, y=40.5, pan=pan, texture=0.3, second=second)
    rendering = render(drawn)
    rows, columns = np.mgrid[:CANVAS, :CANVAS]
    for i in range(7):
        right, down = rendering.forward_flow[i].numpy()
        there, across = (rows + down).round().astype(int), (columns + right).round().astype(int)
        on = (0 <= there) & (there < CANVAS) & (0 <= across) & (across < CANVAS)
        there, across = there.clip(0, CANVAS - 1), across.clip(0, CANVAS - 1)
        pure = np.isin(rendering.coverage[i].numpy(), (0, 1))
        before, after = (rendering.coverage[j].numpy() for j in (i, i + 1))
        shown = on & pure & (after[there, across] == before)
        assert rendering.visible_forward[i].numpy()[shown].all()
        assert not rendering.visible_forward[i].numpy()[~on].any()
        hidden = on & (before == 0) & (after[there, across] == 1)
        assert not rendering.visible_forward[i].numpy()[hidden].any()
        assert shown.sum() > 3000 and hidden.sum() > 5
        found, expected = rendering.clip[i + 1].numpy()[there, across], rendering.clip[i].numpy()
        np.testing.assert_allclose(found[shown], expected[shown], atol=1e-6)
        # Backwards it is the same path, walked the other way.
        back = rendering.backward_flow[i].numpy()[:, there[shown], across[shown]]
        np.testing.assert_allclose(back, -np.stack([right[shown], down[shown]]), atol=1e-5)
        assert rendering.visible_backward[i].numpy()[there[shown], across[shown]].all()


def test_a_texture_darkens_and_keeps_the_hue():
    plain, textured = (render(scene(texture=share, frames=2)) for share in (0.0, 0.4))
    left = (textured.clip / plain.clip)[plain.coverage % 1 == 0]
    torch.testing.assert_close(left, left[:, :1].expand(-1, 3))
    assert left.max() <= 1 and left.max() - left.min() > 0.3  # almost all of the 0.4
    assert torch.equal(plain.coverage, textured.coverage)
