"""DDIM Inversion as the host runs it, for every kind of model."""

import pytest
import torch
from tiny_models import SCHEDULE, write_tiny_sd


@pytest.mark.parametrize("kind", ["text-to-video", "image", "animatediff"])
def test_the_trajectory_leads_from_the_clip_to_noise(run, given, texts, kind):
    inputs = given(kind)
    model, samples = inputs["model"], inputs["latent"]["samples"]
    before = samples.clone()
    found, noise = run("ReScoreDDIMInversion", **inputs, steps=4)
    path = found.trajectory
    assert path.steps == 4 and [level.t for level in path.levels] == [0, 250, 500, 749, 999]
    assert path.prompt == texts["source_prompt"] and path.model == model.fingerprint
    assert found.pixel_size == (21, 18)
    first = path.latents[0, 0].transpose(0, 1) / model.scaling_factor
    torch.testing.assert_close(first, before)
    last = path.latents[-1, 0].transpose(0, 1) / model.scaling_factor
    torch.testing.assert_close(noise["samples"], last)
    assert torch.equal(samples, before)


def test_guidance_and_refinement_change_the_way(run, given):
    inputs = given("image")
    ways = [
        run("ReScoreDDIMInversion", **inputs, steps=3, **more)[0].trajectory.latents[-1]
        for more in ({}, {"cfg": 4.0}, {"refinements": 2})
    ]
    assert not torch.equal(ways[0], ways[1]) and not torch.equal(ways[0], ways[2])


def test_more_frames_than_the_motion_module_knows(run, load, given, clip):
    """They go through it in windows, all along the trajectory; too long a window is refused."""
    known = load("animatediff").max_frames
    invert = {**given("animatediff", clip(known + 2, 8, 12)), "steps": 2}
    found = run("ReScoreDDIMInversion", **invert)[0]
    assert (found.windows.length, found.windows.overlap) == (known, 4)
    inputs = {name: invert[name] for name in ("model", "prompts")}
    along = {**inputs, "trajectory": found, "cfg": 3.0}
    guidance = run("ReScoreDecoupledGuidance", strength=0.1)[0]
    null_text = run("ReScoreNullTextOptimisation", **along, inner_steps=1, guidance=guidance)[0]
    for node in ("ReScoreReconstruct", "ReScoreAttentionControlledSampling"):
        edited = run(node, **along, null_text=null_text)[0]
        assert edited["samples"].shape == invert["latent"]["samples"].shape
    with pytest.raises(ValueError, match="Edit a shorter clip"):
        run("ReScoreDDIMInversion", **invert, window=known + 1)
    with pytest.raises(ValueError, match="cannot cover a clip"):
        run("ReScoreDDIMInversion", **invert, window=3, overlap=3)


def test_a_clip_that_one_window_holds_has_none(run, given):
    inputs = {**given("image"), "steps": 2}
    assert run("ReScoreDDIMInversion", **inputs)[0].windows is None
    assert run("ReScoreDDIMInversion", **inputs, window=3)[0].windows is None


ZERO_SNR = SCHEDULE | {"rescale_betas_zero_snr": True}


@pytest.fixture
def without_signal(run, texts, clip, tmp_path, monkeypatch):
    """`without_signal(predicts)`: what nodes get of an image model with zero terminal SNR."""

    def make(predicts):
        schedule = ZERO_SNR | {"prediction_type": predicts}
        write_tiny_sd(tmp_path / "diffusers" / "zero", schedule=schedule)
        monkeypatch.setenv("RESCORE_MODELS", str(tmp_path))
        model = run("ReScoreLoadImageModel", model="zero")[0]
        prompts = run("ReScoreEncodePromptPair", model=model, **texts)[0]
        latent = run("ReScoreVideoVAEEncode", model=model, images=clip(2, 12, 14))[0]
        return {"model": model, "prompts": prompts, "latent": latent}

    return make


def needing_the_last_timestep(run, given):
    """Nodes that ask the model at its last timestep, sooner or later, and their inputs."""
    inflated = run("ReScoreInflateImageModel", model=given["model"])[0]
    terms = run("ReScoreDeltaDenoising")[0]
    return {
        "ReScoreDDIMInversion": {**given, "steps": 3},
        "ReScoreOneShotTune": {**given, "model": inflated, "steps": 2},
        "ReScoreResampleClip": {
            **given, "steps": 3, "strength": 1.0, "window": 0, "overlap": 0
        },
        "ReScoreScoreDistillation": {**given, "terms": terms, "steps": 2, "t_max": 1.0},
    }  # fmt: skip


def test_noise_without_signal_is_told_before_the_model_is_asked(run, without_signal, monkeypatch):
    def called(*_):
        raise AssertionError("the model was asked")

    nodes = needing_the_last_timestep(run, without_signal("epsilon"))
    for node, inputs in nodes.items():
        hook = inputs["model"].network.register_forward_pre_hook(called)
        with pytest.raises(ValueError, match="Such a schedule goes with v-prediction"):
            run(node, **inputs)
        hook.remove()


def test_v_without_signal_goes_all_the_way(run, without_signal):
    for node, inputs in needing_the_last_timestep(run, without_signal("v_prediction")).items():
        for made in run(node, **inputs):
            samples = made["samples"] if isinstance(made, dict) and "samples" in made else made
            if isinstance(samples, torch.Tensor):
                assert torch.isfinite(samples).all(), node
