"""What ComfyUI's own MODEL does as a model of ReScore, in a host's process without its server.

usage: python native_checks.py COMFYUI TRANSFORMER VAE FOUND --cpu

Every function whose name begins with `check` is run; FOUND becomes a JSON file that says of each
what went wrong, or nothing.
"""

import gc
import json
import logging
import sys
import tempfile
import traceback
from dataclasses import replace
from functools import cache, partial
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

if __name__ == "__main__":
    arguments = sys.argv[1:5]
    sys.path.insert(0, str(Path(arguments[0]).resolve()))
    del sys.argv[1:5]  # what is left is for the host, which reads the command line on import
    import comfy.options

    comfy.options.enable_args_parsing()

import comfy.controlnet
import comfy.hooks
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.model_sampling
import comfy.nested_tensor
import comfy.patcher_extension
import comfy.sample
import comfy.samplers
import comfy.sd
import comfy.sd1_clip
import comfy.supported_models
import comfy.taesd.taesd
import comfy.text_encoders.wan as wan_text
import comfy.utils
import sentencepiece
import torch
from comfy_extras import nodes_context_windows, nodes_custom_sampler
from rescore.attention.dit.processor import WanLayers
from rescore.attention.recording import Recorder, forward_recorded
from rescore.nodes import layouts
from rescore.nodes.assd import AttentionFusion
from rescore.nodes.distillation import ScoreDistillation
from rescore.nodes.edit_masks import MaskFromWords
from rescore.nodes.host.conditioning import PROMPT
from rescore.nodes.inspect import InspectGradient
from rescore.nodes.inversion import DDIMInversion
from rescore.nodes.latents import VideoVAEDecode, VideoVAEEncode
from rescore.nodes.native import (
    DistillationSampler,
    EditGuider,
    EncodeNativePrompt,
    NativeModel,
    ShapeWorldConditioning,
)
from rescore.nodes.prompts import EncodePromptPair
from rescore.nodes.reconstruction import Reconstruct
from rescore.nodes.similarity import SpatialSelfSimilarity
from rescore.nodes.terms import DeltaDenoising
from rescore.pipelines.masks.edit_masks import Looks, word_map
from rescore.pipelines.models.process import Level, move
from rescore.pipelines.models.words import find_word, words_of
from rescore.shapeworld import wan
from rescore.shapeworld.edits import Edit, edited, suite
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


def sampled_by_both(model_patcher, steps: int = 5, target=None):
    """A clip from noise by the host's KSampler with Euler, and by steps of ours."""
    target = target or texts()["target"]
    model, prompts = taken(model_patcher, target=target)
    sampling = model_patcher.get_model_object("model_sampling")
    sigmas = comfy.samplers.calculate_sigmas(sampling, "simple", steps)
    noise = noise_like(latent()["samples"], 3)
    theirs = comfy.sample.sample(
        model_patcher, noise, steps, 4.0, "euler", "simple", target,
        texts()["negative"], torch.zeros_like(noise), disable_noise=False, seed=3,
    )  # fmt: skip
    table = {level.t: level for level in model.process.levels}
    levels = [min(table.values(), key=lambda at: abs(at.t - s)) for s in sigmas[:-1].tolist()]
    levels = [*levels, Level(0.0, 1.0, 0.0)]

    def work(denoiser):
        z = noise
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


def edit(steps: int = 20, model_patcher=None, *, cfg: float = 5.0, terms=None, **wired):
    """Score Distillation; `wired` are its optional inputs, and other prompts than `texts`."""
    changed = {side: wired.pop(side) for side in texts() if side in wired}
    model, prompts = taken(model_patcher, **changed)
    if terms is None:
        (terms,) = DeltaDenoising().build(1.0, 0.0, 1.0)
    return ScoreDistillation().run(
        model,
        prompts,
        latent(),
        terms,
        steps,
        0.4,
        cfg,
        0,
        0.05,
        0.95,
        "sgd",
        **wired,
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


class Told(logging.Handler):
    """What is logged while it is in use, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record) -> None:
        self.lines.append(record.getMessage())

    def __enter__(self) -> list[str]:
        logging.getLogger("rescore").addHandler(self)
        return self.lines

    def __exit__(self, *_) -> None:
        logging.getLogger("rescore").removeHandler(self)


def check_an_edit_that_changes_nothing_says_why():
    with Told() as told:
        edit(2, target=texts()["source"])
        edit(2, cfg=0.0)
    assert "encode alike" in told[0] and "cfg is 0" in told[1], told


# --- the loop in the host's own sampling node ----------------------------------------------------


def sampled_by_the_host(sampler, sigmas, latent_image=None, guider=None, seed: int = 0):
    """What SamplerCustomAdvanced makes of the clip."""
    guider = guider or EditGuider().guide(patcher(), **texts(), cfg=5.0)[0]
    node = nodes_custom_sampler.SamplerCustomAdvanced
    noise = nodes_custom_sampler.Noise_RandomNoise(seed)
    latent_image = latent_image or {"samples": latent()["samples"]}
    return node.execute(noise, guider, sampler, sigmas, latent_image).args[0]["samples"]


def distilling(steps: int = 2, terms=None, **settings):
    if terms is None:
        (terms,) = DeltaDenoising().build(1.0, 0.0, 1.0)
    settings = {"step_size": 0.4, "optimiser": "sgd", **settings}
    return DistillationSampler().build(terms=terms, steps=steps, **settings)[0]


def all_sigmas():
    return patcher().get_model_object("model_sampling").sigmas.flip(0)


def check_the_sampler_equals_score_distillation():
    model, prompts = taken()
    (terms,) = DeltaDenoising().build(1.0, 0.0, 1.0)
    expected, *_ = ScoreDistillation().run(
        model, prompts, latent(), terms, 3, 0.4, 5.0, 7, 0.0, 1.0, "sgd"
    )
    found = sampled_by_the_host(distilling(3), all_sigmas(), seed=7)
    torch.testing.assert_close(found, expected["samples"], rtol=0, atol=1e-4)
    assert not torch.allclose(found, latent()["samples"], atol=1e-2)


def check_the_sampler_says_why_nothing_changed():
    alike = texts() | {"target": texts()["source"]}
    (guider,) = EditGuider().guide(patcher(), **alike, cfg=5.0)
    with Told() as told:
        sampled_by_the_host(distilling(), all_sigmas(), guider=guider)
        sampled_by_the_host(distilling(step_size=1e-6), all_sigmas())
        sampled_by_the_host(distilling(step_size=4.0), all_sigmas())
    assert len(told) == 2, told
    assert "encode alike" in told[0] and "The steps are too small: 2 of 1e-06" in told[1], told


def check_a_sampler_of_the_hosts_goes_to_the_target():
    sampling = patcher().get_model_object("model_sampling")
    sigmas = comfy.samplers.calculate_sigmas(sampling, "simple", 3)
    found = sampled_by_the_host(comfy.samplers.sampler_object("euler"), sigmas, seed=3)
    usual = comfy.samplers.CFGGuider(patcher())
    usual.set_conds(texts()["target"], texts()["negative"])
    usual.set_cfg(5.0)
    euler = comfy.samplers.sampler_object("euler")
    assert torch.equal(found, sampled_by_the_host(euler, sigmas, guider=usual, seed=3))


def check_a_noise_mask_confines_the_edit():
    mask = torch.zeros(1, 1, 64, 64)
    mask[..., 32:] = 1
    masked = {"samples": latent()["samples"], "noise_mask": mask}
    found = sampled_by_the_host(distilling(), all_sigmas(), masked)
    torch.testing.assert_close(found[..., :4], latent()["samples"][..., :4], rtol=0, atol=1e-5)
    assert not torch.allclose(found[..., 4:], latent()["samples"][..., 4:], atol=1e-2)


def check_levels_are_drawn_from_the_sigmas():
    asked = set()

    def watch(apply, args):
        asked.add(round(float(args["timestep"][0]), 6))
        return apply(args["input"], args["timestep"], **args["c"])

    watched = patcher().clone()
    watched.set_model_unet_function_wrapper(watch)
    guider = EditGuider().guide(watched, **texts(), cfg=5.0)[0]
    sigmas = torch.tensor([0.9, 0.6, 0.3, 0.0])
    sampled_by_the_host(distilling(12), sigmas, guider=guider)
    assert asked == {0.9, 0.6, 0.3}


def check_flowedit_runs_on_a_native_model_by_both_nodes():
    """Descending order, weights of velocities and eta 1: the same by the loop and the sampler."""
    model, prompts = taken()
    (terms,) = DeltaDenoising().build(1.0, 0.0, 1.0, weighting="velocity", eta=1.0)
    flow = {"order": "descending", "source_cfg": 3.0}
    expected, *_ = ScoreDistillation().run(
        model, prompts, latent(), terms, 3, 1.0, 5.0, 7, 0.0, 1.0, "sgd", **flow
    )
    sampler = distilling(3, terms, step_size=1.0, **flow)
    found = sampled_by_the_host(sampler, all_sigmas(), seed=7)
    torch.testing.assert_close(found, expected["samples"], rtol=0, atol=1e-4)
    assert not torch.allclose(found, latent()["samples"], atol=1e-2)


def check_a_negative_prompt_of_the_source_alone_guides_the_source():
    """Given the same text it changes nothing; another one is asked with the source's latents."""
    other = conditioning("a green triangle")

    def made(**more):
        guider = EditGuider().guide(patcher(), **texts(), cfg=5.0, **more)[0]
        return sampled_by_the_host(distilling(1), all_sigmas(), guider=guider)

    plain = made()
    torch.testing.assert_close(made(source_negative=texts()["negative"]), plain, rtol=0, atol=1e-5)
    moved = made(source_negative=other) - plain
    assert float(moved.abs().max()) > 1e-2
    alike = EditGuider().guide(
        patcher(), **(texts() | {"target": texts()["source"], "negative": other}), cfg=5.0,
        source_negative=other,
    )[0]  # fmt: skip
    still = sampled_by_the_host(distilling(2), all_sigmas(), guider=alike)
    torch.testing.assert_close(still, latent()["samples"], rtol=0, atol=1e-5)


# --- what may hang on a MODEL and a CONDITIONING ------------------------------------------------


def check_a_conditioning_for_a_part_of_the_picture_holds_there():
    """Two prompts side by side, by masks and by areas: what KSampler makes of them, we do, too."""
    left = torch.zeros(1, 64, 64)
    left[:, :, :32] = 1
    masks = {"set_area_to_bounds": False, "mask_strength": 1.0}
    (first, _), (second, _) = texts()["target"][0], texts()["source"][0]
    both = [[first, {"mask": left, **masks}], [second, {"mask": 1 - left, **masks}]]
    theirs, ours = sampled_by_both(patcher(), target=both)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-3)
    plain, _ = sampled_by_both(patcher())
    assert not torch.allclose(theirs, plain, atol=0.1)


def check_a_lora_as_a_hook_of_one_prompt_acts_there():
    """The host's LoRA hooks: what KSampler makes of the hooked prompt, we do, and only of it."""
    name = "diffusion_model.blocks.0.self_attn.q"
    shift = torch.full_like(patcher().model.state_dict()[f"{name}.weight"], 0.2)
    hooks = comfy.hooks.create_hook_lora({f"{name}.diff": shift}, 1.0, 0.0)
    hooked = comfy.hooks.set_hooks_for_conditioning(texts()["target"], hooks)
    theirs, ours = sampled_by_both(patcher(), target=hooked)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-3)
    plain, _ = sampled_by_both(patcher())
    assert not torch.allclose(theirs, plain, atol=1e-2)


class Controlled(comfy.controlnet.ControlBase):
    """A control net that adds a number to the middle of the host's UNet."""

    def __init__(self, number: float) -> None:
        super().__init__()
        self.number, self.calls = number, []

    def get_control(self, x_noisy, t, cond, batched_number, transformer_options=None):
        self.calls.append(len(x_noisy))
        middle = torch.full((len(x_noisy), 64, *(n // 2 for n in x_noisy.shape[2:])), self.number)
        return {"middle": [middle], "output": []}

    def copy(self):
        return self


def check_a_control_net_on_a_prompt_acts_there():
    narrow = {side: [[given[0][0][..., :64], {}]] for side, given in texts().items()}
    model, _ = taken_image()
    (encoded,) = VideoVAEEncode().encode(model, CLIP[:3], 8, "mean", 0)
    z = layouts.latents_of(encoded["samples"], model)
    level = model.process.at(0.5)
    z_t = level.signal * z + level.noise * noise_like(z)

    def said(text: list) -> torch.Tensor:
        model, prompts = NativeModel().take(
            image_model(), image_vae(), **(narrow | {"target": text})
        )
        target = prompts.embeddings.target
        return model.run(z, lambda denoiser: denoiser(z_t, level, target)).z_0

    control = Controlled(1.0)
    held = [[narrow["target"][0][0], {"control": control, "control_apply_to_uncond": False}]]
    assert not torch.allclose(said(held), said(narrow["target"]), atol=1e-3)
    assert control.calls == [3]


def check_weights_in_fp8_edit_and_have_gradients_or_tell():
    options = {"dtype": torch.float8_e4m3fn}
    small = comfy.sd.load_diffusion_model(arguments[1], model_options=options)
    assert next(small.model.diffusion_model.blocks.parameters()).dtype == torch.float8_e4m3fn
    found, _, losses = edit(2, small)
    moved = found["samples"] - latent()["samples"]
    expected = edit(2)[0]["samples"] - latent()["samples"]
    cosine = torch.nn.functional.cosine_similarity(moved.flatten(), expected.flatten(), dim=0)
    assert cosine > 0.9, cosine
    if hasattr(comfy.model_management, "in_training"):
        (terms,) = SpatialSelfSimilarity().build(**default_inputs(SpatialSelfSimilarity))
        _, _, losses = edit(2, small, terms=terms)
        assert losses["loss"][1] > 0


def check_prompts_of_different_lengths():
    embedding = texts()["target"][0][0]
    short = [[embedding[:, :11], {}]]
    theirs, ours = sampled_by_both(patcher(), target=short)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-3)
    edit(1, target=short)
    (half,) = AttentionFusion().build(3, 0.5)
    edit(1, target=short, fusion=half)
    guider = EditGuider().guide(patcher(), **(texts() | {"target": short}), cfg=5.0)[0]
    sampled_by_the_host(distilling(1), all_sigmas(), guider=guider)


def counted():
    """A MODEL, and the number of clips in each of its calls so far."""
    calls = []

    def watch(apply, args):
        calls.append(len(args["input"]))
        return apply(args["input"], args["timestep"], **args["c"])

    watched = patcher().clone()
    watched.set_model_unet_function_wrapper(watch)
    return watched, calls


def check_without_guidance_each_clip_is_asked_once():
    watched, calls = counted()
    edit(2, watched, cfg=1.0)
    assert calls == [1] * 4


def check_a_model_distilled_to_few_steps_is_asked_at_its_own_sigmas():
    """As LoRAs of four steps want it: cfg 1, and only their levels, from the highest."""
    asked = []

    def watch(apply, args):
        asked.append(round(float(args["timestep"][0]), 4))
        return apply(args["input"], args["timestep"], **args["c"])

    watched = patcher().clone()
    watched.set_model_unet_function_wrapper(watch)
    guider = EditGuider().guide(watched, **texts(), cfg=1.0)[0]
    (terms,) = DeltaDenoising().build(1.0, 0.0, 1.0, weighting="velocity")
    sampler = distilling(4, terms, step_size=1.0, order="descending")
    sigmas = torch.tensor([1.0, 0.9375, 0.8333, 0.625, 0.0])
    found = sampled_by_the_host(sampler, sigmas, guider=guider)
    assert asked == [sigma for sigma in (1.0, 0.9375, 0.8333, 0.625) for _ in range(2)]
    more = distilling(5, terms, step_size=1.0, order="descending")
    refused("Set steps to 4", sampled_by_the_host, more, sigmas, guider=guider)
    assert not torch.allclose(found, latent()["samples"], atol=1e-2)


def lora_of(strength: float):
    other = patcher().clone()
    name = "diffusion_model.blocks.0.self_attn.q.weight"
    shift = torch.full_like(patcher().model.state_dict()[name], strength)
    other.add_patches({name: ("diff", (shift,))})
    return other


def check_a_lora_on_one_branch_stays_there():
    plain = edit(1)[0]["samples"]
    changed = edit(1, lora_of(0.2))[0]["samples"]
    assert not torch.allclose(plain, changed, atol=1e-3)
    assert torch.equal(edit(1)[0]["samples"], plain)
    other, _ = taken(lora_of(0.2))
    assert other.fingerprint != taken()[0].fingerprint


def check_patches_of_guidance_are_left_out():
    other = patcher().clone()
    other.set_model_sampler_cfg_function(lambda args: args["cond"] * 17)
    assert torch.equal(edit(1, other)[0]["samples"], edit(1)[0]["samples"])


def check_two_experts_share_one_run():
    """Wan 2.2's models for high and low noise, one after the other, each at its own levels."""
    asked = {"high": set(), "low": set()}

    def expert(name: str):
        def watch(apply, args):
            asked[name].add(float(args["timestep"][0]))
            return apply(args["input"], args["timestep"], **args["c"])

        other = patcher().clone()
        other.set_model_unet_function_wrapper(watch)
        return taken(other)

    (terms,) = DeltaDenoising().build(1.0, 0.0, 1.0)
    state = None
    for name, low, high in (("high", 0.5, 0.95), ("low", 0.05, 0.5)):
        model, prompts = expert(name)
        run = (model, prompts, latent(), terms, 2, 0.4, 5.0, 0, low, high, "sgd")
        _, state, _ = ScoreDistillation().run(*run, state=state)
    assert state.step == 4
    border = taken()[0].process.at(0.5).t
    assert min(asked["high"]) >= border >= max(asked["low"])


def check_two_experts_in_falling_order_swap_once():
    """As one model would go: first all levels of the high one, then those of the low one."""
    asked = []

    def expert(name: str):
        def watch(apply, args):
            asked.append((name, float(args["timestep"][0])))
            return apply(args["input"], args["timestep"], **args["c"])

        other = patcher().clone()
        other.set_model_unet_function_wrapper(watch)
        return taken(other)

    (terms,) = DeltaDenoising().build(1.0, 0.0, 1.0, weighting="velocity")
    state = None
    for name, low, high in (("high", 0.5, 0.9), ("low", 0.0, 0.5)):
        model, prompts = expert(name)
        run = (model, prompts, latent(), terms, 3, 1.0, 1.0, 0, low, high, "sgd")
        found, state, _ = ScoreDistillation().run(*run, state=state, order="descending")
    assert state.step == 6
    sigmas = [sigma for _, sigma in asked]
    assert sigmas == sorted(sigmas, reverse=True) and len(set(sigmas)) == 6
    assert [name for name, _ in asked] == ["high"] * 6 + ["low"] * 6
    assert not torch.equal(found["samples"], latent()["samples"])


def check_guidance_away_from_the_source_asks_three_times():
    """FlowAlign: the source once, unguided, and the edit under both prompts; no negative one."""
    watched, calls = counted()
    edit(2, watched, guidance="source as negative")
    assert calls == [1] * 6


def check_windows_begin_with_the_first_frame():
    """Of 16 pictures in windows of 9: three latent frames, and later ones with the clip's first."""
    lengths = []

    def watch(apply, args):
        lengths.append(args["input"].shape[2])
        return apply(args["input"], args["timestep"], **args["c"])

    watched = patcher().clone()
    watched.set_model_unet_function_wrapper(watch)
    edit(1, watched, cfg=1.0, window=9, overlap=4)
    assert sorted(set(lengths)) == [3, 4] and lengths[0] == 3


class Broken(RuntimeError):
    pass


def failing_at(call: int, error: BaseException):
    calls = iter(range(1000))

    def fail(apply, args):
        if next(calls) == call:
            raise error
        return apply(args["input"], args["timestep"], **args["c"])

    other = patcher().clone()
    other.set_model_unet_function_wrapper(fail)
    return other


def check_a_model_that_fails_and_cancel_leave_the_next_run_as_it_was():
    expected = edit(1)[0]["samples"]
    cancelled = comfy.model_management.InterruptProcessingException
    for error in (Broken("in the middle"), cancelled()):
        for call in range(5):
            try:
                edit(2, failing_at(call, error))
            except (Broken, cancelled) as raised:
                assert raised is error
            else:
                raise AssertionError(f"call {call} did not fail")
    assert torch.equal(edit(1)[0]["samples"], expected)


def alive() -> int:
    """How many tensors of the size of the latents there are."""
    gc.collect()
    size = latent()["samples"].numel()
    return sum(isinstance(o, torch.Tensor) and o.numel() == size for o in gc.get_objects())


def check_cancel_at_any_call_of_the_sampler_leaves_nothing_behind():
    """Between any two calls of the model, also while it records keys for a gradient."""
    (terms,) = DeltaDenoising().build(1.0, 0.0, 1.0)
    if hasattr(comfy.model_management, "in_training"):
        settings = default_inputs(SpatialSelfSimilarity) | {"weight": 1.0}
        (terms,) = SpatialSelfSimilarity().build(**settings, terms=terms)
    sampler, sigmas = distilling(2, terms), all_sigmas()
    expected = sampled_by_the_host(sampler, sigmas)
    watched, calls = counted()
    sampled_by_the_host(sampler, sigmas, guider=EditGuider().guide(watched, **texts(), cfg=5.0)[0])
    cancelled, before = comfy.model_management.InterruptProcessingException, alive()
    assert len(calls) >= 8
    for call in range(len(calls)):
        guider = EditGuider().guide(failing_at(call, cancelled()), **texts(), cfg=5.0)[0]
        try:
            sampled_by_the_host(sampler, sigmas, guider=guider)
        except cancelled:
            pass
        else:
            raise AssertionError(f"call {call} did not fail")
        del guider
        for module in patcher().model.diffusion_model.modules():
            assert not (module._forward_hooks or module._forward_pre_hooks), call
            assert "forward" not in vars(module), call
        assert alive() <= before, call
    assert torch.equal(sampled_by_the_host(sampler, sigmas), expected)


# --- a model of pictures: the host's Stable Diffusion at a small size ----------------------------


@cache
def image_model():
    config = {
        "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 32,
        "num_res_blocks": [1, 1], "channel_mult": [1, 2], "transformer_depth": [1, 1],
        "transformer_depth_output": [1, 1, 1, 1], "transformer_depth_middle": 1,
        "context_dim": 64, "num_heads": 4, "use_spatial_transformer": True, "legacy": False,
        "use_linear_in_transformer": False, "adm_in_channels": None, "dtype": torch.float32,
    }  # fmt: skip
    settings = comfy.supported_models.SD15(config)
    settings.manual_cast_dtype = None
    torch.manual_seed(0)
    model = comfy.model_base.BaseModel(settings, device=torch.device("cpu"))
    for weight in model.parameters():  # the host's layers are made without values
        torch.nn.init.normal_(weight, std=0.05)
    device = torch.device("cpu")
    return comfy.model_patcher.ModelPatcher(model.eval(), device, device)


@cache
def image_vae():
    torch.manual_seed(0)
    autoencoder = comfy.taesd.taesd.TAESD(latent_channels=4)
    for weight in autoencoder.parameters():
        torch.nn.init.normal_(weight, std=0.05)
    weights = autoencoder.state_dict()
    return comfy.sd.VAE(sd=weights, dtype=torch.float32)


def taken_image():
    narrow = {side: [[given[0][0][..., :64], {}]] for side, given in texts().items()}
    return NativeModel().take(image_model(), image_vae(), **narrow)


def check_a_model_of_pictures_edits_frame_by_frame():
    model, prompts = taken_image()
    (encoded,) = VideoVAEEncode().encode(model, CLIP[:3, :61], 8, "mean", 0)
    assert encoded["samples"].shape == (3, 4, 8, 8)
    (terms,) = DeltaDenoising().build(1.0, 0.0, 1.0)
    found, *_ = ScoreDistillation().run(
        model, prompts, encoded, terms, 2, 0.4, 5.0, 0, 0.05, 0.95, "sgd"
    )
    assert found["samples"].shape == (3, 4, 8, 8)
    assert VideoVAEDecode().decode(model, found, 8)[0].shape == (3, 61, 64, 3)
    z = layouts.latents_of(encoded["samples"], model)
    level = model.process.at(0.5)
    assert abs(level.signal**2 + level.noise**2 - 1) < 1e-9
    z_t = level.signal * z + level.noise * noise_like(z)
    said = model.run(z, lambda denoiser: denoiser(z_t, level, prompts.embeddings.source)).z_0
    frames = z_t[0].movedim(1, 0) / level.signal  # as the host has it: the clip, and noise added
    text = texts()["source"][0][0][..., :64].expand(3, -1, -1)
    expected = image_model().model.apply_model(frames, torch.full((3,), level.t), c_crossattn=text)
    torch.testing.assert_close(said[0].movedim(1, 0), expected, rtol=0, atol=1e-4)


def check_an_added_model_is_part_of_the_fingerprint():
    """As AnimateDiff-Evolved adds a motion module; the last weight alone may differ."""

    def moving(motion):
        changed = patcher().clone()
        changed.set_additional_models("motion", [motion])
        return changed

    motion = image_model().clone()
    prints = [taken(moving(motion))[0].fingerprint]
    assert taken(moving(motion.clone()))[0].fingerprint == prints[0]
    *_, last = motion.model.parameters()
    before = last.clone()
    last += 0.5
    prints.append(taken(moving(motion))[0].fingerprint)
    last.copy_(before)
    patched = motion.clone()
    patched.add_patches({"diffusion_model.out.2.bias": ("diff", (torch.ones(4),))})
    prints.append(taken(moving(patched))[0].fingerprint)
    assert len({taken()[0].fingerprint, *prints}) == 4, prints


def windowed(**changed):
    """The model with the host's own context windows."""
    options = {
        "context_length": 9, "context_overlap": 4, "context_schedule": "standard_static",
        "context_stride": 1, "closed_loop": False, "fuse_method": "pyramid", "freenoise": False,
    }  # fmt: skip
    node = nodes_context_windows.WanContextWindowsManualNode
    return node.execute(patcher(), **(options | changed))[0]


def with_function(number: float, where: str):
    """The model with one function of a node's, which holds a number."""
    changed = patcher().clone()

    def function(*args, **named):
        return number

    class Held:
        def __init__(self):
            self.number = number

        def __call__(self, *args, **named):
            return self.number

    options = changed.model_options["transformer_options"]
    if where == "wrapper of the network":
        changed.set_model_unet_function_wrapper(function)
    elif where == "wrapper of a run":
        kind = comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL
        changed.add_wrapper_with_key(kind, "named", function)
    elif where == "attention override":
        options["optimized_attention_override"] = partial(function, number=number)
    elif where == "attention patch":
        changed.set_model_attn1_patch(Held())
    elif where == "replaced block":
        changed.set_model_patch_replace(Held().__call__, "dit", "double_block", 1)
    elif where == "rope":
        options["rope_options"] = {"scale_t": number}
    elif where == "object":
        changed.add_object_patch("diffusion_model.note", torch.tensor([number]))
    elif where == "injection":
        changed.set_injections(
            "named", [comfy.patcher_extension.PatcherInjection(function, lambda patcher: None)]
        )
    elif where == "callback":
        kind = comfy.patcher_extension.CallbacksMP.ON_PRE_RUN
        changed.add_callback(kind, function)
    elif where == "attachment":
        changed.set_attachments("named", Held())
    return changed


WHERE = (
    "wrapper of the network", "wrapper of a run", "attention override", "attention patch",
    "replaced block", "rope", "object", "injection", "callback", "attachment",
)  # fmt: skip


def check_all_that_nodes_set_on_a_model_is_part_of_the_fingerprint():
    """Equal settings made anew are equal; others, and none, are not."""
    makers = {
        "context length": (lambda number: windowed(context_length=number), 9, 13),
        "context overlap": (lambda number: windowed(context_overlap=number), 0, 4),
        "fuse method": (lambda name: windowed(fuse_method=name), "pyramid", "overlap-linear"),
        "free noise": (lambda told: windowed(freenoise=told), False, True),
        "LoRA": (lora_of, 0.2, 0.3),
        **{where: (partial(with_function, where=where), 1.0, 2.0) for where in WHERE},
    }
    plain = taken()[0].fingerprint
    for name, (maker, first, second) in makers.items():
        prints = [taken(maker(value))[0].fingerprint for value in (first, first, second)]
        assert prints[0] == prints[1], f"{name} made anew is another model"
        assert len({plain, *prints}) == 3, f"{name} is not told apart"
        assert taken(maker(first).clone())[0].fingerprint == prints[0], name


def check_a_run_leaves_the_fingerprint_as_it_was():
    for model in (lora_of(0.2), windowed(), with_function(1.0, "attachment")):
        before = taken(model)[0].fingerprint
        edit(1, model)
        assert taken(model)[0].fingerprint == before


def check_one_number_of_any_weight_is_part_of_the_fingerprint():
    prints = {taken()[0].fingerprint}
    weights = list(patcher().model.parameters())
    for weight in (weights[0], weights[len(weights) // 2], weights[-1]):
        before = weight.clone()
        weight.flatten()[0] += 0.5
        prints.add(taken()[0].fingerprint)
        weight.copy_(before)
    assert len(prints) == 4 and taken()[0].fingerprint in prints, prints


def check_guidance_that_is_left_out_is_no_part_of_the_fingerprint():
    other = patcher().clone()
    other.set_model_sampler_cfg_function(lambda args: args["cond"] * 17, True)
    assert taken(other)[0].fingerprint == taken()[0].fingerprint


def check_what_prompts_hold_is_told_apart():
    """By what it says, and not by where it lies in memory; in any order."""
    ((embedding, _),) = texts()["target"]

    def name_of(**named) -> str:
        return taken(target=[[embedding, named]])[1].target

    def controlled(strength: float) -> str:
        return name_of(control=SimpleNamespace(strength=strength))

    assert len({name_of(), controlled(0.5), controlled(0.75)}) == 3
    assert controlled(0.5) == controlled(0.5)
    area = (8, 8, 0, 0)
    assert name_of(area=area, strength=0.5) == name_of(strength=0.5, area=area) != name_of()


# --- inside the network -------------------------------------------------------------------------


def keys_of(denoiser, z_t, level, cond, site, output: bool = True):
    recorder = Recorder([site], [0])

    def call(plan):
        return denoiser(z_t, level, cond, plan=plan)

    said = forward_recorded(call, [recorder], output=output)
    return recorder.at(site), said


def check_keys_are_those_of_diffusers_wan():
    """One transformer, two doors: the same keys of the same layer."""
    model, prompts = taken()
    z = model.latents_in(latent()["samples"])
    level = model.process.at(0.6)
    z_t = level.signal * z + level.noise * noise_like(z)
    text = texts()["source"][0][0]

    def work(denoiser):
        (site,) = denoiser.layers.find("blocks.5.*", "spatial")
        return keys_of(denoiser, z_t, level, prompts.embeddings.source, site)

    found, said = model.run(z, work)
    transformer = wan.load_transformer()
    layers = WanLayers(transformer)
    (site,) = layers.find("blocks.5.*", "spatial")
    recorder = Recorder([site], [0])

    def call(plan):
        with layers.installed(plan, [0]):
            return transformer(z_t, torch.tensor([1000 * level.t]), text[..., :64]).sample

    velocity = forward_recorded(call, [recorder])
    assert found.shape == (1, 5, 16, 128)
    torch.testing.assert_close(found, recorder.at(site), rtol=0, atol=1e-3)
    torch.testing.assert_close(said.z_0, z_t - level.noise * velocity, rtol=0, atol=1e-3)


def check_fusion_reads_the_source():
    plain = edit(2)[0]["samples"]
    (none,) = AttentionFusion().build(3, 1.0)
    (half,) = AttentionFusion().build(3, 0.5)
    assert torch.allclose(edit(2, fusion=none)[0]["samples"], plain, atol=1e-4)
    assert not torch.allclose(edit(2, fusion=half)[0]["samples"], plain, atol=1e-2)


def compares_keys() -> bool:
    """Whether this host has gradients, without which terms that compare keys tell so."""
    if hasattr(comfy.model_management, "in_training"):
        return True
    (terms,) = SpatialSelfSimilarity().build(**default_inputs(SpatialSelfSimilarity))
    refused("ComfyUI 0.14", edit, 1, terms=terms)
    return False


def default_inputs(node) -> dict:
    inputs = node.INPUT_TYPES()["required"].items()
    return {name: options["default"] for name, (_, options) in inputs if "default" in options}


def check_the_gradient_of_keys_is_that_of_finite_differences():
    if not compares_keys():
        return
    model, prompts = taken()
    z = model.latents_in(latent()["samples"])
    level = model.process.at(0.5)
    z_t = level.signal * z + level.noise * noise_like(z)
    direction = noise_like(z, 5)

    def work(denoiser):
        (site,) = denoiser.layers.find("blocks.7.*", "spatial")

        def loss(z_t):
            keys, _ = keys_of(denoiser, z_t, level, prompts.embeddings.target, site, False)
            return keys.double().square().sum()

        with torch.inference_mode(False), torch.enable_grad():
            leaf = z_t.clone().requires_grad_()
            (gradient,) = torch.autograd.grad(loss(leaf), leaf)
        step = 1e-2
        return gradient, (loss(z_t + step * direction) - loss(z_t - step * direction)) / (2 * step)

    gradient, expected = model.run(z, work)
    found = (gradient * direction).sum()
    assert abs(float(found / expected) - 1) < 5e-3, (found, expected)
    weights = [*patcher().model.diffusion_model.parameters()]
    assert all(weight.is_inference() for weight in weights)
    assert comfy.model_management.in_training is False


def check_self_similarity_holds_the_structure():
    if not compares_keys():
        return
    (terms,) = DeltaDenoising().build(1.0, 0.0, 1.0)
    settings = default_inputs(SpatialSelfSimilarity)
    (terms,) = SpatialSelfSimilarity().build(**settings, terms=terms)
    found, _, losses = edit(2, terms=terms)
    assert all(loss > 0 for loss in losses["loss"])
    assert not torch.equal(found["samples"], edit(2)[0]["samples"])


def check_quantised_weights_have_no_gradient():
    class Quantised(torch.Tensor):
        pass

    if not compares_keys():
        return
    layer = patcher().model.diffusion_model.blocks[0].self_attn.q
    weight = layer.weight
    (terms,) = SpatialSelfSimilarity().build(**default_inputs(SpatialSelfSimilarity))
    try:
        layer._parameters["weight"] = weight.as_subclass(Quantised)
        refused("are quantised", edit, 1, terms=terms)
    finally:
        layer._parameters["weight"] = weight


def check_a_family_that_is_not_known_is_told():
    model, prompts = taken_image()
    (encoded,) = VideoVAEEncode().encode(model, CLIP[:3], 8, "mean", 0)
    (terms,) = SpatialSelfSimilarity().build(**default_inputs(SpatialSelfSimilarity))
    run = (model, prompts, encoded, terms, 1, 0.4, 5.0, 0, 0.05, 0.95, "sgd")
    refused("nothing can look", ScoreDistillation().run, *run)


# --- words --------------------------------------------------------------------------------------


def worded(text: str) -> list:
    """What Shape-World Conditioning makes of a text, as wide as this host's Wan reads it."""
    (((embedding, named),),) = ShapeWorldConditioning().encode(text)
    width = patcher().model.diffusion_model.text_embedding[0].in_features
    return [[torch.nn.functional.pad(embedding, (0, width - embedding.shape[-1])), named]]


def seen_by(z, positions, text, looks, denoiser):
    return word_map(z, positions, text, denoiser, looks)


def check_words_are_found_in_the_clip_as_by_diffusers_wan():
    """The same map by the host's Wan and by ours; by the node it is brightest on the object."""
    # The host's clock for Wan lies higher than ours: 0.4 of it is noise of 0.84.
    settings = default_inputs(MaskFromWords) | {"t_min": 0.1, "t_max": 0.4}
    own, looks = load_shapeworld("shapeworld-wan"), Looks(0.2, 0.6, 2)
    for edit in suite("edits", 3, frames=9):
        scene, text = edited(edit).source, caption(edit.source)
        texts = {"source": worded(text), "target": worded(text), "negative": worded("")}
        model, prompts = NativeModel().take(patcher(), vae(), **texts)
        (encoded,) = VideoVAEEncode().encode(model, scene.clip, 8, "mean", 0)
        named = settings | {"words": edit.source.shape}
        mask, seen, _ = MaskFromWords().make(model, prompts, encoded, **named)
        assert mask.shape == scene.mask.shape
        inside, outside = (seen[..., 0][part].mean() for part in (scene.mask, ~scene.mask))
        assert inside > 1.2 * outside, (inside, outside)

        z, read = model.latents_in(encoded["samples"]), own.encode_prompt(text)
        places = find_word(read, edit.source.shape)
        assert find_word(model.encode_prompt(prompts.source), edit.source.shape) == places
        positions = [at for place in places for at in place]
        like_the_hosts = replace(
            own.denoiser,
            process=model.process,
            output=lambda z, sigma, cond: own.denoiser.output(z, 1000 * sigma, cond),
        )
        expected = word_map(z, positions, read.embedding, like_the_hosts, looks)
        found = model.run(z, partial(seen_by, z, positions, prompts.embeddings.source, looks))
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-3)


class Encoder:
    """A CLIP of the host's with a real tokenizer of its, and random embeddings of its tokens."""

    def __init__(self, tokenizer) -> None:
        self.tokenizer = tokenizer

    def tokenize(self, text: str) -> dict:
        return self.tokenizer.tokenize_with_weights(text)

    def encode_from_tokens_scheduled(self, tokens: dict) -> list:
        ((batch,),) = tokens.values()
        table = torch.randn(70000, 8, generator=torch.Generator().manual_seed(0))
        return [[table[[token for token, *_ in batch]][None], {"pooled_output": None}]]


CHINESE = "一只红色的狗在雪地里跑"  # a red dog runs in the snow


def sentence_pieces(folder: Path):
    """The host's tokenizer of Wan with a small vocabulary, learnt from captions and Chinese."""
    file = folder / "captions.txt"
    texts = [*(caption(edit.source) for edit in suite("edits", 40)), CHINESE]
    file.write_text("\n".join(texts), "utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(file), model_prefix=str(folder / "pieces"), vocab_size=60, pad_id=0, eos_id=1,
        unk_id=2, bos_id=-1, hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    data = (folder / "pieces.model").read_bytes()
    return wan_text.WanT5Tokenizer(tokenizer_data={"spiece_model": data}), data


def check_words_have_the_tokens_that_wans_tokenizer_makes_of_them():
    """Held to sentencepiece's own pieces, which side by side are the text."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer, data = sentence_pieces(Path(folder))
    own = sentencepiece.SentencePieceProcessor(model_proto=data)
    for text in ("a red circle, moving right", "a (large) reddish circle", CHINESE):
        ((embedding, named),) = EncodeNativePrompt().encode(Encoder(tokenizer), text)[0]
        found, pieces = named[PROMPT], own.encode(text, out_type=str)
        assert "".join(pieces).replace("▁", " ") == f" {text}"
        assert found.tokens == tuple(str(own.piece_to_id(piece)) for piece in pieces)
        ends = [len("".join(pieces[: i + 1])) - 1 for i in range(len(pieces))]
        told = found._replace(spans=tuple(pairwise([0, *ends])))
        for (word, at), (same, exact) in zip(words_of(found), words_of(told), strict=True):
            # A blank that is a piece of its own counts to the word after it.
            assert word == same and set(exact) <= set(at)
            assert {pieces[extra] for extra in set(at) - set(exact)} <= {"▁"}
        assert embedding.shape[1] == 512
    (positions,) = find_word(found, "红色")
    assert "".join(pieces[at] for at in positions).strip("▁") == "红色"


def check_words_have_the_tokens_that_clips_tokenizer_makes_of_them():
    text = "a red unicyclist, moving (very fast) rightwards"
    clip = Encoder(comfy.sd1_clip.SD1Tokenizer())
    ((embedding, named),) = EncodeNativePrompt().encode(clip, text)[0]
    numbers = [token for token, _ in clip.tokenize("unicyclist")["l"][0]]
    middle = numbers[1 : numbers.index(49407)]
    (positions,) = find_word(named[PROMPT], "unicyclist")
    assert len(middle) > 1
    assert [named[PROMPT].tokens[at] for at in positions] == [str(n) for n in middle]
    (positions,) = find_word(named[PROMPT], "very fast")
    numbers = [int(named[PROMPT].tokens[at]) for at in positions]
    assert clip.tokenizer.clip_l.tokenizer.decode(numbers) == "very fast"
    assert embedding.shape[1] == 77


def check_a_clip_of_two_text_encoders_is_told():
    class Both(Encoder):
        def tokenize(self, text: str) -> dict:
            return {"l": [[(1, 1.0)]], "t5xxl": [[(1, 1.0)]]}

    refused("l, t5xxl", EncodeNativePrompt().encode, Both(None), "a red circle")


# --- bad input ----------------------------------------------------------------------------------


def refused(words: str, work, *arguments, **named) -> None:
    """Holds that a piece of work is refused with a sentence that has these words."""
    try:
        work(*arguments, **named)
    except ValueError as error:
        assert words in str(error), error
    else:
        raise AssertionError(f"nothing was raised that says {words!r}")


def check_a_target_without_a_text_is_refused_before_anything_runs():
    """The text itself is not in a CONDITIONING: an empty one equals that of the negative."""
    empty = texts() | {"target": conditioning("")}
    words = "The target says the same as the negative"
    refused(words, NativeModel().take, patcher(), vae(), **empty)
    refused(words, EditGuider().guide, patcher(), **empty, cfg=5.0)


def check_a_vae_of_another_model_is_told():
    given = texts()
    refused("Load the VAE that belongs", NativeModel().take, patcher(), image_vae(), **given)
    refused("Load the VAE that belongs", NativeModel().take, image_model(), vae(), **given)


def check_latents_of_another_model_are_told():
    model, prompts = taken()
    (terms,) = DeltaDenoising().build(1.0, 0.0, 1.0)

    def run(samples, model=model):
        loop = ScoreDistillation()
        return loop.run(
            model, prompts, {"samples": samples}, terms, 1, 0.4, 5.0, 0, 0.05, 0.95, "sgd"
        )

    refused("[1, channels, frames, height, width]", run, torch.zeros(5, 4, 8, 8))
    refused("4 channels, WAN21 takes 16", run, torch.zeros(1, 4, 5, 8, 8))
    refused("one clip", run, torch.zeros(2, 16, 5, 8, 8))
    image, _ = taken_image()
    refused("[frames, channels, height, width]", run, latent()["samples"], image)
    refused("16 channels, BaseModel takes 4", run, torch.zeros(5, 16, 8, 8), image)
    packed = comfy.nested_tensor.NestedTensor([latent()["samples"], torch.zeros(1, 8, 5, 16)])
    refused("without sound", run, packed)


def check_the_sampler_tells_what_it_cannot_edit():
    sampler = distilling()

    def run(sigmas=None, samples=None, guider=None):
        samples = latent()["samples"] if samples is None else samples
        sigmas = all_sigmas() if sigmas is None else sigmas
        return sampled_by_the_host(sampler, sigmas, {"samples": samples}, guider)

    refused("SIGMAS are empty", run, torch.zeros(0))
    refused("SIGMAS are empty", run, torch.zeros(1))
    refused("Flip Sigmas", run, all_sigmas().flip(0))
    refused("another model's", run, torch.tensor([14.6, 3.0, 0.0]))
    refused("VAE", run, samples=torch.ones(1, 4, 5, 8, 8))
    refused("The latent is empty", run, samples=torch.zeros(1, 16, 5, 8, 8))
    refused("one at a time", run, samples=torch.ones(2, 16, 5, 8, 8))
    packed = comfy.nested_tensor.NestedTensor([latent()["samples"], torch.zeros(1, 8, 5, 16)])
    refused("sound", run, samples=packed)
    usual = comfy.samplers.CFGGuider(patcher())
    usual.set_conds(texts()["target"], texts()["negative"])
    refused("wire Edit Guider", run, guider=usual)
    of_pictures = EditGuider().guide(image_model(), **texts(), cfg=5.0)[0]
    frames = torch.ones(3, 4, 8, 8)
    refused("another model's", run, torch.tensor([80.0, 3.0, 0.0]), frames, of_pictures)
    refused("4 channels", run, samples=latent()["samples"], guider=of_pictures)


def check_prompts_of_another_model_are_told():
    model, _ = taken()
    _, others = taken(target=conditioning("a green triangle"))
    own = load_shapeworld("shapeworld-t2v")
    (pair, _) = EncodePromptPair().encode(own, "a red circle", "a blue circle", "")
    (terms,) = DeltaDenoising().build(1.0, 0.0, 1.0)
    for prompts in (others, pair):
        run = (prompts, latent(), terms, 1, 0.4, 5.0, 0, 0.05, 0.95, "sgd")
        refused("the same Native Model", ScoreDistillation().run, model, *run)
    refused("CLIP Text Encode", EncodePromptPair().encode, model, "a", "b", "")


def check_ways_to_add_noise_that_were_not_tried_are_told():
    refused("not been tried", taken, as_if(comfy.model_sampling.X0))


def check_a_mask_of_another_length_is_told():
    refused("mask has 13 frames and the clip has 16", edit, 1, mask=torch.ones(13, 64, 64))


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
