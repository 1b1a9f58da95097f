"""What ComfyUI's own MODEL does as a model of ReScore, in a host's process without its server.

usage: python native_checks.py COMFYUI TRANSFORMER VAE FOUND --cpu

Every function whose name begins with `check` is run; FOUND becomes a JSON file that says of each
what went wrong, or nothing.
"""

import json
import sys
import traceback
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path

if __name__ == "__main__":
    arguments = sys.argv[1:5]
    sys.path.insert(0, str(Path(arguments[0]).resolve()))
    del sys.argv[1:5]  # what is left is for the host, which reads the command line on import
    import comfy.options

    comfy.options.enable_args_parsing()

import comfy.model_sampling
import comfy.sample
import comfy.samplers
import comfy.sd
import comfy.utils
import torch
from rescore.nodes.distillation import ScoreDistillation
from rescore.nodes.inspect import InspectGradient
from rescore.nodes.inversion import DDIMInversion
from rescore.nodes.latents import VideoVAEDecode, VideoVAEEncode
from rescore.nodes.native import NativeModel
from rescore.nodes.reconstruction import Reconstruct
from rescore.nodes.terms import DeltaDenoising
from rescore.pipelines.models.process import Level, move
from rescore.shapeworld.edits import Edit, edited
from rescore.shapeworld.models import load_shapeworld
from rescore.shapeworld.scene import caption
from rescore.shapeworld.showcase import SHOWCASE

SHORT = SHOWCASE["red_circle"]
# 16 frames, which the VAE does not fit: it takes 13 or 17.
EDIT = Edit(replace(SHORT.source, frames=16), replace(SHORT.target, frames=16), "colour")
CLIP = edited(EDIT).source.clip  # [16, 64, 64, 3], as the host's nodes pass pictures


# --- what the host's loaders and text nodes give ------------------------------------------------


@cache
def patcher():
    options = {"dtype": torch.float32}
    return comfy.sd.load_diffusion_model(arguments[1], model_options=options)


@cache
def vae():
    weights, metadata = comfy.utils.load_torch_file(arguments[2], return_metadata=True)
    return comfy.sd.VAE(sd=weights, metadata=metadata, dtype=torch.float32)


def conditioning(text: str) -> list:
    embedding = load_shapeworld("shapeworld-t2v").encode_prompt(text).embedding
    width = patcher().model.diffusion_model.text_embedding[0].in_features
    padding = (0, width - embedding.shape[-1])
    return [[torch.nn.functional.pad(embedding, padding), {}]]


@cache
def texts() -> dict:
    return {
        "source": conditioning(caption(EDIT.source)),
        "target": conditioning(caption(EDIT.target)),
        "negative": conditioning(""),
    }


def taken(model=None, **changed):
    return NativeModel().take(model or patcher(), vae(), **(texts() | changed))


@cache
def latent() -> dict:
    model, _ = taken()
    return VideoVAEEncode().encode(model, CLIP, 8, "mean", 0)[0]


def noise_like(samples, seed: int = 0):
    return torch.randn(samples.shape, generator=torch.Generator().manual_seed(seed))


# --- checks -------------------------------------------------------------------------------------


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
    wan = patcher().model
    for said, given in zip(found, texts().values(), strict=True):
        expected = wan.apply_model(z_t, torch.tensor([level.t]), c_crossattn=given[0][0])
        torch.testing.assert_close(said, expected, rtol=0, atol=1e-5)
    assert not torch.equal(found[0], found[1])


def check_the_levels_are_those_of_the_hosts_flow():
    model, _ = taken()
    sampling = patcher().get_model_object("model_sampling")
    for share in (0.25, 0.5, 0.75):
        level = model.process.at(share)
        assert abs(level.noise - sampling.percent_to_sigma(1 - share)) < 2e-3
        assert level.t == level.noise and abs(level.signal + level.noise - 1) < 1e-6


def sampled_by_both(model_patcher, steps: int = 5):
    """A clip from noise by the host's KSampler with Euler, and by steps of ours."""
    model, prompts = taken(model_patcher)
    sampling = model_patcher.get_model_object("model_sampling")
    sigmas = comfy.samplers.calculate_sigmas(sampling, "simple", steps)
    noise = noise_like(latent()["samples"], 3)
    theirs = comfy.sample.sample(
        model_patcher, noise, steps, 4.0, "euler", "simple", texts()["target"],
        texts()["negative"], torch.zeros_like(noise), disable_noise=False, seed=3,
    )  # fmt: skip
    table = {level.t: level for level in model.process.levels}
    levels = [min(table.values(), key=lambda at: abs(at.t - s)) for s in sigmas[:-1].tolist()]
    levels = [*levels, Level(0.0, 1.0, 0.0)]

    def work(denoiser):
        flows = isinstance(sampling, comfy.model_sampling.CONST)
        z = noise if flows else noise * (1 + levels[0].noise ** 2) ** 0.5
        for here, there in pairwise(levels):
            guided = denoiser.guided(
                z, here, prompts.embeddings.target, prompts.embeddings.negative, 4.0
            )
            z = move(guided, there)
        return z

    return theirs, model.latents_out(model.run(noise, work))


def check_sampling_a_flow_equals_the_hosts_own_euler():
    theirs, ours = sampled_by_both(patcher())
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-3)


def as_if(kind):
    """The same network with another way to add noise, as the host's ModelSampling nodes do it."""

    class Sampling(comfy.model_sampling.ModelSamplingDiscrete, kind):
        pass

    other = patcher().clone()
    other.add_object_patch("model_sampling", Sampling(patcher().model.model_config))
    return other


def check_sampling_with_noise_prediction_equals_the_hosts_own_euler():
    theirs, ours = sampled_by_both(as_if(comfy.model_sampling.EPS))
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=2e-3)


def check_sampling_with_v_prediction_equals_the_hosts_own_euler():
    theirs, ours = sampled_by_both(as_if(comfy.model_sampling.V_PREDICTION))
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=2e-3)


def edit(steps: int = 20, model_patcher=None, mask=None, cfg: float = 5.0, **changed):
    model, prompts = taken(model_patcher, **changed)
    (terms,) = DeltaDenoising().build(1.0, 0.0, 1.0)
    return ScoreDistillation().run(
        model, prompts, latent(), terms, steps, 0.4, cfg, 0, 0.05, 0.95, "sgd", mask=mask
    )


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


if __name__ == "__main__":
    only = arguments[3].partition(":")[2].split(",") if ":" in arguments[3] else None
    found = {}
    for name, check in list(globals().items()):
        if name.startswith("check") and (only is None or name in only):
            try:
                with torch.inference_mode():
                    check()
                found[name] = ""
            except Exception:
                found[name] = traceback.format_exc()
    Path(arguments[3].partition(":")[0]).write_text(json.dumps(found), "utf-8")
