"""An edit that nobody would see says so, with its cause; one that is seen says nothing."""

import logging

import pytest
import torch
from rescore.attention.mutual import SourceLayout
from rescore.nodes import host
from rescore.pipelines.models.codec import decode_video, encode_video
from rescore.pipelines.unchanged import VISIBLE, moved, why_not_sampled
from rescore.shapeworld.edits import edited
from rescore.shapeworld.models import load_shapeworld
from rescore.shapeworld.showcase import SHOWCASE

SAME = "a red circle moving right on a plain background"
PROMPTS = {
    "source_prompt": SAME,
    "target_prompt": "a blue circle moving right on a plain background",
}


@pytest.fixture
def told(monkeypatch):
    """What nodes show, in the order in which they say it."""
    texts = []
    monkeypatch.setattr(host, "tell", texts.append)
    return texts


@pytest.fixture
def edit(run, load, clip, caplog, told):
    """`edit(...)`: what Score Distillation tells of an edit; it must be in the log, too."""

    def make(terms=None, prompts=PROMPTS, **settings):
        model = load("text-to-video")
        pair, _ = run("ReScoreEncodePromptPair", model=model, **prompts)
        latent = run("ReScoreVideoVAEEncode", model=model, images=clip())[0]
        inputs = {"steps": 2, "cfg": 3.0, "step_size": 0.5} | settings
        caplog.clear()
        with caplog.at_level(logging.WARNING, "rescore"):
            run(
                "ReScoreScoreDistillation",
                model=model,
                prompts=pair,
                latent=latent,
                terms=run("ReScoreDeltaDenoising")[0] if terms is None else terms,
                **inputs,
            )
        text = told[-1]
        assert not text or text in caplog.messages
        return text

    return make


def test_an_edit_that_is_seen_says_nothing(edit):
    assert edit(step_size=5.0, cfg=9.0) == ""


@pytest.mark.parametrize(
    ("settings", "cause"),
    [
        ({"steps": 0}, "No step was made"),
        ({"step_size": 0.0}, "step_size is 0"),
        ({"mask": torch.zeros(1, 42, 36)}, "The mask is black everywhere"),
        ({"prompts": PROMPTS | {"target_prompt": SAME}}, "encode alike"),
        ({"cfg": 0.0}, "cfg is 0"),
        ({"t_min": 0.0, "t_max": 0.02, "step_size": 1e-4}, "t_max is 0.02"),
        ({"t_min": 0.99, "t_max": 1.0, "step_size": 1e-4}, "t_min is 0.99"),
        ({"step_size": 1e-4}, "The steps are too small: 2 of 0.0001. Raise step_size or steps, by"),
    ],
)
def test_an_edit_that_is_not_seen_says_why(edit, settings, cause):
    told = edit(**settings)
    assert told.startswith("Next to nothing has changed. ") and cause in told


def test_terms_without_weight_are_told(run, edit):
    assert "weights are 0" in edit(run("ReScoreDeltaDenoising", weight=0.0)[0])


def test_terms_whose_time_is_no_step_are_told(run, edit):
    assert "leave them no step" in edit(run("ReScoreDeltaDenoising", start=0.9, end=0.95)[0])


def test_terms_that_only_hold_the_source_are_told(run, edit):
    terms = run("ReScoreContentPreservation")[0]
    assert "Nothing leads to the target prompt" in edit(terms)


def test_masks_of_terms_that_leave_nothing_are_told(run, edit):
    left, right = torch.zeros(1, 21, 18), torch.zeros(1, 21, 18)
    left[..., :4], right[..., -4:] = 1, 1
    terms = run("ReScoreDeltaDenoising")[0]
    for mask in (left, right):
        terms = run("ReScoreGradientMask", terms=terms, mask=mask)[0]
    assert "(Gradient Mask) leave nothing" in edit(terms)


def test_the_step_that_is_told_makes_the_edit_visible(edit, told):
    small = edit(step_size=0.001)
    factor = int(small.split(" times ")[0].split()[-1])
    told.clear()
    assert edit(step_size=0.001 * 2 * factor) == ""


def test_a_step_of_many_says_nothing_of_its_size(run, load, clip, told):
    model = load("text-to-video")
    given = {
        "model": model,
        "prompts": run("ReScoreEncodePromptPair", model=model, **PROMPTS)[0],
        "latent": run("ReScoreVideoVAEEncode", model=model, images=clip())[0],
        "terms": run("ReScoreDeltaDenoising")[0],
    }
    run("ReScoreASSDStep", step_size=0.001, **given)
    run(
        "ReScoreASSDStep",
        step_size=0.001,
        **given | {"terms": run("ReScoreDeltaDenoising", weight=0.0)[0]},
    )
    _, *steps = told  # the first is of the encoder
    one, other = steps[1::2]  # what is told at the end
    assert one == "" and "weights are 0" in other


@pytest.fixture
def sampled(run, load, clip, told):
    """`sampled(...)`: what Attention-Controlled Sampling tells, and its report."""

    def make(target=SAME, **settings):
        model = load("animatediff")
        pair = run(
            "ReScoreEncodePromptPair", model=model, source_prompt=SAME, target_prompt=target
        )[0]
        latent = run("ReScoreVideoVAEEncode", model=model, images=clip(3, 16, 16))[0]
        known = {"model": model, "prompts": pair}
        path = run("ReScoreDDIMInversion", **known, latent=latent, steps=40, cfg=1.0)[0]
        defaults = {"cfg": 1.0, "layout_control": False, "background_control": False}
        defaults["prompt_control"] = "off"
        report = run(
            "ReScoreAttentionControlledSampling", **known, trajectory=path, **defaults | settings
        )[1]
        text = told[-1]
        assert text in report
        return text

    return make


def test_sampling_with_equal_prompts_is_told(sampled):
    assert "encode alike" in sampled()


def test_sampling_another_prompt_that_is_seen_says_nothing(sampled):
    assert sampled(PROMPTS["target_prompt"]) == ""


@pytest.mark.parametrize(
    ("cfg", "end", "cause"),
    [
        (0, 1.0, "cfg is 0"),
        (7, 1.0, "SA-I (layout) holds the source in every step"),
        (7, 0.5, "too weak"),
    ],
)
def test_sampling_that_finds_the_source_again_says_why(cfg, end, cause):
    z = torch.randn(1, 4, 2, 3, 5, generator=torch.Generator().manual_seed(0))
    told = why_not_sampled(z, z.clone(), [SourceLayout(end)], False, cfg, 10)
    assert cause in told
    assert why_not_sampled(z + 1, z, [SourceLayout(end)], False, cfg, 10) == ""


def test_one_move_of_a_latent_is_measured_in_the_clips_contrast():
    source = torch.tensor([1.0, -1.0]).repeat(26).reshape(1, 2, 2, 13, 1)
    z = source.clone()
    z[0, :, 1, 7, 0] += torch.tensor([3.0, -4.0])
    expected = (12.5**0.5) / float(source.std())
    assert moved(z, source) == pytest.approx(expected)


def test_what_counts_as_visible_is_a_few_levels_of_a_pixel():
    model = load_shapeworld("shapeworld-t2v")
    clip = edited(SHOWCASE["red_circle"]).source.clip.permute(3, 0, 1, 2)[None]
    with torch.no_grad():
        z = encode_video(clip, model.encode_frames, model.vae_factor, frames_per_chunk=8)
        noise = torch.randn(z.shape, generator=torch.Generator().manual_seed(0))
        noise /= noise.square().mean(dim=1, keepdim=True).sqrt()
        noise[..., :6], noise[..., 8:] = 0, 0
        noise[..., :6, :], noise[..., 8:, :] = 0, 0
        both = [
            decode_video(latents, model.decode_frames, size=(64, 64), frames_per_chunk=8)
            for latents in (z, z + VISIBLE * z.std() * noise)
        ]
    assert 2 < float((both[1] - both[0]).abs().max()) * 255 < 8
