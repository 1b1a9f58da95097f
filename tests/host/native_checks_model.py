"""What may hang on a MODEL and a CONDITIONING, errors and Cancel, and models of pictures."""

import gc

import comfy.controlnet
import comfy.hooks
import comfy.model_management
import comfy.sd
import native_start
import torch
from native_start import (
    CLIP,
    Broken,
    all_sigmas,
    counted,
    default_inputs,
    distilling,
    edit,
    failing_at,
    image_model,
    image_vae,
    latent,
    lora_of,
    noise_like,
    patcher,
    refused,
    sampled_by_both,
    sampled_by_the_host,
    sigma_of,
    taken,
    taken_image,
    texts,
    watched,
)
from rescore.nodes import layouts
from rescore.nodes.assd import AttentionFusion
from rescore.nodes.distillation import ScoreDistillation
from rescore.nodes.latents import VideoVAEDecode, VideoVAEEncode
from rescore.nodes.native import (
    EditGuider,
    NativeModel,
)
from rescore.nodes.similarity import SpatialSelfSimilarity
from rescore.nodes.terms import DeltaDenoising


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
    small = comfy.sd.load_diffusion_model(native_start.arguments[1], model_options=options)
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


def check_without_guidance_each_clip_is_asked_once():
    counting, calls = counted()
    edit(2, counting, cfg=1.0)
    assert calls == [1] * 4


def check_a_model_distilled_to_few_steps_is_asked_at_its_own_sigmas():
    """As LoRAs of four steps want it: cfg 1, and only their levels, from the highest."""
    asked = []
    noting = watched(lambda args: asked.append(round(sigma_of(args), 4)))
    guider = EditGuider().guide(noting, **texts(), cfg=1.0)[0]
    (terms,) = DeltaDenoising().build(1.0, 0.0, 1.0, weighting="velocity")
    sampler = distilling(4, terms, step_size=1.0, order="descending")
    sigmas = torch.tensor([1.0, 0.9375, 0.8333, 0.625, 0.0])
    found = sampled_by_the_host(sampler, sigmas, guider=guider)
    assert asked == [sigma for sigma in (1.0, 0.9375, 0.8333, 0.625) for _ in range(2)]
    more = distilling(5, terms, step_size=1.0, order="descending")
    refused("Set steps to 4", sampled_by_the_host, more, sigmas, guider=guider)
    assert not torch.allclose(found, latent()["samples"], atol=1e-2)


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
        other = watched(lambda args: asked[name].add(sigma_of(args)))
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
        other = watched(lambda args: asked.append((name, sigma_of(args))))
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
    counting, calls = counted()
    edit(2, counting, guidance="source as negative")
    assert calls == [1] * 6


def check_windows_begin_with_the_first_frame():
    """Of 16 pictures in windows of 9: three latent frames, and later ones with the clip's first."""
    lengths = []
    noting = watched(lambda args: lengths.append(args["input"].shape[2]))
    edit(1, noting, cfg=1.0, window=9, overlap=4)
    assert sorted(set(lengths)) == [3, 4] and lengths[0] == 3


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
    counting, calls = counted()
    sampled_by_the_host(sampler, sigmas, guider=EditGuider().guide(counting, **texts(), cfg=5.0)[0])
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
