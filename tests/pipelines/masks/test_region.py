"""The region of an edit: where it lies, what is cut out, and what comes back."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rescore.pipelines.masks.region import cut, cut_mask, find_region, paste

FRAMES, HEIGHT, WIDTH = 3, 47, 71
CLIP = (FRAMES, HEIGHT, WIDTH)


def clip(seed: int = 0, height: int = HEIGHT, width: int = WIDTH) -> torch.Tensor:
    return torch.rand(1, 3, FRAMES, height, width, generator=torch.Generator().manual_seed(seed))


def white(*boxes: tuple[int, int, int, int]) -> torch.Tensor:
    """Masks with one white box each: (top, down, left, right), both ends included."""
    masks = torch.zeros(len(boxes), HEIGHT, WIDTH)
    for mask, (top, down, left, right) in zip(masks, boxes, strict=True):
        mask[top : down + 1, left : right + 1] = 1
    return masks


def test_the_box_holds_the_white_of_every_frame_with_its_margin():
    masks = white((20, 24, 30, 37), (22, 27, 33, 39), (21, 21, 30, 30))
    region = find_region(masks, CLIP, size=(64, 64), margin=0.5, multiple=8)
    # Rows 20 to 27 and columns 30 to 39 with 5 on each side; the shape is square.
    assert (region.rows, region.columns) == (slice(14, 34), slice(25, 45))
    assert region.size == (64, 64)
    assert torch.equal(region.mask, masks[:, 14:34, 25:45])


def test_a_box_at_the_border_is_moved_into_the_clip():
    region = find_region(white((0, 9, 61, 70)), CLIP, size=(32, 32), margin=0.5, multiple=8)
    assert (region.rows, region.columns) == (slice(0, 20), slice(51, 71))
    assert region.mask.shape == (FRAMES, 20, 20)


def test_where_the_clip_ends_the_shape_is_another_and_the_pixels_as_many():
    region = find_region(white((2, 44, 30, 40)), CLIP, size=(24, 96), margin=0.0, multiple=4)
    assert (region.rows, region.columns) == (slice(2, 45), slice(0, 71))
    height, width = region.size
    assert height / width == pytest.approx(43 / 71, rel=0.1)
    assert height * width == pytest.approx(24 * 96, rel=0.1)


@given(
    top=st.integers(0, 46), left=st.integers(0, 70), down=st.integers(0, 46),
    across=st.integers(0, 70), margin=st.floats(0, 3), height=st.integers(16, 700),
    width=st.integers(16, 700), multiple=st.sampled_from([1, 8, 32]),
)  # fmt: skip
def test_every_box_lies_in_the_clip_and_holds_the_mask(
    top, left, down, across, margin, height, width, multiple
):
    masks = white((top, min(46, top + down), left, min(70, left + across)))
    region = find_region(masks, CLIP, size=(height, width), margin=margin, multiple=multiple)
    assert 0 <= region.top and region.rows.stop <= HEIGHT
    assert 0 <= region.left and region.columns.stop <= WIDTH
    assert region.mask.shape[1:] == (
        region.rows.stop - region.rows.start, region.columns.stop - region.columns.start
    )  # fmt: skip
    assert region.mask[0].sum() == masks.sum()
    assert all(side % multiple == 0 and side > 0 for side in region.size)


def test_a_mask_of_another_size_is_fitted_and_grey_counts():
    small = torch.zeros(1, 5, 7)
    small[0, 2, 3] = 0.2
    region = find_region(small, (FRAMES, 35, 49), size=(8, 8), margin=0.0)
    assert (region.rows, region.columns) == (slice(14, 21), slice(21, 28))


def test_what_was_not_edited_comes_back_exactly():
    masks = white((13, 30, 20, 47))
    region = find_region(masks, CLIP, size=(18, 28), margin=0.0, multiple=1)
    source = clip()
    assert region.size == region.mask.shape[1:] == (18, 28)
    box = cut(source, region)
    assert torch.equal(box, source[..., 13:31, 20:48])
    assert torch.equal(paste(box, source, region), source)


@pytest.mark.parametrize("feather", [0.0, 3.0, 500.0])
@pytest.mark.parametrize("match_colours", [False, True])
def test_where_the_mask_is_black_every_pixel_is_the_sources(feather, match_colours):
    masks = white((13, 20, 20, 31), (15, 22, 24, 37), (14, 14, 30, 30))
    region = find_region(masks, CLIP, size=(40, 56))
    source = clip()
    edited = torch.rand(1, 3, FRAMES, *region.size)
    result = paste(edited, source, region, feather=feather, match_colours=match_colours)
    black = (masks == 0).expand(3, -1, -1, -1)
    assert torch.equal(result[0][black], source[0][black])
    changed = (result != source).any(dim=1)[0]
    assert bool(changed.flatten(1).any(dim=1).all()), "an edit has vanished"


def test_a_hard_edge_takes_the_whole_edit():
    masks = white((13, 20, 20, 31))
    region = find_region(masks, CLIP, size=(32, 32), multiple=1, margin=0.0)
    source, edited = clip(), torch.full((1, 3, FRAMES, *region.size), 0.25)
    result = paste(edited, source, region, feather=0, match_colours=False)
    assert (result[..., 13:21, 20:32] - 0.25).abs().max() < 1e-6


def test_colours_are_matched_around_the_mask():
    """A shift by one colour in all frames, which no edit has made, is taken out again."""
    masks = white((13, 20, 20, 31))
    region = find_region(masks, CLIP, size=(26, 26), multiple=1)
    source = 0.2 + 0.5 * clip()
    shift = torch.tensor([0.07, -0.05, 0.03])[:, None, None, None]
    edited = source[..., region.rows, region.columns] + shift
    region_as_is = paste(edited, source, region, feather=0, match_colours=False)
    assert (region_as_is - source).abs().max() == pytest.approx(0.07, abs=1e-5)
    assert (paste(edited, source, region, feather=0) - source).abs().max() < 1e-6


def test_the_way_there_and_back_keeps_a_smooth_picture():
    rows, columns = torch.linspace(0, 1, HEIGHT)[:, None], torch.linspace(0, 1, WIDTH)
    source = (rows * columns).expand(1, 3, FRAMES, -1, -1).clone()
    region = find_region(white((13, 30, 20, 47)), CLIP, size=(96, 112))
    back = paste(cut(source, region), source, region)
    assert (back - source).abs().max() < 2e-3
    assert cut_mask(region).shape == (FRAMES, *region.size)


def test_what_does_not_fit_is_told():
    with pytest.raises(ValueError, match="black everywhere, so there is nothing to cut out"):
        find_region(torch.zeros(1, HEIGHT, WIDTH), CLIP, size=(8, 8))
    with pytest.raises(ValueError, match="The mask has 2 frames and the clip has 3"):
        find_region(torch.ones(2, HEIGHT, WIDTH), CLIP, size=(8, 8))
    region = find_region(white((13, 20, 20, 31)), CLIP, size=(32, 32))
    with pytest.raises(ValueError, match=r"has 3 frames of 71 x 48, and the region .* 71 x 47"):
        cut(clip(height=48), region)
    edited = torch.rand(1, 3, 5, *region.size)
    with pytest.raises(ValueError, match="The clips differ: 3 frames of"):
        paste(edited, clip(), region)
