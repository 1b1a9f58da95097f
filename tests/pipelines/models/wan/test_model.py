"""The tiny Wan behind the pack's interface says what diffusers' own pipeline says."""

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, WanPipeline
from rescore.pipelines.inversion.sampling import ddim_sample
from rescore.pipelines.models.process import Level
from tiny_wan import CHANNELS, SHIFT, TEXT_WIDTH


@pytest.fixture(scope="module")
def pipeline(wan_folder):
    pipe = WanPipeline.from_pretrained(wan_folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def latents(seed: int = 0, frames: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(1, CHANNELS, frames, 4, 6, generator=generator)


@pytest.mark.parametrize("text", ["a red, red  dog", "", "x" * 700, "caf\u00e9 a"])
def test_prompts_are_what_the_pipeline_makes_of_them(wan, pipeline, text):
    ours = wan.encode_prompt(text)
    theirs, _ = pipeline.encode_prompt(
        text, do_classifier_free_guidance=False, max_sequence_length=512
    )
    assert ours.embedding.shape == (1, 512, TEXT_WIDTH)
    # Not every processor sums 512 tokens in the same order beside padding and without.
    torch.testing.assert_close(ours.embedding, theirs, rtol=0, atol=3e-5)


def test_what_did_not_fit_is_told(wan, caplog):
    """'red' is one token, every x another; 511 of them fit beside the end."""
    encoded = wan.encode_prompt("red " + "x" * 520)
    assert encoded.tokens[0] == "\u2581red" and encoded.tokens[-1] == "</s>"
    assert len(encoded.tokens) == 512 and 0 < len(encoded.cut) < 20
    assert encoded.text.endswith(encoded.cut) and "longer than the 511 tokens" in caplog.text


@pytest.mark.parametrize("share", [0.1, 0.5, 1.0])
def test_predictions_are_those_of_a_bare_call(wan, pipeline, share):
    z, level = latents(), wan.process.at(share)
    cond = wan.encode_prompt("a red dog").embedding
    with torch.no_grad():
        said = wan.denoiser(z, level, cond)
        velocity = pipeline.transformer(z, torch.tensor([level.t]), cond).sample
    torch.testing.assert_close(said.z_0, z - level.noise * velocity, rtol=0, atol=1e-5)
    torch.testing.assert_close(said.eps, z + level.signal * velocity, rtol=0, atol=1e-5)


def test_sampling_is_flow_matching_euler(wan, pipeline):
    """On the same sigmas: 1, 1 - 1 / n, ..., 1 / n, shifted, and 0."""
    steps, cfg, noise = 7, 3.0, latents(5)
    cond, uncond = (wan.encode_prompt(text).embedding for text in ("a red dog", ""))
    scheduler = FlowMatchEulerDiscreteScheduler.from_config(pipeline.scheduler.config)
    scheduler.set_timesteps(sigmas=np.linspace(1, 1 / steps, steps))
    z = noise
    with torch.no_grad():
        for t in scheduler.timesteps:
            prompted = pipeline.transformer(z, t.expand(1), cond).sample
            without = pipeline.transformer(z, t.expand(1), uncond).sample
            z = scheduler.step(without + cfg * (prompted - without), t, z).prev_sample

        def guided(z: torch.Tensor, level: Level):
            return wan.denoiser.guided(z, level, cond, uncond, cfg)

        ours = ddim_sample(noise, guided, wan.process.grid(steps))
    torch.testing.assert_close(ours, z, rtol=0, atol=1e-5)
    assert scheduler.config.shift == SHIFT


def test_gradients_reach_the_latents(wan):
    z = latents().requires_grad_()
    wan.denoiser(z, wan.process.at(0.5), torch.ones(1, 3, TEXT_WIDTH)).z_0.sum().backward()
    assert bool(torch.isfinite(z.grad).all()) and float(z.grad.abs().max()) > 0


@pytest.mark.parametrize(
    ("z", "cond", "sentence"),
    [
        (torch.zeros(1, 4, 3, 4, 6), torch.zeros(1, 2, 24), "have 4 channels, tiny-wan takes 5"),
        (torch.zeros(1, 5, 3, 5, 6), torch.zeros(1, 2, 24), "takes them in blocks of 2 x 2"),
        (torch.zeros(1, 5, 3, 4, 6), torch.zeros(1, 2, 25), "25 wide, tiny-wan takes 24"),
        (
            torch.zeros(1, 5, 3, 4, 6),
            torch.zeros(1, 3, 2, 24),
            "takes one text embedding for a whole clip",
        ),
        (torch.zeros(2, 5, 3, 4, 6), torch.zeros(1, 2, 24), "for each of the 2 clips"),
    ],
)
def test_what_does_not_fit_is_told(wan, z, cond, sentence):
    with pytest.raises(ValueError, match=sentence):
        wan.denoiser(z, wan.process.at(0.5), cond)


# --- clips and latents ----------------------------------------------------------------------------


def clip(frames: int, height: int = 32, width: int = 48) -> torch.Tensor:
    return torch.rand(1, 3, frames, height, width, generator=torch.Generator().manual_seed(1))


def test_latents_are_those_of_the_pipeline(wan, pipeline):
    """Mean 0 and deviation 1 for the transformer, as `WanPipeline` undoes it before decoding."""
    pixels, config = clip(5), wan.vae.config
    found = wan.codec.encode(pixels)
    with torch.no_grad():
        mean = pipeline.vae.encode(pixels * 2 - 1).latent_dist.mean
        decoded = pipeline.vae.decode(mean).sample
    assert found.shape == (1, CHANNELS, 2, 4, 6)
    torch.testing.assert_close(found, mean, rtol=0, atol=1e-5)
    z = wan.codec.standard(found)
    for channel, (middle, deviation) in enumerate(
        zip(config.latents_mean, config.latents_std, strict=True)
    ):
        expected = (found[:, channel] - middle) / deviation
        torch.testing.assert_close(z[:, channel], expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(wan.codec.own(z), found, rtol=0, atol=1e-5)
    theirs = (decoded / 2 + 0.5).clamp(0, 1)
    torch.testing.assert_close(wan.codec.decode(found), theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("frames", "latent"), [(1, 1), (2, 2), (5, 2), (6, 3), (7, 3), (9, 3)])
def test_clips_of_any_length_and_size_are_padded(wan, frames, latent):
    """By repeating the last frame and the right and lower edges: to 1 + 4 n of 16 x 16 pixels."""
    pixels, done = clip(frames, 21, 37), []
    found = wan.codec.encode(pixels, on_chunk=lambda *told: done.append(told))
    assert found.shape == (1, CHANNELS, latent, 4, 6)
    assert done[0] == (1, frames) and done[-1] == (frames, frames) and len(done) == latent
    rows = torch.arange(32).clamp(max=20)
    columns = torch.arange(48).clamp(max=36)
    times = torch.arange(1 + 4 * (latent - 1)).clamp(max=frames - 1)
    by_hand = pixels[:, :, times][:, :, :, rows][..., columns]
    torch.testing.assert_close(found, wan.codec.encode(by_hand), rtol=0, atol=1e-5)
    whole = wan.codec.decode(found, size=(21, 37))
    assert whole.shape == (1, 3, 1 + 4 * (latent - 1), 21, 37)
    shown = wan.codec.decode(found, size=(21, 37), frames=frames)
    assert torch.equal(shown, whole[:, :, :frames])


def test_samples_of_the_posterior_follow_the_generator(wan):
    draws = [
        wan.codec.encode(clip(5), generator=torch.Generator().manual_seed(seed))
        for seed in (3, 3, 4)
    ]
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])


def test_stopping_in_the_middle_leaves_nothing_behind(wan):
    class Cancelled(Exception):
        pass

    def stop(done: int, of: int) -> None:
        if done > 1:
            raise Cancelled

    before = wan.codec.encode(clip(9))
    for work in (
        lambda: wan.codec.encode(clip(9), on_chunk=stop),
        lambda: wan.codec.decode(before, on_chunk=stop),
    ):
        with pytest.raises(Cancelled):
            work()
        assert all(kept is None for kept in (*wan.vae._feat_map, *wan.vae._enc_feat_map))
        assert not wan.vae.encoder._forward_hooks and not wan.vae.decoder._forward_hooks
    assert torch.equal(wan.codec.encode(clip(9)), before)


@pytest.mark.parametrize(
    ("work", "error", "sentence"),
    [
        (lambda codec: codec.encode(clip(5)[:, :, :0]), ValueError, "has no frames"),
        (lambda codec: codec.encode(clip(5) / 0), ValueError, "NaN or infinite pixels"),
        (lambda codec: codec.decode(torch.zeros(1, 4, 2, 4, 6)), ValueError, "have 4 channels"),
        (lambda codec: codec.standard(torch.zeros(1, 4, 2, 4, 6)), ValueError, "have 4 channels"),
        (lambda codec: codec.decode(torch.zeros(1, 5, 0, 4, 6)), ValueError, "hold no frames"),
        (
            lambda codec: codec.decode(torch.zeros(1, 5, 2, 4, 6), size=(33, 48)),
            ValueError,
            "less than the 48 x 33 asked for",
        ),
        (
            lambda codec: codec.decode(torch.full((1, 5, 1, 4, 6), torch.nan)),
            FloatingPointError,
            "Decoding gave NaN",
        ),
    ],
)
def test_mistakes_are_told(wan, work, error, sentence):
    with pytest.raises(error, match=sentence):
        work(wan.codec)
