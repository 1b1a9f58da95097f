"""Attention-Controlled Sampling as the host runs it."""

import pytest
import torch

OFF = {"layout_control": False, "background_control": False, "prompt_control": "off"}


def sample(run, given, **inputs):
    return run("ReScoreAttentionControlledSampling", **given, **{"cfg": 3.0, **inputs})


@pytest.mark.parametrize("kind", ["text-to-video", "image", "animatediff"])
def test_an_edit_for_every_kind_of_model(run, inverted, kind):
    given = inverted(kind, steps=4)
    mask = torch.zeros(2, 5, 9)
    mask[:, 2:4, 3:6] = 1
    latent, report = sample(run, given, mask=mask, word_weights="blue: 2")
    assert "SA-I (layout): steps 1 to 1." in report
    assert "SA-II (background): steps 2 to 4." in report
    assert "Prompt control: steps 1 to 3." in report
    edited = run("ReScoreVideoVAEDecode", model=given["model"], latent=latent)[0]
    assert edited.shape == (2, 12, 14, 3)
    off, report = sample(run, given, **OFF)
    assert report.splitlines() == ["4 steps.", "No control: plain DDIM sampling."]
    assert not torch.equal(off["samples"], latent["samples"])


def test_controls_come_by_wire(run, inverted):
    given = inverted(steps=4)
    fusion = run("ReScoreAttentionFusion", layers=2, weight=0.6)[0]
    latent, report = sample(run, given, controls=fusion, **OFF)
    assert report.splitlines()[1:] == ["Attention fusion: steps 1 to 4."]
    assert not torch.equal(latent["samples"], sample(run, given, **OFF)[0]["samples"])
    again = run("ReScoreAttentionFusion", layers=2, weight=0.5, controls=fusion)[0]
    one = run("ReScoreAttentionFusion", layers=2, weight=0.3)[0]
    twice, once = (sample(run, given, controls=c, **OFF)[0]["samples"] for c in (again, one))
    torch.testing.assert_close(twice, once, rtol=1e-4, atol=1e-4)


def test_identical_prompts_reconstruct(run, inverted, texts):
    """A mask hides nothing then: an edit that changes no word has no region of its own."""
    given = inverted(target_prompt=texts["source_prompt"])
    latent, report = sample(run, given, cfg=1.0, mask=torch.ones(2, 5, 9))
    assert "this reconstructs the clip" in report
    found = run("ReScoreReconstruct", **given, cfg=1.0)[0]
    clip = given["trajectory"].trajectory.latents[0, 0].transpose(0, 1)
    clip = clip / given["model"].scaling_factor
    errors = [float((x["samples"] - clip).square().mean()) for x in (latent, found)]
    assert errors[0] <= 1.1 * errors[1]


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (None, "The mask is missing: the edit reads all of the source"),
        (torch.zeros(1, 5, 9), "The mask is black everywhere: the edit reads all of the source"),
        (torch.ones(2, 5, 9), "white everywhere"),
        (torch.ones(1, 1, 1), "white everywhere"),
    ],
)
def test_masks_without_and_with_nothing_but_white_are_told(run, inverted, mask, words):
    given = inverted("image")
    latent, report = sample(run, given, **({} if mask is None else {"mask": mask}))
    assert words in report
    assert bool(torch.isfinite(latent["samples"]).all())


def test_a_mask_of_other_frames_is_refused(run, inverted):
    with pytest.raises(ValueError, match="mask has 3 frames and the clip has 2"):
        sample(run, inverted("image"), mask=torch.ones(3, 5, 9))


@pytest.mark.parametrize(
    ("inputs", "sentence"),
    [
        ({"word_weights": "wolf: 2"}, '"wolf" is not in the prompt. Its words are: a, blue'),
        ({"word_weights": "blue 2"}, "is no weight of a word"),
        ({"word_weights": "blue: 2", "prompt_control": "off"}, "prompt control, which is off"),
        ({"tau_s": 1.5}, r"SA-I \(layout\) acts from 0% to 150% of the steps"),
        ({"tau_c": -0.5}, "Prompt control acts from 0% to -50% of the steps"),
        ({"background_sites": "nowhere.*"}, "matches no"),
    ],
)
def test_mistakes_are_told(run, inverted, inputs, sentence):
    with pytest.raises(ValueError, match=sentence):
        sample(run, inverted("image"), **inputs)


def test_words_are_swapped_one_for_one_only(run, inverted):
    assert sample(run, inverted("image"), prompt_control="swap")
    longer = inverted("image", target_prompt="a large blue circle moving right on a background")
    shorter = inverted("image", target_prompt="a circle")
    assert sample(run, longer, prompt_control="refine")
    with pytest.raises(ValueError, match="has 9 words and the target prompt 2"):
        sample(run, shorter, prompt_control="swap")


@pytest.mark.parametrize(("source", "target"), [("", "circle"), ("circle", "square")])
def test_empty_and_one_word_prompts(run, inverted, source, target):
    given = inverted("image", source_prompt=source, target_prompt=target)
    latent, _ = sample(run, given)
    assert bool(torch.isfinite(latent["samples"]).all())


def test_a_word_beyond_the_window(run, inverted):
    long = "a red circle " + "beside a red circle " * 9 + "on a green background"
    given = inverted("image", target_prompt=long)
    with pytest.raises(ValueError, match="stands beyond the part of the prompt"):
        sample(run, given, word_weights="green: 2")
    assert sample(run, given, word_weights="circle: 2")


def test_another_trajectory_or_model_is_refused(run, load, inverted):
    given = inverted("image")
    with pytest.raises(ValueError, match="made with another model"):
        sample(run, {**given, "model": load("animatediff")})
    other = inverted("image", source_prompt="a green square")
    with pytest.raises(ValueError, match="inverted with the prompt"):
        sample(run, {**given, "prompts": other["prompts"]})
