"""What scenes are drawn, where their objects go, and what is said about them."""

import itertools
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rescore.shapeworld.scene import (
    BACKGROUNDS,
    COLOURS,
    MOTIONS,
    RADII,
    SHAPES,
    Background,
    Scene,
    StaticObject,
    backdrop_path,
    caption,
    fits,
    path,
    sample_scene,
    travel_range,
)

PLAIN = Background("plain", ((0.3, 0.3, 0.3), (0.7, 0.7, 0.7)))
SEEDS = st.integers(0, 2**31)


def scene(**changes) -> Scene:
    """A scene in the middle of the canvas."""
    settings = {"shape": "circle", "colour": "red", "motion": "right", "background": PLAIN}
    return Scene(**(settings | {"x": 31.0, "y": 33.0, "travel": 17.0} | changes))


@pytest.fixture(scope="module")
def many() -> list[Scene]:
    return [sample_scene(seed) for seed in range(2000)]


def test_a_seed_means_one_scene():
    assert sample_scene(17, frames=13) == sample_scene(17, frames=13)
    assert len({sample_scene(seed) for seed in range(50)}) == 50


@settings(max_examples=200, deadline=None)
@given(
    SEEDS,
    st.integers(2, 24),
    st.sampled_from([None, False, True]),
    st.sampled_from([None, *MOTIONS]),
    st.sampled_from([None, *BACKGROUNDS]),
)
def test_every_scene_fits_and_is_as_asked(
    seed: int, frames: int, second: bool | None, motion: str | None, background: str | None
):
    drawn = sample_scene(seed, frames=frames, second=second, motion=motion, background=background)
    assert fits(drawn)
    assert drawn.frames == frames
    if motion is not None:
        assert drawn.motion == motion
    if background is not None:
        assert drawn.background.pattern == background
    if second is not None:
        assert (drawn.second is not None) == second
    shortest, longest = travel_range(drawn.motion)
    assert shortest <= drawn.travel <= longest
    if drawn.second is not None:
        assert drawn.second.colour != drawn.colour


@pytest.mark.parametrize(
    ("attribute", "known"),
    [
        ("shape", SHAPES),
        ("colour", tuple(COLOURS)),
        ("motion", MOTIONS),
        ("pattern", BACKGROUNDS),
    ],
)
def test_every_value_is_equally_frequent(many: list[Scene], attribute: str, known: tuple[str, ...]):
    counts = Counter(
        getattr(s.background if attribute == "pattern" else s, attribute) for s in many
    )
    expected = len(many) / len(known)
    chi_square = sum((counts[value] - expected) ** 2 / expected for value in known)
    assert set(counts) == set(known)
    assert (
        chi_square < 20.5
    )  # one fair draw in a thousand exceeds this with five degrees of freedom


def test_one_scene_in_four_has_a_second_object(many: list[Scene]):
    share = np.mean([drawn.second is not None for drawn in many])
    assert abs(share - 0.25) < 3 * (0.25 * 0.75 / len(many)) ** 0.5


def test_backdrops_are_muted_and_their_colours_differ_in_brightness(many: list[Scene]):
    palettes = np.array([drawn.background.palette for drawn in many])  # [n, 2, 3]
    assert (palettes.max(-1) - palettes.min(-1)).max() <= 0.2
    brightness = palettes.max(-1)
    assert np.abs(brightness[:, 0] - brightness[:, 1]).min() >= 0.15


@pytest.mark.parametrize(
    ("motion", "direction"),
    [("right", (1, 0)), ("left", (-1, 0)), ("up", (0, -1)), ("down", (0, 1))],
)
def test_straight_motions_keep_their_speed(motion: str, direction: tuple[int, int]):
    steps = np.diff(path(scene(motion=motion, frames=11)), axis=0)
    np.testing.assert_allclose(steps, np.tile(direction, (10, 1)) * 17 / 10, atol=1e-12)


def test_bouncing_falls_and_rises_under_constant_acceleration():
    centres = path(scene(motion="bouncing", travel=30.0, frames=11))
    assert np.ptp(centres[:, 0]) == 0
    assert centres[0, 1] == centres[-1, 1] == 33 - 7.5
    assert centres[5, 1] == pytest.approx(33 + 7.5)  # y points down: halfway it is lowest
    acceleration = np.diff(centres[:, 1], n=2)
    np.testing.assert_allclose(acceleration, acceleration[0], atol=1e-12)
    assert acceleration[0] < 0


def test_circling_runs_clockwise_at_constant_speed():
    turning = scene(motion="circling", travel=40.0, phase=0.7, frames=23)
    arms = path(turning) - [31, 33]
    radius = 40 / np.deg2rad(300)
    np.testing.assert_allclose(np.hypot(*arms.T), radius)
    angles = np.unwrap(np.arctan2(arms[:, 1], arms[:, 0]))
    # With y downwards, a growing angle turns clockwise on the screen.
    np.testing.assert_allclose(np.diff(angles), np.deg2rad(300) / 22)
    assert angles[0] == pytest.approx(0.7)


@settings(max_examples=100, deadline=None)
@given(SEEDS)
def test_travel_is_the_length_of_the_path(seed: int):
    drawn = sample_scene(seed, frames=24)
    steps = np.diff(path(drawn), axis=0)
    # Chords of the circle are a little shorter than its arcs; with an even number of frames none
    # shows the bounce at its lowest.
    assert np.hypot(*steps.T).sum() == pytest.approx(drawn.travel, rel=0.01)


def test_an_object_that_would_leave_does_not_fit():
    assert fits(scene())
    assert not fits(scene(x=23.0))
    assert not fits(scene(size="large", travel=30.0))


def test_an_object_that_would_touch_the_second_does_not_fit():
    assert not fits(scene(second=StaticObject("ring", "blue", 31.0, 50.0)))
    assert fits(scene(size="small", y=16.0, second=StaticObject("ring", "blue", 31.0, 50.0)))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({}, "a red circle moving right on a plain background"),
        ({"size": "small"}, "a small red circle moving right on a plain background"),
        ({"motion": "bouncing"}, "a red circle bouncing on a plain background"),
        (
            {"size": "large", "shape": "ring", "second": StaticObject("square", "cyan", 9.0, 9.0)},
            "a large red ring moving right on a plain background beside a cyan square",
        ),
    ],
)
def test_captions(changes: dict, text: str):
    assert caption(scene(**changes)) == text


def test_the_caption_of_a_frame_leaves_the_motion_out():
    assert caption(scene(), motion=False) == "a red circle on a plain background"
    assert caption(scene(motion="circling"), motion=False) == "a red circle on a plain background"


def test_scenes_that_look_different_are_called_different():
    seconds = (None, StaticObject("ring", "cyan", 9.0, 9.0), StaticObject("ring", "blue", 9.0, 9.0))
    scenes = [
        scene(
            shape=shape,
            colour=colour,
            motion=motion,
            size=size,
            second=second,
            background=replace(PLAIN, pattern=pattern),
        )
        for shape, colour, motion, size, pattern, second in itertools.product(
            SHAPES, COLOURS, MOTIONS, RADII, BACKGROUNDS, seconds
        )
    ]
    assert len({caption(item) for item in scenes}) == len(scenes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shape": "star"}, "has no shape 'star'; it has circle, square, triangle, ring"),
        ({"colour": "pink"}, "has no colour 'pink'"),
        ({"motion": "jumping"}, "has no motion 'jumping'"),
        ({"size": "huge"}, "has no size 'huge'"),
        ({"background": replace(PLAIN, pattern="dotted")}, "has no background 'dotted'"),
        ({"frames": 1}, "has 2 to 32 frames, not 1"),
        ({"frames": 33}, "has 2 to 32 frames, not 33"),
        ({"texture": 1.5}, "takes 0 to 1 of the brightness, not 1.5"),
    ],
)
def test_what_the_world_does_not_have_is_refused(changes: dict, message: str):
    with pytest.raises(ValueError, match=message):
        scene(**changes)


def test_a_moving_camera_moves_the_backdrop_and_what_lies_on_it():
    moved = scene(pan=(14.0, -7.0), frames=8)
    np.testing.assert_allclose(np.diff(backdrop_path(moved), axis=0), [[2.0, -1.0]] * 7)
    np.testing.assert_array_equal(path(moved), path(scene(frames=8)))  # as seen on the canvas
    near = {"size": "small", "y": 16.0, "second": StaticObject("ring", "blue", 31.0, 50.0)}
    assert fits(scene(**near))
    assert not fits(scene(**near, pan=(0.0, -40.0)))  # it runs into the object
