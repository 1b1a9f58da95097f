"""Scores at their extremes, and each figure where it can be worked out by hand."""

import math
from dataclasses import replace

import pytest
import torch
from rescore.shapeworld.edits import ATTRIBUTES, Edit, change_attribute, edited, suite
from rescore.shapeworld.render import render
from rescore.shapeworld.scene import Background, Scene
from rescore.shapeworld.score import Scores, flicker, psnr, score, summarise, warp

GREY = Background("plain", ((0.4, 0.4, 0.4), (0.7, 0.7, 0.7)))


def all_edits() -> list[Edit]:
    return [edit for name in ATTRIBUTES for edit in suite(name, 3)]


@pytest.fixture
def edit() -> Edit:
    """A red square becomes blue while it moves two pixels a frame to the right."""
    source = Scene("square", "red", "right", GREY, 31.0, 33.0, 14.0)
    return Edit(source, change_attribute(source, "colour", "blue"), "colour")


def test_the_truth_scores_all_that_can_be_scored():
    for edit in all_edits():
        found = score(edited(edit).target.clip, edit)
        assert found.flicker < 1e-6
        assert replace(found, flicker=0.0) == Scores(
            psnr_edit=math.inf,
            psnr_keep=math.inf,
            hit=True,
            kept=1.0,
            lost=(),
            flicker=0.0,
            iou=1.0,
            contamination=0.0,
        )


def test_the_source_misses_the_edit_and_keeps_the_rest():
    for edit in all_edits():
        clips = edited(edit)
        found = score(clips.source.clip, edit)
        error = ((clips.source.clip - clips.target.clip)[clips.change].double() ** 2).mean()
        assert found.psnr_edit == pytest.approx(-10 * math.log10(error))
        assert found.psnr_edit < 20
        assert not found.hit
        assert (found.psnr_keep, found.kept, found.lost) == (math.inf, 1.0, ())
        assert found.contamination == 0
        if edit.attribute in ("shape", "size", "motion"):
            assert found.iou < 0.95
        else:
            assert found.iou > 0.9


def test_contamination_and_keep_see_what_lies_outside(edit: Edit):
    clips = edited(edit)
    clip = clips.target.clip.clone()
    clip[~clips.paint] += 0.03
    found = score(clip, edit)
    assert found.contamination == pytest.approx(0.03, rel=1e-4)
    assert found.psnr_keep == pytest.approx(-20 * math.log10(0.03), rel=1e-4)
    assert (found.psnr_edit, found.hit, found.kept) == (math.inf, True, 1.0)


def test_spoiling_the_object_itself_is_no_contamination():
    """What both shapes cover must be kept, yet a user would have painted over it."""
    (edit,) = suite("shape", 1)
    clips = edited(edit)
    clip = clips.target.clip.clone()
    clip[clips.paint & clips.keep] += 0.03
    found = score(clip, edit)
    assert found.contamination == 0
    assert 30 < found.psnr_keep < 60
    assert found.psnr_edit == math.inf


def test_another_attribute_lost_on_the_way_is_named(edit: Edit):
    wrong = replace(edit.target, shape="circle", background=replace(GREY, pattern="checker"))
    found = score(render(wrong).clip, edit)
    assert found.hit
    assert found.lost == ("shape", "background")
    assert found.kept == 0.5


def test_an_object_that_vanished_overlaps_nothing(edit: Edit):
    empty = torch.full_like(edited(edit).target.clip, 0.4)
    found = score(empty, edit)
    assert (found.hit, found.iou, found.kept) == (False, 0.0, 0.25)
    assert found.lost == ("shape", "size", "motion")


def test_flicker_is_the_change_along_the_true_flow(edit: Edit):
    truth = render(edit.target)
    assert flicker(truth.clip, truth) == 0
    brightness = 0.01 * torch.tensor([0, 1, 0, 1, 0, 1, 0, 1.0])
    flickering = truth.clip + brightness[:, None, None, None]
    assert flicker(flickering, truth) == pytest.approx(0.01, rel=1e-3)
    # An object that stands still while the true one moves on flickers where they part.
    assert flicker(truth.clip[:1].expand(8, -1, -1, -1), truth) > 0.002
    # A still picture of the backdrop does not flicker at all.
    assert flicker(torch.full_like(truth.clip, 0.4), truth) == 0


def test_psnr_by_hand():
    clip, truth = torch.zeros(2, 3, 5, 3), torch.zeros(2, 3, 5, 3)
    where = torch.zeros(2, 3, 5, dtype=torch.bool)
    where[1, 2, :2] = True
    clip[1, 2, 0] = 0.2  # mean squared error 0.04 / 2
    clip[0] = 1.0  # not looked at
    assert psnr(clip, truth, where) == pytest.approx(-10 * math.log10(0.02))
    with pytest.raises(ValueError, match="mask of the PSNR is empty"):
        psnr(clip, truth, torch.zeros_like(where))


def test_warp_by_hand():
    images = torch.arange(2 * 1 * 3 * 5.0).reshape(2, 1, 3, 5)
    flow = torch.zeros(2, 2, 3, 5)
    flow[1, 0, 1, 1], flow[1, 1, 1, 1] = 2.0, -1.0  # two to the right, one up
    flow[1, 0, 2, 2] = 0.25
    flow[1, 0, 0, 4] = 3.0  # beyond the border: the border
    expected = images.clone()
    expected[1, 0, 1, 1] = images[1, 0, 0, 3]
    expected[1, 0, 2, 2] = 0.75 * images[1, 0, 2, 2] + 0.25 * images[1, 0, 2, 3]
    torch.testing.assert_close(warp(images, flow), expected)


def test_a_summary_is_means_with_standard_errors():
    def scores(value: float, hit: bool) -> Scores:
        return Scores(20 + value, math.inf, hit, 0.75, ("size",), value, 0.5, 0.0)

    found = summarise([scores(1.0, True), scores(2.0, False), scores(6.0, True)])
    assert list(found) == [
        "psnr_edit", "psnr_keep", "hit", "kept", "flicker", "iou", "contamination",
    ]  # fmt: skip
    assert found["psnr_edit"] == (23.0, pytest.approx(math.sqrt(7 / 3)), 3)
    assert found["hit"] == (pytest.approx(2 / 3), pytest.approx(1 / 3), 3)
    assert found["kept"] == (0.75, 0.0, 3)
    assert found["psnr_keep"].mean == math.inf and math.isnan(found["psnr_keep"].error)
    single = summarise([scores(1.0, True)])["flicker"]
    assert single.mean == 1.0 and math.isnan(single.error)
    with pytest.raises(ValueError, match="at least one clip"):
        summarise([])


def test_a_clip_of_another_length_is_refused(edit: Edit):
    with pytest.raises(ValueError, match=r"is \[7, 64, 64, 3\], but its truth is \[8, 64, 64, 3\]"):
        score(edited(edit).target.clip[:7], edit)


def test_the_truth_does_not_flicker_before_a_moving_camera():
    backdrop = Background("checker", ((0.3, 0.3, 0.3), (0.7, 0.7, 0.7)))
    settings = {"x": 32.5, "y": 32.5, "travel": 7.0, "pan": (-14.0, 7.0), "texture": 0.3}
    truth = render(Scene("circle", "red", "right", backdrop, **settings))
    assert flicker(truth.clip, truth) < 1e-6
    noise = torch.randn(truth.clip.shape, generator=torch.Generator().manual_seed(0))
    assert flicker(truth.clip + 0.1 * noise, truth) > 0.05
