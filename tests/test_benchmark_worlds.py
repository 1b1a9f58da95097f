"""The worlds in which claims are tried are what they say, and so are the verdicts."""

import numpy as np
import pytest
import torch
from rescore.shapeworld.edits import edited
from rescore.shapeworld.render import render
from rescore.shapeworld.scene import backdrop_path, path
from rescore.shapeworld.score import estimate, score

pytestmark = pytest.mark.usefixtures("benchmarks_on_the_path")

NAMES = ("slow", "textured", "camera", "weak model", "usual")


@pytest.mark.parametrize("name", NAMES)
def test_everything_moves_by_whole_pixels_and_the_truth_is_read(name: str):
    from worlds_rows import DIRECTIONS, WORLDS, edit_of

    world, seen = WORLDS[name], set()
    for clip in range(6):
        edit = edit_of(name, clip)
        ahead = np.array(DIRECTIONS[edit.source.motion])
        for side in (edit.source, edit.target):
            np.testing.assert_allclose(np.diff(path(side), axis=0), [world.speed * ahead] * 7)
            np.testing.assert_allclose(
                np.diff(backdrop_path(side), axis=0), [-world.run * ahead] * 7
            )
        found = score(edited(edit).target.clip, edit)
        assert found.hit and found.iou == 1 and found.flicker < 1e-6
        assert world.run == 0 or edit.source.background.pattern == "checker"
        seen.add(edit.source)
    assert len(seen) == 6


def test_how_far_an_object_strays():
    from worlds import strays
    from worlds_rows import edit_of

    target = edit_of("usual", 0).target
    truth = render(target).clip
    assert strays(truth, target) < 0.05
    # Standing still where the middle of its way is: a path of 21 pixels in 8 even steps.
    extent = 3 * np.sqrt((8**2 - 1) / 12)
    still = truth[4:5].expand(8, -1, -1, -1)
    assert strays(still, target) == pytest.approx(extent, abs=0.05)
    assert strays(torch.full_like(truth, 0.5), target) == pytest.approx(extent)  # not seen
    assert strays(truth.flip(0), target) == pytest.approx(2 * extent, abs=0.05)


def test_the_weak_model_is_trained_a_little_and_once(tmp_path, monkeypatch):
    import worlds_rows

    monkeypatch.setattr(worlds_rows, "RUNS", tmp_path)
    monkeypatch.setattr(worlds_rows, "TRAINED_ON", 11)
    monkeypatch.setitem(worlds_rows.WORLDS, "weak model", worlds_rows.World(trained=2))
    worlds_rows.video_model.cache_clear()
    found = worlds_rows.errors("weak model", 0)
    trained = worlds_rows.barely_trained(2) / "unet" / "diffusion_pytorch_model.safetensors"
    written = trained.stat().st_mtime_ns
    worlds_rows.video_model.cache_clear()
    assert worlds_rows.errors("weak model", 0) == found
    assert trained.stat().st_mtime_ns == written  # not trained again
    worlds_rows.video_model.cache_clear()
    assert all(len(errors) == len(worlds_rows.LEVELS) for errors in found.values())
    # At 0.5 of the schedule and after two steps it is worse than what was trained to the end.
    assert found["here"][2] > 1.5 * found["the video model"][2]


@pytest.mark.parametrize(
    ("changes", "figure", "said"),
    [
        ([-1.0, -1.2, -0.9, -1.1], "flicker", "holds"),
        ([-1.0, -1.2, -0.9, -1.1], "iou", "the contrary"),
        ([1.0, -1.0, 0.5, -0.4], "iou", "within chance"),
        (
            [0.0, 1.0, 1.0, 2.0],
            "iou",
            "within chance",
        ),  # 2.4 standard errors: of 4 clips not enough
        ([0.0, 0.0, 0.0, 0.0], "hit", "within chance"),
        ([-1.0, -1.1, -0.9], "flicker", "too few clips"),
    ],
)
def test_a_verdict_needs_clips_and_more_than_chance(changes: list, figure: str, said: str):
    from worlds import verdict

    assert verdict(estimate(changes), figure) == said


def test_a_claim_is_summed_up_over_its_worlds():
    from worlds import summary

    assert summary({"slow": "holds", "usual": "holds"}) == "holds"
    assert summary({"slow": "holds", "usual": "within chance"}) == "holds only where: slow"
    assert summary({"slow": "the contrary", "usual": "within chance"}) == "does not hold here"
    assert summary({"slow": "within chance"}) == "not beyond chance here"
    open_ = {"slow": "holds", "usual": "not measured"}
    assert summary(open_) == "holds (not measured yet: usual)"
    assert summary({"slow": "too few clips"}) == "not measured on enough clips"


def test_what_a_claim_compares_is_computed_and_told(tmp_path, monkeypatch):
    import worlds
    from kept import Kept, compute

    names = {f"{world} | {row}" for world in worlds.WORLDS for row in worlds.needed(world)}
    for claim in worlds.CLAIMS:
        for world in claim.worlds:
            assert {f"{world} | {claim.without}", f"{world} | {claim.having}"} <= names
    monkeypatch.setattr(worlds, "REPORT", tmp_path)
    kept = Kept(tmp_path / "figures.json", {})
    compute(kept, worlds.measured, [("camera | no edit", 0)], jobs=1)
    alone = kept.figures["camera | no edit"]["0"]
    assert alone["hit"] == 0 and alone["strays"] < 1 and set(alone) == set(worlds.COLUMNS)
    for row, contamination in (("DDS", 0.030), ("+ mask", 0.010)):
        for clip in range(4):
            kept.add(f"camera | {row}", clip, alone | {"contamination": contamination})
    page = "\n".join(worlds.report(kept))
    assert (
        "| camera | DDS to + mask | change outside the object, x 1000 | 4 | -20.0 ± 0.0 |" in page
    )
    assert (tmp_path / "worlds.png").exists()
