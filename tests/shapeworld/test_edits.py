"""Edits change one thing, their masks are exact, and their suites never change."""

import json
import runpy
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rescore.shapeworld.edits import (
    ATTRIBUTES,
    HELD_OUT_SEEDS,
    SPLITS,
    SUITES,
    Edit,
    change_attribute,
    edited,
    prompts,
    second_object,
    suite,
    value_of,
)
from rescore.shapeworld.render import render
from rescore.shapeworld.scene import (
    BACKGROUNDS,
    COLOURS,
    MOTIONS,
    RADII,
    SHAPES,
    StaticObject,
    fits,
    path,
    sample_scene,
    travel_range,
)

VALUES = {
    "colour": tuple(COLOURS),
    "shape": SHAPES,
    "background": BACKGROUNDS,
    "size": tuple(RADII),
    "motion": MOTIONS,
}
GOLDEN = Path(__file__).with_name("golden.py")


def edits(split: str = "test") -> list[Edit]:
    """Ten edits of each attribute."""
    return [edit for name in ATTRIBUTES for edit in suite(name, 10, frames=5, split=split)]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from(ATTRIBUTES), st.data())
def test_a_change_changes_one_attribute(seed: int, attribute: str, data: st.DataObject):
    source = sample_scene(seed)
    value = data.draw(st.sampled_from(VALUES[attribute]))
    target = change_attribute(source, attribute, value)
    assert value_of(target, attribute) == value
    others = [name for name in ATTRIBUTES if name != attribute]
    assert [value_of(target, n) for n in others] == [value_of(source, n) for n in others]
    # And back: nothing else was touched on the way.
    back = change_attribute(target, attribute, value_of(source, attribute))
    assert back.travel == pytest.approx(source.travel)
    assert replace(back, travel=source.travel) == source


def test_a_new_background_keeps_its_colours_and_place():
    source = sample_scene(3)
    target = change_attribute(source, "background", "gradient")
    assert replace(source.background, pattern="gradient") == target.background


@pytest.mark.parametrize("motion", MOTIONS)
def test_a_new_motion_is_as_fast_for_its_kind(motion: str):
    shortest, longest = travel_range(motion)
    source = replace(sample_scene(3), motion="right")
    for share in (0.0, 0.3, 1.0):
        at = replace(source, travel=16 + share * 10)  # straight motions run 16 to 26 pixels
        target = change_attribute(at, "motion", motion)
        assert target.travel == pytest.approx(shortest + share * (longest - shortest))
        assert (target.x, target.y) == (source.x, source.y)


@pytest.mark.parametrize("split", SPLITS)
def test_both_sides_of_every_edit_fit_and_differ_in_the_attribute_alone(split: str):
    for edit in edits(split):
        assert fits(edit.source) and fits(edit.target)
        value = value_of(edit.target, edit.attribute)
        assert value != value_of(edit.source, edit.attribute)
        assert change_attribute(edit.source, edit.attribute, value) == edit.target
        if edit.attribute != "motion":
            assert (path(edit.source) == path(edit.target)).all()


def test_an_object_never_takes_the_colour_of_the_second():
    """A caption could no longer tell them apart."""
    seconds = [edit for edit in suite("colour", 120) if edit.target.second is not None]
    assert len(seconds) > 20
    assert all(edit.target.second.colour != edit.target.colour for edit in seconds)


def test_masks_share_out_the_pixels_exactly():
    for edit in edits():
        clips = edited(edit)
        assert clips.change.shape == clips.keep.shape == clips.paint.shape == (5, 64, 64)
        assert torch.equal(clips.keep, ~clips.change)
        assert clips.change.any() and clips.keep.any()
        source, target = render(edit.source), render(edit.target)
        assert torch.equal(clips.source.clip, source.clip)
        assert torch.equal(clips.target.clip, target.clip)
        # What is kept is equal to the last bit, so putting the source back there is harmless.
        assert torch.equal(
            torch.where(clips.keep[..., None], source.clip, target.clip), target.clip
        )
        assert (source.clip != target.clip).any(-1)[clips.change].all()
        assert not (clips.change & ~clips.paint).any()
        assert torch.equal(clips.object_mask, (source.coverage + target.coverage) > 0)
        assert (clips.source_prompt, clips.target_prompt) == (source.caption, target.caption)
        assert clips.source_prompt != clips.target_prompt


def test_a_colour_edit_changes_all_that_the_object_touches():
    for edit in suite("colour", 8, frames=3):
        clips = edited(edit)
        assert torch.equal(clips.change, clips.source.coverage > 0)
        assert torch.equal(clips.paint, clips.change)


def test_a_shape_edit_keeps_what_both_shapes_cover():
    for edit in suite("shape", 8, frames=3):
        clips = edited(edit)
        assert torch.equal(clips.change, clips.source.coverage != clips.target.coverage)


def test_a_background_is_painted_up_to_both_objects():
    source = replace(
        sample_scene(5, frames=3, second=False),
        size="small",
        motion="right",
        travel=16.0,
        x=40.0,
        y=44.0,
        second=StaticObject("square", "cyan", 14.0, 14.0),
    )
    assert fits(source)
    source = change_attribute(source, "background", "plain")
    clips = edited(Edit(source, change_attribute(source, "background", "checker"), "background"))
    assert not clips.paint[clips.source.coverage == 1].any()
    assert not clips.paint[:, 10:18, 10:18].any()  # well inside the square
    outside = clips.source.coverage < 1
    outside[:, 5:23, 5:23] = False
    assert clips.paint[outside].all()


@pytest.mark.parametrize("name", SUITES)
def test_a_shorter_suite_is_the_beginning_of_a_longer_one(name: str):
    assert suite(name, 7) == suite(name, 23)[:7]
    assert suite(name, 0) == []


def test_suites_go_round_their_attributes_and_values_evenly():
    mixed = suite("edits", 72)
    assert [edit.attribute for edit in mixed[:4]] == ["colour", "shape", "background", "colour"]
    for attribute in ("colour", "shape", "background"):
        own = [edit for edit in mixed if edit.attribute == attribute]
        assert own == suite(attribute, 24)
        counts = Counter(value_of(edit.target, attribute) for edit in own)
        assert counts == {value: 24 // len(VALUES[attribute]) for value in VALUES[attribute]}
    chosen = suite("edits", 6, attributes=("size", "motion"))
    assert [edit.attribute for edit in chosen] == ["size", "motion"] * 3
    assert chosen[::2] == suite("size", 3)


def test_suites_and_training_have_no_scene_in_common():
    tune = [edit.source for edit in edits("tune")]
    test = [edit.source for edit in edits("test")]
    held_out = prompts(50, frames=5)
    training = [sample_scene(HELD_OUT_SEEDS + index, frames=5) for index in range(50)]
    scenes = [*tune, *test, *held_out, *training]
    assert len(set(scenes)) == len(scenes)


def test_every_seed_of_the_largest_suites_is_held_out(monkeypatch: pytest.MonkeyPatch):
    """The last edit of each largest suite draws from its own split, below the training seeds."""
    from rescore.shapeworld import edits as module

    seeds: list[int] = []

    def spy(seed: int, *, frames: int):
        seeds.append(seed)
        return sample_scene(seed, frames=frames)

    monkeypatch.setattr(module, "sample_scene", spy)
    for split, first in (("test", 0), ("tune", 1 << 28)):
        seeds.clear()
        for attribute in ATTRIBUTES:
            module._edit(attribute, 0, 5, split)
            module._edit(attribute, module._LARGEST_SUITE - 1, 5, split)
        assert first <= min(seeds) and max(seeds) + 256 <= first + (1 << 28)


def test_prompts_are_held_out_scenes():
    assert prompts(3) == prompts(5)[:3]
    assert all(scene.second is None for scene in prompts(9, second=False))
    assert all(scene.second is not None for scene in prompts(9, second=True))
    assert prompts(1, frames=16)[0].frames == 16


def test_suites_are_the_same_for_ever():
    """Figures can only be compared if everybody measures on the same edits."""
    golden = runpy.run_path(str(GOLDEN))
    assert golden["digests"]() == json.loads(golden["FILE"].read_text("utf-8"))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: suite("colours", 1), "There is no suite 'colours'; there are edits, colour"),
        (lambda: suite("edits", 1, split="train"), "no split 'train'; there are test and tune"),
        (lambda: suite("edits", 1, attributes=("hue",)), r"\['hue'\] was asked for"),
        (lambda: suite("edits", 1, attributes=()), r"\[\] was asked for"),
        (lambda: suite("edits", -1), "has 0 to 209715 edits, not -1"),
        (lambda: prompts(-1), "0 to 536870912 held-out prompts, not -1"),
        (lambda: Edit(sample_scene(1), sample_scene(1), "hue"), "not 'hue'"),
        (lambda: second_object(sample_scene(1, second=False)), "no second object to remove"),
    ],
)
def test_what_is_not_there_is_refused(call, message: str):
    with pytest.raises(ValueError, match=message):
        call()


def test_without_its_second_object_a_clip_changes_where_that_was_and_nowhere_else():
    for scene in prompts(5, frames=5, second=True):
        both, at = second_object(scene), scene.second
        assert torch.equal(both.present.clip, render(scene).clip)
        assert "beside" in both.present.caption and "beside" not in both.absent.caption
        rows, columns = both.change.any(dim=0).nonzero().T
        reach = 1.25 * RADII[at.size] + 1
        assert float((columns + 0.5 - at.x).abs().max()) <= reach
        assert float((rows + 0.5 - at.y).abs().max()) <= reach
        assert (both.present.clip == both.absent.clip)[~both.change].all()
        assert both.change.any(dim=(1, 2)).all()
