"""A cascade through the shells: keyframes are edited, frames made between them, and enlarged."""

import pytest
import torch
from rescore.pipelines.models.cascade.stage import ROLES
from tiny_cascade import write_stage


@pytest.fixture(scope="module")
def stages(tmp_path_factory):
    """A models folder with every stage, tiny and untrained."""
    folder = tmp_path_factory.mktemp("models")
    for number, role in enumerate(ROLES):
        write_stage(folder / "diffusers" / role, role, seed=number)
    return folder


@pytest.fixture
def cascade(run, stages, monkeypatch):
    """`cascade(role)`: a stage from its loader node."""
    monkeypatch.setenv("RESCORE_MODELS", str(stages))

    def make(role: str):
        node = "ReScoreLoadVideoModel" if role == "keyframes" else "ReScoreLoadCascadeStage"
        return run(node, folder=role)[0]

    return make


@pytest.fixture
def scene(run, cascade, clip):
    """The keyframe model, its prompts, and keyframes of 16 x 10 pixels of a wider clip."""
    model = cascade("keyframes")
    keyframes = run("ReScorePickKeyframes", images=clip(11, 40, 70), frames=8, width=16, height=10)
    return {
        "model": model,
        "prompts": run("ReScoreEncodePromptPair", model=model)[0],
        "latent": run("ReScoreVideoVAEEncode", model=model, images=keyframes[0])[0],
    }


def edit(run, scene, *terms, **settings):
    inputs = {"steps": 2, "cfg": 3.0, "step_size": 0.5} | settings
    made = run("ReScoreDeltaDenoising")[0]
    for term in terms:
        made = run(term, terms=made)[0]
    return run("ReScoreScoreDistillation", **scene, terms=made, **inputs)


def test_pixels_are_the_latents_and_come_back_exactly(run, scene):
    samples = scene["latent"]["samples"]
    assert samples.shape == (8, 3, 12, 16)  # 10 lines are padded to 12
    back = run("ReScoreVideoVAEDecode", model=scene["model"], latent=scene["latent"])[0]
    assert back.shape == (8, 10, 16, 3)
    shown = samples[:, :, :10].permute(0, 2, 3, 1) / 2 + 0.5
    torch.testing.assert_close(back, shown, rtol=0, atol=1e-6)


@pytest.mark.parametrize("term", ["ReScoreSpatialSelfSimilarity", "ReScoreTemporalSelfSimilarity"])
def test_every_term_on_keys_changes_the_edit_of_keyframes(run, scene, term):
    plain = edit(run, scene)[0]["samples"]
    assert not torch.equal(edit(run, scene, term)[0]["samples"], plain)


def test_where_the_mask_is_black_keyframes_stay_bit_for_bit(run, scene):
    mask = torch.zeros(8, 10, 16)
    mask[3, :4, :5] = 1
    edited = edit(run, scene, mask=mask)[0]["samples"]
    changed = (edited != scene["latent"]["samples"]).any(dim=1)
    assert changed.nonzero()[:, 0].unique().tolist() == [3]
    assert int(changed.sum()) == 20


def test_longer_clips_go_in_windows_of_eight(run, cascade, clip, scene):
    model = scene["model"]
    latent = run("ReScoreVideoVAEEncode", model=model, images=clip(13, 12, 16))[0]
    edited = edit(run, scene | {"latent": latent}, steps=1)[0]
    assert edited["samples"].shape == (13, 3, 12, 16)


def test_the_baseline_inverts_keyframes_and_samples_them_under_the_target(run, scene):
    trajectory, _ = run("ReScoreDDIMInversion", **scene, steps=3)
    assert trajectory.trajectory.latents.shape == (4, 1, 3, 8, 12, 16)


def test_keyframes_become_a_large_clip(run, cascade, scene):
    keyframes = run("ReScoreVideoVAEDecode", model=scene["model"], latent=scene["latent"])[0]
    small = run(
        "ReScoreInterpolateKeyframes", stage=cascade("interpolation"), prompts=scene["prompts"],
        keyframes=keyframes[:3, :8, :], steps=1,
    )[0]  # fmt: skip
    assert small.shape == (9, 8, 16, 3)
    large = run(
        "ReScoreEnlargeClip", image_stage=cascade("image-sr"), stage=cascade("video-sr"),
        prompts=scene["prompts"], images=small, factor=2, image_steps=1, steps=1,
    )[0]  # fmt: skip
    assert large.shape == (9, 16, 32, 3)
    assert 0 <= float(large.min()) <= float(large.max()) <= 1


@pytest.mark.parametrize("strength", [0, 0.5, 1])
def test_a_clip_is_resampled_as_far_as_its_strength_says(run, scene, strength):
    latent = run("ReScoreResampleClip", **scene, steps=4, strength=strength, cfg=2)[0]
    same = torch.equal(latent["samples"], scene["latent"]["samples"])
    assert same == (strength == 0)


# --- bad input ------------------------------------------------------------------------------------


def test_a_stage_in_the_wrong_place_is_told(run, cascade, scene, clip):
    with pytest.raises(ValueError, match=r"video-sr enlarges a clip .* here goes a stage"):
        run(
            "ReScoreInterpolateKeyframes", stage=cascade("video-sr"), prompts=scene["prompts"],
            keyframes=clip(2, 8, 16),
        )  # fmt: skip
    with pytest.raises(ValueError, match="here goes a stage that enlarges one picture"):
        run(
            "ReScoreEnlargeClip", image_stage=cascade("video-sr"), stage=cascade("video-sr"),
            prompts=scene["prompts"], images=clip(2, 8, 16),
        )  # fmt: skip


def test_a_clip_of_another_aspect_is_cut_and_told(run, clip, caplog):
    picked = run("ReScorePickKeyframes", images=clip(9, 40, 90), frames=3, width=16, height=8)[0]
    assert picked.shape == (3, 8, 16, 3)
    assert "another aspect than the clip (90 x 40): 0 % of its height and 11 %" in caplog.text


def test_a_clip_that_was_not_made_small_is_told(run, scene, clip):
    with pytest.raises(ValueError, match="300 x 12 pixels, and this model works on pixels"):
        run("ReScoreVideoVAEEncode", model=scene["model"], images=clip(2, 12, 300))


def test_what_needs_latents_or_another_network_refuses_a_cascade(run, scene):
    with pytest.raises(ValueError, match="a model of kind 'cascade'"):
        run("ReScoreInflateImageModel", model=scene["model"])
