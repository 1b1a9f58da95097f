"""DDIM Inversion as the host runs it, for every kind of model."""

import pytest
import torch


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
