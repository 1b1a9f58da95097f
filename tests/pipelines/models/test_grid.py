"""Masks on the latent grid: exact shares of covered area."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rescore.pipelines.models.grid import ClipGrid, latent_mask


def test_covered_area_by_hand():
    mask = torch.zeros(1, 4, 6)
    mask[0, 0, 0] = 1  # a quarter of the first latent pixel
    mask[0, 2:, 4:] = 1  # all of the last
    expected = torch.tensor([[0.25, 0, 0], [0, 0, 1]])
    assert torch.equal(latent_mask(mask, 1, 2, 3)[0, 0, 0], expected)


def test_one_mask_serves_all_frames_and_many_serve_their_own():
    masks = torch.rand(5, 11, 13)
    assert latent_mask(masks, 5, 3, 7).shape == (1, 1, 5, 3, 7)
    one = latent_mask(masks[:1], 5, 3, 7)
    assert torch.equal(one[0, 0, 0], one[0, 0, 4])
    assert not torch.equal(*latent_mask(masks, 5, 3, 7)[0, 0, :2])


@settings(max_examples=50, deadline=None)
@given(
    size=st.tuples(st.integers(1, 97), st.integers(1, 97)),
    grid=st.tuples(st.integers(1, 23), st.integers(1, 23)),
    point=st.tuples(st.floats(0, 0.999), st.floats(0, 0.999)),
)
def test_a_single_pixel_is_never_lost(size, grid, point):
    mask = torch.zeros(1, *size)
    mask[0, int(point[0] * size[0]), int(point[1] * size[1])] = 1
    assert latent_mask(mask, 1, *grid).max() > 0


@settings(max_examples=50, deadline=None)
@given(
    size=st.tuples(st.integers(1, 97), st.integers(1, 97)),
    grid=st.tuples(st.integers(1, 23), st.integers(1, 23)),
)
def test_full_and_empty_masks_stay_so(size, grid):
    full = latent_mask(torch.ones(1, *size), 2, *grid)
    torch.testing.assert_close(full, torch.ones(1, 1, 2, *grid))
    assert full.max() <= 1
    assert torch.equal(latent_mask(torch.zeros(1, *size), 2, *grid), torch.zeros(1, 1, 2, *grid))


def test_padding_of_the_clip_is_not_covered():
    """A clip of 12 x 20 pixels on a grid of 2 x 3 latents of 8 pixels fills 3/4 by 5/6 of it."""
    covered = latent_mask(torch.ones(1, 12, 20), 1, 2, 3, shown=(12 / 16, 20 / 24))[0, 0, 0]
    torch.testing.assert_close(covered, torch.tensor([[1, 1, 0.5], [0.5, 0.5, 0.25]]))


@pytest.mark.parametrize(
    ("mask", "sentence"),
    [
        (torch.zeros(4, 3, 3), "4 frames and the clip has 5"),
        (torch.full((1, 3, 3), -0.1), "outside 0..1"),
        (torch.full((1, 3, 3), float("nan")), "outside 0..1"),
    ],
)
def test_mistakes_are_told(mask, sentence):
    with pytest.raises(ValueError, match=sentence):
        latent_mask(mask, 5, 2, 2)


PADDED = ClipGrid((3, 2, 5), (7, 17), 4)  # of 8 x 20 pixels, 7 x 17 show the clip


def test_the_grid_of_latents_that_are_all_shown():
    grid = ClipGrid.of(torch.zeros(2, 4, 3, 5, 7))
    assert (grid.latent, grid.pixels, grid.frames, grid.shown) == ((3, 5, 7), (5, 7), 3, (1, 1))
    mask = torch.rand(3, 5, 7)
    torch.testing.assert_close(grid.covered(mask)[0, 0], mask)


def test_masks_lie_on_what_is_shown():
    assert PADDED.shown == (7 / 8, 17 / 20)
    mask = torch.rand(3, 7, 17)
    expected = latent_mask(mask, 3, 2, 5, shown=(7 / 8, 17 / 20))
    assert torch.equal(PADDED.covered(mask), expected)
    right = PADDED.covered(torch.ones(1, 7, 17))[0, 0, 0, 0]
    torch.testing.assert_close(right, torch.tensor([1, 1, 1, 1, 0.25]))
    assert PADDED.covered_tokens(mask, 1, 3).shape == (3, 3)


def test_a_map_comes_to_the_pixels_of_a_clip_that_was_padded():
    values = torch.rand(3, 2, 5)
    whole = ClipGrid((3, 2, 5), (8, 20), 4).on_pixels(values)
    assert whole.shape == (3, 8, 20)
    assert torch.equal(PADDED.on_pixels(values), whole[:, :7, :17])
    # The middle of a latent pixel of even width lies between two pixels.
    ramp = ClipGrid((1, 1, 2), (4, 8), 4).on_pixels(torch.tensor([[[0.0, 1.0]]]))
    assert ramp[0, 0].tolist() == [0, 0, 0.125, 0.375, 0.625, 0.875, 1, 1]


def test_cells_are_blocks_of_pixels():
    values = torch.rand(3, 2, 5)
    cells = PADDED.cells(values)
    assert cells.shape == (3, 7, 17)
    assert torch.equal(cells[:, 3::4, ::4], values[:, :1])
    assert torch.equal(cells[:, 6], values[:, 1].repeat_interleave(4, 1)[:, :17])


def test_latents_that_compress_time():
    """The first latent frame shows one picture, each later one four."""
    grid = ClipGrid((3, 1, 1), (1, 1), 1, stride=4)
    assert grid.frames == 9
    mask = torch.zeros(9, 1, 1)
    mask[2], mask[8] = 0.25, 0.75
    assert grid.covered(mask).flatten().tolist() == [0, 0.25, 0.75]
    assert grid.covered_tokens(mask, 1, 1).flatten().tolist() == [0, 0.25, 0.75]
    shown = grid.cells(torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1))
    assert shown.flatten().tolist() == [1, 2, 2, 2, 2, 3, 3, 3, 3]
    with pytest.raises(ValueError, match="mask has 3 frames and the clip has 9"):
        grid.covered(torch.zeros(3, 1, 1))


def test_a_clip_that_was_padded_at_its_end():
    """Three latent frames show nine pictures, of which the clip has seven."""
    grid = ClipGrid((3, 1, 1), (1, 1), 1, stride=4, pictures=7)
    assert (grid.frames, grid.padded_frames) == (7, 9)
    mask = torch.zeros(7, 1, 1)
    mask[3], mask[5] = 0.25, 0.75
    assert grid.covered(mask).flatten().tolist() == [0, 0.25, 0.75]
    mask = torch.zeros(7, 1, 1)
    mask[6] = 0.5  # the last picture, which the padding repeats
    assert grid.covered(mask).flatten().tolist() == [0, 0, 0.5]
    assert grid.covered(torch.ones(1, 1, 1)).flatten().tolist() == [1, 1, 1]
    shown = grid.cells(torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1))
    assert shown.flatten().tolist() == [1, 2, 2, 2, 2, 3, 3]
    with pytest.raises(ValueError, match="mask has 9 frames and the clip has 7"):
        grid.covered(torch.zeros(9, 1, 1))
