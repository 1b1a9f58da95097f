"""The nodes that make masks with a model, as the host runs them."""

import pytest
import torch
from tiny_mask_models import write_tiny_grounding_dino, write_tiny_sam2

FRAMES, HEIGHT, WIDTH = 3, 37, 53


@pytest.fixture(scope="module")
def models(model_folders):
    write_tiny_grounding_dino(model_folders / "grounding-dino" / "tiny", seed=1)
    write_tiny_sam2(model_folders / "sam2" / "tiny", seed=3)


@pytest.fixture
def detector(run, models):
    return run("ReScoreLoadGroundingDino", folder="tiny")[0]


@pytest.fixture
def tracker(run, models):
    return run("ReScoreLoadSam2", folder="tiny")[0]


@pytest.fixture
def images(clip):
    return clip(FRAMES, HEIGHT, WIDTH)


def test_boxes_of_every_frame(run, detector, images):
    given = {"detector": detector, "images": images, "prompt": "a red circle", "threshold": 0.1}
    mask, boxes, report = run("ReScoreMaskFromPrompt", **given, which="all")
    assert mask.shape == (FRAMES, HEIGHT, WIDTH)
    assert len(boxes) == FRAMES and all(len(found) > 1 for found in boxes)
    assert "boxes in frames 0 to 2" in report
    for frame, found in zip(mask, boxes, strict=True):
        left, top, right, bottom = found[0].tolist()
        inside = frame[int(top + 1) : int(bottom), int(left + 1) : int(right)]
        assert torch.equal(inside, torch.ones_like(inside))
    best, one_each, _ = run("ReScoreMaskFromPrompt", **given)
    assert [len(found) for found in one_each] == [1] * FRAMES
    assert all(torch.equal(a[:1], b) for a, b in zip(boxes, one_each, strict=True))
    assert bool((best <= mask).all())


def test_boxes_of_one_frame_hold_for_all(run, detector, images):
    mask, boxes, _ = run(
        "ReScoreMaskFromPrompt", detector=detector, images=images, prompt="dog", threshold=0.0,
        look_at="one frame", key_frame=1,
    )  # fmt: skip
    assert [len(found) for found in boxes] == [0, 1, 0]
    assert torch.equal(mask[0], mask[1]) and torch.equal(mask[2], mask[1])
    with pytest.raises(ValueError, match="key_frame is 3, and the clip has frames 0 to 2"):
        run(
            "ReScoreMaskFromPrompt", detector=detector, images=images, prompt="dog",
            look_at="one frame", key_frame=3,
        )  # fmt: skip


def test_nothing_found_is_told(run, detector, images):
    with pytest.raises(ValueError, match=r'fits "a cat": the surest box.*Lower the threshold'):
        run(
            "ReScoreMaskFromPrompt", detector=detector, images=images, prompt="a cat", threshold=1.0
        )


@pytest.mark.parametrize(
    "pointed",
    [
        {"box": "7, 5, 24, 24"},
        {"points": "11, 13; 17, 19", "negative_points": "41, 3"},
        {"box": "7, 5, 24, 24", "points": "11, 13"},
    ],
)
def test_what_is_pointed_at_is_followed(run, tracker, images, pointed):
    mask, report = run("ReScoreMaskThroughClip", tracker=tracker, images=images, frame=1, **pointed)
    assert mask.shape == (FRAMES, HEIGHT, WIDTH)
    assert set(mask.unique().tolist()) == {0.0, 1.0}
    assert "of 0 to 2" in report


def test_boxes_on_the_wire_are_followed_each_by_itself(run, tracker, images):
    boxes = (
        torch.zeros(0, 4),
        torch.tensor([[7.0, 5, 31, 29], [30, 3, 50, 30]]),
        torch.zeros(0, 4),
    )
    given = {"tracker": tracker, "images": images, "frame": 1}
    both, _ = run("ReScoreMaskThroughClip", **given, boxes=boxes)
    apart = [
        run("ReScoreMaskThroughClip", **given, boxes=(boxes[0], boxes[1][i : i + 1], boxes[2]))[0]
        for i in range(2)
    ]
    assert torch.equal(both, torch.maximum(*apart))
    by_hand, _ = run("ReScoreMaskThroughClip", **given, box="7, 5, 24, 24")
    assert torch.equal(by_hand, apart[0])


@pytest.mark.parametrize(
    ("inputs", "sentence"),
    [
        ({}, "Nothing is pointed at. Fill in box or points"),
        ({"negative_points": "3, 4"}, "Nothing is pointed at"),
        ({"box": "1, 2, 3"}, "is no box"),
        ({"points": "1; 2"}, "is no point"),
        ({"box": "1, 2, 3, 4", "frame": 3}, "Frame 3 was asked for"),
        ({"boxes": (torch.zeros(0, 4),) * 2}, "clip of 2 frames, and this one has 3"),
        (
            {"boxes": (torch.zeros(0, 4), torch.ones(1, 4), torch.ones(1, 4))},
            "Frame 0 has no box. Choose one that has: 1 to 2",
        ),
    ],
)
def test_mistakes_are_told(run, tracker, images, inputs, sentence):
    with pytest.raises(ValueError, match=sentence):
        run("ReScoreMaskThroughClip", tracker=tracker, images=images, **inputs)


@pytest.mark.parametrize(
    ("node", "name"),
    [
        ("ReScoreLoadGroundingDino", "grounding-dino-tiny"),
        ("ReScoreLoadSam2", "sam2.1-hiera-small"),
    ],
)
def test_without_a_model_the_error_has_the_command(run, monkeypatch, tmp_path, node, name):
    import rescore

    monkeypatch.setenv("RESCORE_MODELS", str(tmp_path))
    (choices, _) = rescore.NODE_CLASS_MAPPINGS[node].INPUT_TYPES()["required"]["folder"]
    assert choices[0].startswith("(nothing found: put a model into models/")
    node = rescore.NODE_CLASS_MAPPINGS[node]()
    with pytest.raises(ValueError, match=rf"downloads {name}: .*fetch\.py {name} --into"):
        node.load(choices[0])
    with pytest.raises(ValueError, match="outside the model folders"):
        node.load("../../elsewhere")


@pytest.fixture(params=["text-to-video", "image", "animatediff"])
def scene(request, given):
    """Model, prompts and latents of a clip that does not fill its latents."""
    texts = {"source_prompt": "a red circle", "target_prompt": "a blue circle"}
    return given(request.param, **texts)


def test_a_mask_from_words(run, scene):
    mask, seen, report = run("ReScoreMaskFromWords", **scene, words="red circle")
    assert mask.shape == (3, 21, 18) and seen.shape == (3, 21, 18, 3)
    assert set(mask.unique().tolist()) == {0.0, 1.0}
    assert (float(seen.min()), float(seen.max())) == (0, 1)
    assert torch.equal(mask, (seen[..., 0] > 0.5).float())
    assert f"White: {100 * float(mask.mean()):.1f} % of the clip" in report
    again = run("ReScoreMaskFromWords", **scene, words=" red,circle ")[1]
    assert torch.equal(again, seen)
    other = run("ReScoreMaskFromWords", **scene, words="blue", prompt="target")[1]
    assert not torch.allclose(other, seen, atol=1e-3)


def test_words_that_are_not_there_are_told(run, scene):
    with pytest.raises(ValueError, match=r'"blue" is not in the prompt. Its words are: a, red, ci'):
        run("ReScoreMaskFromWords", **scene, words="red, blue")
    with pytest.raises(ValueError, match="is no word"):
        run("ReScoreMaskFromWords", **scene, words=" , ")


def test_a_mask_from_the_gradient(run, scene):
    terms = run("ReScoreDeltaDenoising")[0]
    given = {**scene, "terms": terms, "timesteps": 2}
    mask, energy, _ = run("ReScoreMaskFromGradient", **given, threshold="quantile", quantile=0.75)
    assert mask.shape == (3, 21, 18) and energy.shape == (3, 21, 18, 3)
    assert float(mask.mean()) == pytest.approx(0.25, abs=0.01)
    per_frame = run(
        "ReScoreMaskFromGradient", **given, threshold="quantile", quantile=0.75, per_frame=True
    )[0]
    assert per_frame.mean(dim=(1, 2)).tolist() == pytest.approx([0.25] * 3, abs=0.01)


def test_a_gradient_of_nothing_is_told(run, given, clip):
    same = given("image", clip(1), source_prompt="a circle", target_prompt="a circle")
    terms = run("ReScoreDeltaDenoising")[0]
    with pytest.raises(ValueError, match=r"same everywhere.*prompt may be equal"):
        run("ReScoreMaskFromGradient", **same, terms=terms, timesteps=1, cfg=1.0)


def test_a_mask_is_shown_on_its_clip(run, images):
    mask = torch.zeros(FRAMES, HEIGHT, WIDTH)
    mask[:, 5:9, 7:20] = 1
    shown = run("ReScoreShowMask", images=images, mask=mask, colour="white")[0]
    assert shown.shape == images.shape
    assert torch.equal(shown[:, 20:], images[:, 20:])
    assert torch.equal(shown[:, 4, 7:20], torch.ones(FRAMES, 13, 3))
