"""Boxes and points: written, chosen, drawn."""

import pytest
import torch
from rescore.pipelines.masks.boxes import (
    chosen_boxes,
    frames_with_boxes,
    listed,
    no_boxes,
    parse_box,
    parse_points,
)
from rescore.pipelines.masks.shapes import boxes_mask, drawn_over


def test_a_box_is_read():
    assert parse_box("2, 3, 5, 7") == (2, 3, 7, 10)
    assert parse_box(" 2 3  5.5 7, ") == (2, 3, 7.5, 10)
    assert parse_box("  ") is None


@pytest.mark.parametrize("text", ["2, 3, 5", "1, 2, 3, 4, 5", "a, b, c, d", "1, 2, nan, 4"])
def test_what_is_no_box_is_told(text):
    with pytest.raises(ValueError, match=r"is no box.*x, y, width, height, such as 120"):
        parse_box(text)


def test_a_box_without_area_is_told():
    with pytest.raises(ValueError, match=r"at 1, 2 is 0 wide and 4 high"):
        parse_box("1, 2, 0, 4")


def test_points_are_read():
    assert parse_points("2, 3; 5, 7") == ((2, 3), (5, 7))
    assert parse_points("2 3\n5.5,7;") == ((2, 3), (5.5, 7))
    assert parse_points("") == ()


@pytest.mark.parametrize("text", ["2", "2, 3, 5, 7", "2, x", "2, 3; inf, 1"])
def test_what_is_no_point_is_told(text):
    with pytest.raises(ValueError, match=r"is no point.*semicolon between points"):
        parse_points(text)


BOXES = torch.tensor(
    [[0.0, 0, 2, 3], [1, 1, 6, 6], [0, 0, 10, 10], [3, 3, 3, 9]]
)  # of areas 6, 25, 100, 0
SCORES = torch.tensor([0.5, 0.7, 0.4, 0.9])


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({"threshold": 0.4}, [1, 0, 2]),
        ({"threshold": 0.45}, [1, 0]),
        ({"threshold": 0.4, "best": True}, [1]),
        ({"threshold": 0.4, "largest": 0.25}, [1, 0]),
        ({"threshold": 0.4, "largest": 0.2, "best": True}, [0]),
        ({"threshold": 0.95}, []),
        ({"threshold": 0.95, "best": True}, []),
    ],
)
def test_boxes_are_chosen(options, kept):
    chosen = chosen_boxes(BOXES, SCORES, size=(10, 10), **options)
    assert torch.equal(chosen, BOXES[kept])


def test_frames_are_listed():
    assert listed([0, 1, 2, 5, 7, 8]) == "0 to 2, 5, 7 to 8"
    assert listed([]) == "none"
    boxes = [*no_boxes(2), BOXES, *no_boxes(1)]
    assert frames_with_boxes(boxes) == [2]


def test_boxes_are_drawn_pixel_by_pixel():
    boxes = [
        torch.tensor([[1.0, 0, 3, 2], [2.5, 1, 9, 2]]),  # the second is cut off on the right
        torch.zeros(0, 4),
    ]
    mask = boxes_mask(boxes, 3, 5)
    assert mask[0].tolist() == [[0, 1, 1, 0, 0], [0, 1, 1, 1, 1], [0, 0, 0, 0, 0]]
    assert float(mask[1].max()) == 0
    half = boxes_mask([torch.tensor([[0.5, 0, 2, 1]])], 1, 3)
    assert half.tolist() == [[[0.5, 1, 0]]]


def test_a_mask_is_drawn_over_a_clip():
    clip = torch.full((1, 3, 2, 5, 7), 0.5)
    mask = torch.zeros(2, 5, 7)
    mask[0, 2, 3] = 1
    drawn = drawn_over(clip, mask, (1.0, 0.0, 0.5), opacity=0.5, outline=1)
    assert drawn[0, :, 0, 2, 3].tolist() == [0.75, 0.25, 0.5]  # tint
    for row, column in ((1, 3), (3, 3), (2, 2), (2, 4)):  # line
        assert drawn[0, :, 0, row, column].tolist() == [1.0, 0.0, 0.5]
    assert drawn[0, 0, 0].eq(0.5).sum() == 5 * 7 - 5
    assert torch.equal(drawn[:, :, 1], clip[:, :, 1])
    assert float(clip.max()) == 0.5


def test_a_mask_of_another_size_is_stretched_over_every_frame():
    clip = torch.zeros(1, 3, 3, 4, 6)
    mask = torch.tensor([[[0.0, 1.0]]])
    drawn = drawn_over(clip, mask, (1.0, 1.0, 1.0), opacity=0.25, outline=0)
    assert torch.equal(drawn[..., 3:], torch.full((1, 3, 3, 4, 3), 0.25))
    assert torch.equal(drawn[..., :3], torch.zeros(1, 3, 3, 4, 3))
    with pytest.raises(ValueError, match="2 frames and the clip has 3"):
        drawn_over(clip, torch.zeros(2, 4, 6), (1.0, 1.0, 1.0))
