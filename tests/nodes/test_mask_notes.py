"""What nodes say of masks: on the node and in the log, in every run, whatever is cached."""

import logging
from fractions import Fraction

import pytest
import torch
from rescore.headless.video import VideoComponents
from rescore.headless.video_read import VideoFromFile
from rescore.headless.video_write import encode_mp4
from rescore.nodes import host

BLACK = torch.zeros(1, 21, 18)
NOTHING = "The mask is black everywhere. White is where the edit acts. Load Image gives a black"


@pytest.fixture
def told(monkeypatch, caplog):
    """`told()`: what the last node shows when its run has ended, which the log has said, too."""
    shown = []
    monkeypatch.setattr(host, "tell", shown.append)
    caplog.set_level(logging.WARNING, "rescore")

    def last() -> str:
        text = shown[-1]
        assert all(line in caplog.text for line in text.splitlines())
        shown.clear()
        caplog.clear()
        return text

    return last


@pytest.fixture
def dreammotion(run):
    """`dreammotion(mask)`: DreamMotion's terms, with the mask on delta denoising alone."""

    def make(mask):
        terms = run("ReScoreDeltaDenoising")[0]
        terms = run("ReScoreGradientMask", terms=terms, mask=mask)[0]
        terms = run("ReScoreSpatialSelfSimilarity", terms=terms, weight=1e4)[0]
        return run("ReScoreTemporalSelfSimilarity", terms=terms, weight=1e4)[0]

    return make


def test_dreammotion_under_a_black_mask_says_so_in_every_run(run, given, dreammotion, told):
    inputs = given("text-to-video")
    terms = dreammotion(BLACK)  # once: the host keeps what this node has given
    assert told() == "The mask is black everywhere: the terms before this node act nowhere."
    settings = {"steps": 3, "step_size": 0.4}
    for seed in (2, 3):
        edited = run("ReScoreScoreDistillation", **inputs, terms=terms, seed=seed, **settings)[0]
        # The terms that hold the source see two prompts and move it far enough to be seen.
        assert not torch.equal(edited["samples"], inputs["latent"]["samples"])
        text = told()
        assert text == f"The target prompt has had no say. {told_black(text)}"
    white = dreammotion(torch.ones(1, 21, 18))
    run("ReScoreScoreDistillation", **inputs, terms=white, **settings | {"step_size": 2.0})
    assert told() == ""


def told_black(text: str) -> str:
    assert NOTHING in text
    return text[text.index("The mask is black") :]


def test_a_mask_that_a_model_made_is_black_for_the_edit_too(run, given, dreammotion, told):
    inputs = given("text-to-video")
    found = run(
        "ReScoreMaskFromGradient", **inputs, terms=run("ReScoreDeltaDenoising")[0], level=1.0,
        threshold="level", timesteps=1, smooth=0.0,
    )[0]  # fmt: skip
    run("ReScoreScoreDistillation", **inputs, terms=dreammotion(found * 0), steps=2)
    assert NOTHING in told()


def test_terms_that_only_hold_the_source_are_told_though_they_move_it(run, given, told):
    inputs = given("text-to-video")
    terms = run("ReScoreSpatialSelfSimilarity", weight=1e4)[0]
    run("ReScoreScoreDistillation", **inputs, terms=terms, steps=3, step_size=0.4)
    assert "terms that took part only hold the source" in told()


def test_one_black_frame_among_white_ones_is_fine(run, given, told):
    mask = torch.ones(3, 21, 18)
    mask[1] = 0
    inputs = given("text-to-video")
    terms = run("ReScoreGradientMask", terms=run("ReScoreDeltaDenoising")[0], mask=mask)[0]
    assert told() == ""
    run("ReScoreScoreDistillation", **inputs, terms=terms, steps=2, step_size=5.0, mask=mask)
    assert told() == ""


def test_a_mask_of_a_few_pixels_is_told(run, given, told):
    mask = torch.zeros(1, 2100, 1800)
    mask[0, 700, 500] = 1
    inputs = given("text-to-video")
    terms = run("ReScoreDeltaDenoising")[0]
    run("ReScoreScoreDistillation", **inputs, terms=terms, steps=2, step_size=5.0, mask=mask)
    assert "The mask is tiny or faint: it covers at most" in told()


def test_sampling_under_a_black_mask(run, inverted, told):
    given = inverted()
    for _ in range(2):
        _, report = run("ReScoreAttentionControlledSampling", **given, mask=BLACK)
        text = told()
        assert "black everywhere: the edit reads all of the source" in text and text in report
    run("ReScoreAttentionControlledSampling", **given, mask=1 - BLACK, cfg=30.0)
    assert "black" not in told()


def test_guidance_under_a_black_mask(run, inverted, told):
    given = inverted()
    guidance = run("ReScoreDecoupledGuidance", mask=BLACK)[0]
    sentence = "The mask of the object is black: all of the clip counts as background."
    for _ in range(2):
        report = run(
            "ReScoreNullTextOptimisation", **given, guidance=guidance, cfg=3.0, inner_steps=1
        )[3]
        assert told() == sentence and sentence in report
    for masks in ({}, {"mask": 1 - BLACK}):
        guidance = run("ReScoreDecoupledGuidance", **masks)[0]
        run("ReScoreNullTextOptimisation", **given, guidance=guidance, cfg=3.0, inner_steps=1)
        assert told() == ""


@pytest.mark.parametrize(
    ("node", "inputs", "sentence"),
    [
        ("ReScoreEditBackground", {"mask": BLACK}, "The mask of the object is black"),
        ("ReScoreContentPreservation", {"edit_mask": BLACK}, "all of the clip is drawn back"),
    ],
)
def test_other_nodes_of_black_masks(run, told, node, inputs, sentence):
    run(node, **inputs)
    assert sentence in told()
    run(node, **{name: 1 - mask for name, mask in inputs.items()})
    assert told() == ""


@pytest.fixture
def video(tmp_path, clip):
    file = tmp_path / "clip.mp4"
    file.write_bytes(encode_mp4(VideoComponents(clip(3, 22, 18), Fraction(7))))
    return VideoFromFile(file)


TEXTS = {"source_prompt": "a red circle", "target_prompt": "a blue circle"}


def test_videos_under_a_black_mask(run, load, video, told, caplog):
    source = video.get_components().images
    edits = {
        "ReScoreEditVideo": {"model": load("text-to-video"), "video": video, **TEXTS, "steps": 2},
        "ReScoreEditVideoByInversion": {
            "model": load("animatediff"), "video": video, **TEXTS, "steps": 3
        },
    }  # fmt: skip
    for node, inputs in edits.items():
        for _ in range(2):
            images = run(node, **inputs, mask=BLACK)[1]
            assert caplog.text.count("black everywhere") == 1, node
            assert NOTHING in told(), node
            assert torch.equal(images, source)
    images = run("ReScoreEditedVideo", source=video, images=1 - source, mask=BLACK)[1]
    assert told() == "The mask is black everywhere: every pixel is the clip's own."
    assert torch.equal(images, source)


def test_a_small_spot_of_a_large_mask_is_not_lost(run, video):
    source = video.get_components().images
    mask = torch.zeros(1, 220, 180)
    mask[0, 103, 77] = 1
    images = run("ReScoreEditedVideo", source=video, images=1 - source, mask=mask)[1]
    changed = (images != source).any(dim=3).nonzero()
    assert changed[:, 0].unique().tolist() == [0, 1, 2]
    assert (changed[:, 1:] - torch.tensor([10, 7])).abs().max() <= 1
    region = run("ReScoreCropToRegion", images=source, mask=mask, width=16, height=16)[2]
    assert region.mask.any()


BAD = {
    "not a number": (torch.full((1, 5, 7), torch.nan), "from nan to nan"),
    "below 0": (torch.full((1, 5, 7), -0.5), "from -0.5 to -0.5"),
    "above 1": (torch.full((3, 5, 7), 1.5), "from 1.5 to 1.5"),
    "one pixel": (torch.ones(3, 5, 7).index_fill(1, torch.tensor(2), torch.inf), "from 1 to inf"),
    "bytes": (torch.full((1, 5, 7), 255, dtype=torch.uint8), "from 255 to 255"),
    "empty": (torch.zeros(1, 0, 7), "The mask is empty"),
    "none": (torch.zeros(0, 5, 7), "The mask is empty"),
    "a picture": (torch.zeros(1, 5, 7, 3), "a MASK of"),
}


@pytest.mark.parametrize("bad", BAD)
def test_masks_that_are_none_are_refused_wherever_they_go(run, clip, video, bad):
    mask, sentence = BAD[bad]
    images, terms = clip(3, 22, 18), run("ReScoreDeltaDenoising")[0]
    pair = {"source": images, "edited": 1 - images}
    for node, inputs in {
        "ReScoreBoundingBoxMask": {"mask": mask},
        "ReScoreEllipseMask": {"mask": mask},
        "ReScoreGrowFeatherMask": {"mask": mask},
        "ReScoreEditBackground": {"mask": mask},
        "ReScoreGradientMask": {"mask": mask, "terms": terms},
        "ReScoreContentPreservation": {"edit_mask": mask},
        "ReScoreDecoupledGuidance": {"mask": mask},
        "ReScoreCropToRegion": {"mask": mask, "images": images},
        "ReScoreShowMask": {"mask": mask, "images": images},
        "ReScoreEditedVideo": {"mask": mask, "source": video, "images": images},
        "ReScoreEditVideo": {"mask": mask, "video": video, "model": None, **TEXTS, "steps": 1},
        "ReScoreEditVideoByInversion": {"mask": mask, "video": video, "model": None, **TEXTS},
        "ReScoreMotionFidelity": {"mask": mask, **pair},
    }.items():
        with pytest.raises(ValueError, match=sentence):
            run(node, **inputs)


@pytest.mark.parametrize("node", ["ReScoreEditVideo", "ReScoreEditVideoByInversion"])
def test_a_mask_of_another_length_is_refused_before_anything_runs(run, video, node):
    with pytest.raises(ValueError, match="mask has 2 frames and the clip has 3"):
        run(node, mask=torch.ones(2, 5, 7), video=video, model=None, **TEXTS)


def test_a_noise_mask_is_told_by_every_node_that_takes_latents(run, given, told):
    image = given("image")
    masked = {**image["latent"], "noise_mask": torch.ones(3, 21, 18)}
    terms = run("ReScoreDeltaDenoising")[0]
    inflated = run("ReScoreInflateImageModel", model=image["model"])[0]
    of_image = {**image, "latent": masked}
    nodes = {
        "ReScoreScoreDistillation": {**of_image, "terms": terms, "steps": 2, "step_size": 3.0},
        "ReScoreASSDStep": {**of_image, "terms": terms},
        "ReScoreInspectGradient": {**of_image, "terms": terms},
        "ReScoreMaskFromGradient": {**of_image, "terms": terms, "timesteps": 1},
        "ReScoreMaskFromWords": {**of_image, "timesteps": 1},
        "ReScoreDDIMInversion": {**of_image, "steps": 2},
        "ReScoreResampleClip": {**of_image, "steps": 2, "strength": 1.0, "window": 0, "overlap": 0},
        "ReScoreOneShotTune": {**of_image, "model": inflated, "steps": 1},
        "ReScoreCovariateShift": {**of_image, "model": inflated, "timesteps": 1},
    }
    for node, inputs in nodes.items():
        for _ in range(2):
            run(node, **inputs)
            assert "The latent has a noise mask (Set Latent Noise Mask)" in told(), node
        run(node, **{**inputs, "latent": image["latent"]})
        assert told() == "", node
