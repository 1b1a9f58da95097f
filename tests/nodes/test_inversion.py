"""DDIM Inversion as the host runs it, for every kind of model."""

import pytest
import torch

PROMPTS = {
    "source_prompt": "a red circle moving right on a plain background",
    "target_prompt": "a blue circle moving right on a plain background",
}


@pytest.mark.parametrize("kind", ["text-to-video", "image", "animatediff"])
def test_the_trajectory_leads_from_the_clip_to_noise(run, load, clip, kind):
    model = load(kind)
    prompts, _ = run("ReScoreEncodePromptPair", model=model, **PROMPTS)
    latent = run("ReScoreVideoVAEEncode", model=model, images=clip())[0]
    before = latent["samples"].clone()
    found, noise = run("ReScoreDDIMInversion", model=model, prompts=prompts, latent=latent, steps=4)
    path = found.trajectory
    assert path.steps == 4 and path.timesteps == (0, 250, 500, 749, 999)
    assert path.prompt == PROMPTS["source_prompt"] and path.model == model.fingerprint
    assert found.pixel_size == (21, 18)
    first = path.latents[0, 0].transpose(0, 1) / model.scaling_factor
    torch.testing.assert_close(first, before)
    last = path.latents[-1, 0].transpose(0, 1) / model.scaling_factor
    torch.testing.assert_close(noise["samples"], last)
    assert torch.equal(latent["samples"], before)


def test_guidance_and_refinement_change_the_way(run, load, clip):
    model = load("image")
    prompts, _ = run("ReScoreEncodePromptPair", model=model, **PROMPTS)
    latent = run("ReScoreVideoVAEEncode", model=model, images=clip())[0]
    inputs = {"model": model, "prompts": prompts, "latent": latent, "steps": 3}
    ways = [
        run("ReScoreDDIMInversion", **inputs, **more)[0].trajectory.latents[-1]
        for more in ({}, {"cfg": 4.0}, {"refinements": 2})
    ]
    assert not torch.equal(ways[0], ways[1]) and not torch.equal(ways[0], ways[2])


def test_more_frames_than_the_motion_module_knows(run, load, clip):
    model = load("animatediff")
    prompts, _ = run("ReScoreEncodePromptPair", model=model, **PROMPTS)
    latent = run("ReScoreVideoVAEEncode", model=model, images=clip(model.max_frames + 1))[0]
    with pytest.raises(ValueError, match="Edit a shorter clip"):
        run("ReScoreDDIMInversion", model=model, prompts=prompts, latent=latent, steps=2)
