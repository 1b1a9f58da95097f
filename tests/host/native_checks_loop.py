"""Loops, inversion and sampling on the host's own MODEL through ReScore's nodes."""

import comfy.model_sampling
import comfy.sample
import torch
from native_start import (
    CLIP,
    EDIT,
    Told,
    as_if,
    edit,
    latent,
    noise_like,
    patcher,
    sampled_by_both,
    taken,
    texts,
)
from rescore.nodes.inspect import InspectGradient
from rescore.nodes.inversion import DDIMInversion
from rescore.nodes.latents import VideoVAEDecode
from rescore.nodes.reconstruction import Reconstruct
from rescore.nodes.terms import DeltaDenoising
from rescore.shapeworld.edits import edited


def check_a_clip_of_16_frames_goes_through_the_vae_and_comes_back_whole():
    model, _ = taken()
    assert latent()["samples"].shape == (1, 16, 5, 8, 8)
    (images,) = VideoVAEDecode().decode(model, latent(), 8)
    assert images.shape == CLIP.shape
    psnr = -10 * torch.log10((images - CLIP).square().mean())
    assert psnr > 28, psnr


def check_the_prediction_is_the_hosts_own():
    """The denoised clip of `apply_model`, for the target, the source and the negative prompt."""
    model, prompts = taken()
    z = model.latents_in(latent()["samples"])
    level = model.process.at(0.6)
    z_t = level.signal * z + level.noise * noise_like(z)

    def work(denoiser):
        return [denoiser(z_t, level, cond).z_0 for cond in prompts.embeddings]

    found = model.run(z, work)
    model_of_host = patcher().model
    for said, given in zip(found, texts().values(), strict=True):
        expected = model_of_host.apply_model(z_t, torch.tensor([level.t]), c_crossattn=given[0][0])
        torch.testing.assert_close(said, expected, rtol=0, atol=1e-5)
    assert not torch.equal(found[0], found[1])


def check_the_levels_are_those_of_the_hosts_flow():
    model, _ = taken()
    sampling = patcher().get_model_object("model_sampling")
    for share in (0.25, 0.5, 0.75):
        level = model.process.at(share)
        assert abs(level.noise - sampling.percent_to_sigma(1 - share)) < 2e-3
        assert level.t == level.noise and abs(level.signal + level.noise - 1) < 1e-6


def check_sampling_a_flow_equals_the_hosts_own_euler():
    theirs, ours = sampled_by_both(patcher())
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-3)


def check_sampling_with_noise_prediction_equals_the_hosts_own_euler():
    theirs, ours = sampled_by_both(as_if(comfy.model_sampling.EPS))
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=2e-3)


def check_sampling_with_v_prediction_equals_the_hosts_own_euler():
    theirs, ours = sampled_by_both(as_if(comfy.model_sampling.V_PREDICTION))
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=2e-3)


def check_delta_denoising_edits():
    model, _ = taken()
    truth = edited(EDIT)
    edited_latent, state, losses = edit(40)
    assert state.step == 40 and len(losses["loss"]) == 40
    (images,) = VideoVAEDecode().decode(model, edited_latent, 8)
    inside = truth.paint
    before = (CLIP - truth.target.clip)[inside].square().mean()
    after = (images - truth.target.clip)[inside].square().mean()
    assert after < 0.5 * before, (before, after)


def check_equal_prompts_change_nothing():
    _, prompts = taken(target=texts()["source"])
    assert torch.equal(prompts.embeddings.source, prompts.embeddings.target)
    found, _, losses = edit(3, target=texts()["source"])
    assert losses["loss"] == [0, 0, 0]
    assert torch.equal(found["samples"], latent()["samples"])


def check_outside_a_mask_latents_are_the_sources():
    mask = torch.zeros(len(CLIP), 64, 64)
    mask[:, :, 32:] = 1
    found, *_ = edit(2, mask=mask)
    assert torch.equal(found["samples"][..., :4], latent()["samples"][..., :4])
    assert not torch.equal(found["samples"][..., 4:], latent()["samples"][..., 4:])


def check_a_clip_is_inverted_and_comes_back():
    model, prompts = taken()
    inverted, noise = DDIMInversion().invert(model, prompts, latent(), 20, 1.0, 2)
    assert inverted.frames == 16 and noise["samples"].shape == (1, 16, 5, 8, 8)
    _, images, psnr, report = Reconstruct().reconstruct(model, prompts, inverted, 1.0)
    assert images.shape == CLIP.shape
    assert psnr > 25, report


def check_a_gradient_is_shown_on_the_clips_pictures():
    model, prompts = taken()
    (terms,) = DeltaDenoising().build(1.0, 0.0, 1.0)
    energy, mask, _ = InspectGradient().inspect(model, prompts, latent(), terms, 0.5, 5.0, 0)
    assert energy.shape == CLIP.shape and mask.shape == CLIP.shape[:3]


def check_a_ksampler_before_and_after_is_the_same():
    noise = noise_like(latent()["samples"], 3)

    def sampled():
        return comfy.sample.sample(
            patcher(), noise, 2, 4.0, "euler", "simple", texts()["target"], texts()["negative"],
            torch.zeros_like(noise), disable_noise=False, seed=3,
        )  # fmt: skip

    before = sampled()
    edit(1)
    assert torch.equal(sampled(), before)


def check_an_edit_that_changes_nothing_says_why():
    with Told() as told:
        edit(2, target=texts()["source"])
        edit(2, cfg=0.0)
    assert "encode alike" in told[0] and "cfg is 0" in told[1], told
