"""One edit through all shells, for every kind of model, inside inference mode as in the host."""

import logging
from dataclasses import replace

import pytest
import torch

KINDS = ("text-to-video", "image", "animatediff")


@pytest.fixture
def edit(run, given):
    """`edit(kind, images)`: the latent of the source, what the loop gave, and the edited IMAGE."""

    def make(kind, images=None, **settings):
        inputs = given(kind, images)
        settings = {"steps": 2, "cfg": 3.0, "step_size": 0.5} | settings
        terms = run("ReScoreDeltaDenoising")[0]
        loop = run("ReScoreScoreDistillation", **inputs, terms=terms, **settings)
        edited = run("ReScoreVideoVAEDecode", model=inputs["model"], latent=loop[0])[0]
        return inputs["latent"], loop, edited

    return make


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("frames", "height", "width"), [(3, 21, 18), (1, 16, 16)])
def test_the_edited_clip_has_the_size_of_the_source(edit, clip, kind, frames, height, width):
    images = clip(frames, height, width)
    before = images.clone()
    latent, loop, edited = edit(kind, images)
    assert edited.shape == images.shape
    assert edited.dtype == torch.float32
    assert edited.min() >= 0 and edited.max() <= 1
    assert not torch.equal(loop[0]["samples"], latent["samples"])
    assert torch.equal(images, before)
    assert len(loop[2]["loss"]) == 2 and all(loss > 0 for loss in loop[2]["loss"])


def test_the_latent_is_one_that_the_host_can_use(run, load, clip):
    model = load("text-to-video")
    latent = run("ReScoreVideoVAEEncode", model=model, images=clip(3, 16, 24))[0]
    pixels = clip(3, 16, 24).permute(0, 3, 1, 2) * 2 - 1
    unscaled = model.vae.encode(pixels).latent_dist.mean
    torch.testing.assert_close(latent["samples"], unscaled, rtol=0, atol=1e-5)
    without_our_keys = {"samples": latent["samples"]}
    decoded = run("ReScoreVideoVAEDecode", model=model, latent=without_our_keys)[0]
    assert decoded.shape == (3, 16, 24, 3)


@pytest.mark.parametrize("masks", [1, 3], ids=["one mask", "one per frame"])
def test_outside_the_mask_the_latents_are_the_source_bit_for_bit(edit, load, masks):
    mask = torch.zeros(masks, 42, 36)
    mask[:, :20, :16] = 1
    latent, loop, _ = edit("text-to-video", mask=mask)
    factor, z, source = load("text-to-video").vae_factor, loop[0]["samples"], latent["samples"]
    assert torch.equal(z[..., 12 // factor :, :], source[..., 12 // factor :, :])
    assert not torch.equal(
        z[..., : 8 // factor, : 8 // factor], source[..., : 8 // factor, : 8 // factor]
    )


def test_two_runs_equal_one(run, given):
    common = {**given("text-to-video"), "terms": run("ReScoreDeltaDenoising")[0]}
    whole = run("ReScoreScoreDistillation", steps=5, **common)
    first = run("ReScoreScoreDistillation", steps=3, **common)
    then = run("ReScoreScoreDistillation", steps=2, state=first[1], **common)
    assert torch.equal(whole[0]["samples"], then[0]["samples"])
    assert whole[2] == then[2]


def test_terms_join_and_masks_multiply(run):
    terms = run("ReScoreDeltaDenoising", weight=0.5, start=0.25)[0]
    terms = run("ReScoreGradientMask", terms=terms, mask=torch.ones(1, 3, 5))[0]
    both = run("ReScoreDeltaDenoising", terms=terms)[0]
    again = run("ReScoreGradientMask", terms=both, mask=torch.ones(7, 3, 5))[0]
    assert [(entry.weight, entry.start, len(entry.masks)) for entry in both] == [
        (0.5, 0.25, 1),
        (1.0, 0.0, 0),
    ]
    assert [len(entry.masks) for entry in again] == [2, 1]


def test_clips_side_by_side(run, clip):
    wide = run("ReScoreCompareClips", source=clip(), edited=clip())[0]
    tall = run(
        "ReScoreCompareClips", source=clip(), edited=clip(), layout="one above the other", gap=6
    )[0]
    assert wide.shape == (3, 21, 40, 3)
    assert tall.shape == (3, 48, 18, 3)
    assert torch.equal(wide[:, :, :18], clip()) and torch.equal(tall[:, 27:], clip())
    assert (wide[:, :, 18:22] == 1).all()
    with pytest.raises(ValueError, match="3 frames of 18 x 21 and 2 frames of 18 x 21"):
        run("ReScoreCompareClips", source=clip(), edited=clip(2))


def test_grey_and_alpha_clips(run, load, clip, caplog):
    model = load("text-to-video")
    grey = run("ReScoreVideoVAEEncode", model=model, images=clip(2, 16, 16, 1))[0]
    spread = clip(2, 16, 16, 1).expand(-1, -1, -1, 3)
    same = run("ReScoreVideoVAEEncode", model=model, images=spread)[0]
    torch.testing.assert_close(grey["samples"], same["samples"])
    with caplog.at_level(logging.WARNING):
        alpha = run("ReScoreVideoVAEEncode", model=model, images=clip(2, 16, 16, 4))[0]
    assert "drops the alpha" in caplog.text
    opaque = run("ReScoreVideoVAEEncode", model=model, images=clip(2, 16, 16, 4)[..., :3])[0]
    torch.testing.assert_close(alpha["samples"], opaque["samples"])


def test_prompts_that_deserve_a_word(run, load, caplog):
    model = load("text-to-video")
    long = "a red circle moving right on a plain background beside " * 5
    with caplog.at_level(logging.WARNING):
        _, report = run(
            "ReScoreEncodePromptPair", model=model, source_prompt="", target_prompt=long
        )
        assert "the model does not see" in report and "the model does not see" in caplog.text
        _, report = run(
            "ReScoreEncodePromptPair", model=model, source_prompt="a", target_prompt="a "
        )
    assert "next to nothing" in report
    with pytest.raises(ValueError, match="target prompt is empty"):
        run("ReScoreEncodePromptPair", model=model, source_prompt="a", target_prompt=" ")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"mask": torch.ones(2, 5, 5)}, "mask has 2 frames and the clip has 3"),
        ({"mask": torch.full((1, 5, 5), 2.0)}, "outside 0..1"),
        ({"mask": torch.zeros(1, 1, 5, 5)}, "a MASK of"),
        ({"t_min": 0.9, "t_max": 0.1}, "must not exceed"),
    ],
)
def test_mistakes_are_told(edit, change, sentence):
    with pytest.raises(ValueError, match=sentence):
        edit("text-to-video", **change)


def test_zero_steps_and_no_guidance(edit):
    latent, loop, _ = edit("text-to-video", steps=0)
    assert torch.equal(loop[0]["samples"], latent["samples"])
    for cfg in (0.0, 1.0):
        _, _, edited = edit("text-to-video", cfg=cfg)
        assert torch.isfinite(edited).all()


def test_clips_that_are_none(run, load, clip):
    model = load("text-to-video")
    broken = clip().clone()
    broken[1, 2, 3, 0] = float("nan")
    for images, sentence in (
        (clip(0), "no frames"),
        (clip()[0], "IMAGE of"),
        (broken, "NaN or infinite pixels in frames 0 to 2"),
    ):
        with pytest.raises(ValueError, match=sentence):
            run("ReScoreVideoVAEEncode", model=model, images=images)


def test_prompts_of_another_model_are_refused(run, given):
    inputs = given("text-to-video")
    prompts = inputs["prompts"]
    narrow = type(prompts.embeddings)(*(e[..., :-1] for e in prompts.embeddings))
    with pytest.raises(ValueError, match="same model's text encoder"):
        run(
            "ReScoreScoreDistillation",
            **inputs | {"prompts": replace(prompts, embeddings=narrow)},
            terms=run("ReScoreDeltaDenoising")[0],
            steps=1,
        )


@pytest.mark.parametrize(
    ("prompt", "found", "advice"),
    [
        ("a (red:1.3) circle", "(red:1.3)", "weigh no words"),
        ("a ((red)) circle", "((red)", "weigh no words"),
        ("a circle, embedding:EasyNegative", "embedding:EasyNegative", "no embedding is loaded"),
        ("a {red|blue} circle", "{red|blue}", "no choice is made here"),
        ("a circle <lora:shapes:0.8>", "<lora:shapes:0.8>", "no LoRA is loaded"),
    ],
)
@pytest.mark.parametrize("name", ["source", "target", "negative"])
def test_what_the_hosts_prompts_understand_is_told(run, load, caplog, name, prompt, found, advice):
    prompts = {"target_prompt": "a circle", f"{name}_prompt": prompt}
    with caplog.at_level(logging.WARNING):
        _, report = run("ReScoreEncodePromptPair", model=load("image"), **prompts)
    line = f'In the {name} prompt, "{found}" is read as letters here: '
    assert line in report and advice in report and line in caplog.text


def test_plain_prompts_deserve_no_word(run, load, caplog, texts):
    with caplog.at_level(logging.WARNING):
        _, report = run("ReScoreEncodePromptPair", model=load("image"), **texts)
    assert len(report.splitlines()) == 3 and caplog.text == ""


@pytest.mark.parametrize("shape", [(1, 64, 64), (3, 21, 18)])
def test_a_mask_that_is_black_everywhere_changes_nothing_and_says_so(run, edit, caplog, shape):
    """As Load Image gives it for a JPEG."""
    black = torch.zeros(shape)
    with caplog.at_level(logging.WARNING):
        source, loop, _ = edit("image", mask=black)
    assert "black everywhere" in caplog.text and "such as a JPEG: take Load Image" in caplog.text
    assert torch.equal(loop[0]["samples"], source["samples"])
    caplog.clear()
    run("ReScoreGradientMask", terms=run("ReScoreDeltaDenoising")[0], mask=black)
    assert "black everywhere" in caplog.text


def test_a_noise_mask_is_told_and_passed_on(run, given, caplog):
    inputs = {**given("image"), "terms": run("ReScoreDeltaDenoising")[0], "steps": 1}
    # As Set Latent Noise Mask has it.
    masked = {**inputs["latent"], "noise_mask": torch.ones(3, 21, 18)}
    with caplog.at_level(logging.WARNING):
        plain = run("ReScoreScoreDistillation", **inputs)[0]
        assert caplog.text == ""
        told = run("ReScoreScoreDistillation", **inputs | {"latent": masked})[0]
    assert "has a noise mask (Set Latent Noise Mask), and ReScore does not read it" in caplog.text
    assert torch.equal(told["samples"], plain["samples"])
    assert told["noise_mask"] is masked["noise_mask"]
