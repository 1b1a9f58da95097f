"""Mask shapes, by hand and against what they mean."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rescore.pipelines.masks.shapes import (
    bounding_boxes,
    box_mask,
    ellipse_mask,
    feather,
    grow,
)


def painted(*rows: str) -> torch.Tensor:
    return torch.tensor([[[float(c == "#") for c in row] for row in rows]])


def disc(height, width, y, x, a, b, angle=0.0):
    rows, columns = torch.meshgrid(torch.arange(height) - y, torch.arange(width) - x, indexing="ij")
    u = math.cos(angle) * columns + math.sin(angle) * rows
    v = -math.sin(angle) * columns + math.cos(angle) * rows
    return ((u / a) ** 2 + (v / b) ** 2 <= 1).float()[None]


def test_a_box_by_hand():
    expected = painted("......", ".##...", ".##...", "......", "......")
    assert torch.equal(box_mask(1, 5, 6, (1 / 6, 0.2, 0.5, 0.6)), expected)


def test_a_box_covers_its_share_of_the_picture():
    mask = box_mask(3, 7, 11, (0.13, 0.21, 0.77, 0.59))
    torch.testing.assert_close(mask.mean((1, 2)), torch.full((3,), 0.64 * 0.38))


def test_a_box_moves_evenly():
    mask = box_mask(3, 1, 10, (0.0, 0.0, 0.2, 1.0), (0.8, 0.0, 1.0, 1.0))
    assert torch.equal(mask[:, 0].argmax(1), torch.tensor([0, 4, 8]))


@pytest.mark.parametrize("box", [(0.5, 0, 0.5, 1), (0, 0.7, 1, 0.2), (-0.1, 0, 1, 1), (0, 0, 2, 1)])
def test_a_box_without_area_is_told(box):
    with pytest.raises(ValueError, match=r"^The box reaches"):
        box_mask(1, 5, 5, tuple(map(float, box)))
    with pytest.raises(ValueError, match=r"^The end box reaches"):
        box_mask(1, 5, 5, (0.0, 0.0, 1.0, 1.0), tuple(map(float, box)))


def test_the_box_around_a_mask():
    mask = painted("......", "..#...", "....#.", "......", "......")
    assert torch.equal(
        bounding_boxes(mask), painted("......", "..###.", "..###.", "......", "......")
    )
    assert torch.equal(
        bounding_boxes(mask, 1), painted(".#####", ".#####", ".#####", ".#####", "......")
    )
    assert torch.equal(bounding_boxes(torch.zeros(2, 3, 5), 9), torch.zeros(2, 3, 5))


@pytest.mark.parametrize("angle", [0.0, 0.4, 1.2])
def test_an_ellipse_stays_what_it_is(angle):
    mask = disc(61, 67, 28, 35, 23, 11, angle)
    changed = (ellipse_mask(mask) != mask).sum() / mask.sum()
    assert changed < 0.02


def test_every_part_gets_its_ellipse():
    """Two bars of 3 x 7 pixels: a part's ellipse bulges out in the middle of each side."""
    mask = torch.zeros(1, 31, 41)
    mask[0, 4:7, 3:10] = 1
    mask[0, 20:27, 30:33] = 1
    found = ellipse_mask(mask)
    assert bool((found >= mask).all())
    for rows in (slice(0, 15), slice(15, 31)):
        alone = torch.zeros(1, 31, 41)
        alone[0, rows] = mask[0, rows]
        assert torch.equal(ellipse_mask(alone)[0, rows], found[0, rows])
    # Semi-axes of a bar of length n: 2 sqrt(n^2 / 12) = n / sqrt(3).
    assert found[0, 5].sum() == 2 * math.floor(7 / math.sqrt(3)) + 1
    assert found[0, :15, 6].sum() == 2 * math.floor(3 / math.sqrt(3)) + 1


def test_the_arms_of_a_u_are_one_part():
    u = painted("#...#", "#...#", "#...#", "#####")
    apart = painted("#...#", "#...#", "#...#", ".....")
    assert ellipse_mask(u).sum() > ellipse_mask(apart).sum()


def test_masks_without_and_with_nothing_but_white():
    assert torch.equal(ellipse_mask(torch.zeros(2, 5, 7)), torch.zeros(2, 5, 7))
    assert torch.equal(ellipse_mask(torch.ones(2, 5, 7)), torch.ones(2, 5, 7))
    point = painted(".....", "..#..", ".....")
    assert torch.equal(ellipse_mask(point), point)


def test_growing_a_point():
    point = torch.zeros(1, 9, 9)
    point[0, 4, 4] = 1
    cross = painted(*["." * 9] * 3, "....#....", "...###...", "....#....", *["." * 9] * 3)
    assert torch.equal(grow(point, 1), cross)
    assert grow(point, 2).sum() == 21  # a cross with each of its points made a square of nine
    assert torch.equal(grow(point, 0), point)
    assert torch.equal(grow(cross, -1), point)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 7), st.integers(0, 1000))
def test_shrinking_is_growing_the_rest(pixels, seed):
    mask = torch.rand(2, 11, 13, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(grow(mask, -pixels), 1 - grow(1 - mask, pixels))
    assert bool((grow(mask, pixels) >= mask).all())


def test_feathering_keeps_what_is_even_and_the_middle_of_an_edge():
    for even in (torch.zeros(1, 7, 11), torch.ones(1, 7, 11)):
        torch.testing.assert_close(feather(even, 5.0), even)
    edge = torch.zeros(1, 9, 40)
    edge[..., 20:] = 1
    soft = feather(edge, 6.0)
    torch.testing.assert_close(soft[0, :, 19] + soft[0, :, 20], torch.ones(9))
    assert bool((soft[..., 1:] >= soft[..., :-1]).all())
    assert soft[0, 4, 8] == 0 and soft[0, 4, 31] > 0.9999
    assert torch.equal(feather(edge, 0.0), edge)


def test_feathering_wider_than_the_picture():
    soft = feather(painted("#....", "#...."), 50.0)
    assert soft.shape == (1, 2, 5)
    assert bool(torch.isfinite(soft).all())
