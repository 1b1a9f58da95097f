"""A MODEL of ComfyUI-AnimateDiff-Evolved as a model of ReScore, in a host's process.

usage: python native_animatediff.py COMFYUI FOUND --cpu

The pack lies in the custom_nodes of the host. Stable Diffusion 1.5 and a motion module have their
real sizes, because the pack knows no others, and random weights: 8 GB of memory.
Each function whose name begins with `check` is run; FOUND becomes a JSON file that says of each
what went wrong, or nothing.
"""

import sys
import tempfile
from functools import cache, partial
from pathlib import Path

if __name__ == "__main__":
    arguments = sys.argv[1:3]
    sys.path.insert(0, str(Path(arguments[0]).resolve()))
    del sys.argv[1:3]  # what is left is for the host, which reads the command line on import
    import comfy.options

    comfy.options.enable_args_parsing()

import comfy.ldm.modules.diffusionmodules.openaimodel as unets
import comfy.ops
import comfy.sample
import comfy.samplers
import comfy.sd
import folder_paths
import native_start as checks  # beside this file
import torch
from comfy_extras import nodes_custom_sampler
from rescore.nodes import layouts
from rescore.nodes.distillation import ScoreDistillation
from rescore.nodes.latents import VideoVAEEncode
from rescore.nodes.native import EditGuider, NativeModel
from rescore.nodes.similarity import SpatialSelfSimilarity
from rescore.nodes.terms import DeltaDenoising
from safetensors.torch import save_file

NAME = "ComfyUI-AnimateDiff-Evolved"
CLIP = checks.CLIP[:5]
SETTINGS = {
    "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 320,
    "num_res_blocks": [2, 2, 2, 2], "channel_mult": [1, 2, 4, 4],
    "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0], "transformer_depth_middle": 1,
    "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
    "context_dim": 768, "num_heads": 8, "use_spatial_transformer": True, "legacy": False,
}  # fmt: skip


# --- what the loaders of the host and of the pack give -------------------------------------------


def node(name: str, **inputs):
    """The first output of a node of the pack."""
    kind = checks.pack(NAME).NODE_CLASS_MAPPINGS[name]
    return getattr(kind(), kind.FUNCTION)(**inputs)[0]


def random_like(weights: dict, seed: int) -> dict:
    """Weights of the same names and shapes that keep the size of what goes through them."""
    drawn, generator = {}, torch.Generator().manual_seed(seed)
    for name, weight in weights.items():
        if weight.ndim > 1:
            values = torch.empty(weight.shape).normal_(generator=generator)
            values *= weight[0].numel() ** -0.5
        else:
            values = torch.full(weight.shape, float(name.endswith("weight")))
        drawn[name] = values.half()
    return drawn


@cache
def stable_diffusion():
    """Stable Diffusion 1.5 by the host's loader."""
    network = unets.UNetModel(
        **SETTINGS, dtype=torch.float16, device="meta", operations=comfy.ops.disable_weight_init
    )
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        file = Path(folder) / "sd15.safetensors"
        save_file(random_like(network.state_dict(), 0), file)
        return comfy.sd.load_diffusion_model(str(file), model_options={"dtype": torch.float32})


def names_of_the_motion_module() -> dict:
    """Names and shapes of AnimateDiff v3, by the pack's own class."""
    module = sys.modules[f"{checks.pack(NAME).__name__}.animatediff.motion_module_ad"]
    block = "motion_modules.0.temporal_transformer.transformer_blocks.0.attention_blocks.1"
    ends = [f"{part}_blocks.3.{block}.pos_encoder.pe" for part in ("down", "up")]
    told = dict.fromkeys(ends, torch.zeros(1, 32, 1))  # what the pack tells the version by
    with torch.device("meta"):
        told, info = module.normalize_ad_state_dict(told, "v3")
        assert info.mm_version == "v3"
        return module.AnimateDiffModel(told, info).state_dict()


@cache
def motion_module():
    """A motion module with random weights, by the pack's loader."""
    names = names_of_the_motion_module()
    weights = random_like(names, 1)
    for name, weight in names.items():
        if name.endswith("pos_encoder.pe"):
            weights[name] = torch.randn(weight.shape, generator=torch.Generator().manual_seed(3))
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        save_file(weights, Path(folder) / "motion.safetensors")
        folder_paths.add_model_folder_path("animatediff_models", folder)
        return node("ADE_LoadAnimateDiffModel", model_name="motion.safetensors")


@cache
def moving(**context):
    """Stable Diffusion with motion, as the pack's Gen2 nodes give it; perhaps in windows."""
    motion = node("ADE_ApplyAnimateDiffModel", motion_model=motion_module())
    windows = node("ADE_StandardUniformContextOptions", **context) if context else None
    return node(
        "ADE_UseEvolvedSampling", model=stable_diffusion(), beta_schedule="autoselect",
        m_models=motion, context_options=windows,
    )  # fmt: skip


WINDOWS = {"context_length": 3, "context_stride": 1, "context_overlap": 1}


@cache
def texts() -> dict:
    generator = torch.Generator().manual_seed(5)
    sides = ("source", "target", "negative")
    return {side: [[torch.randn(1, 77, 768, generator=generator), {}]] for side in sides}


def taken(patcher, **changed):
    return NativeModel().take(patcher, checks.image_vae(), **(texts() | changed))


@cache
def latent() -> dict:
    model, _ = taken(stable_diffusion())
    return VideoVAEEncode().encode(model, CLIP, 8, "mean", 0)[0]


# --- predictions --------------------------------------------------------------------------------


@cache
def predicted(patcher, order=(0, 1, 2, 3, 4), share: float = 0.6):
    """The prediction of ReScore for the target, of the frames in an order: `[f, c, h, w]`."""
    model, prompts = taken(patcher)
    level = model.process.at(share)
    noise = as_clip(nodes_custom_sampler.Noise_RandomNoise(7).generate_noise(latent()))
    z_t = level.signal * layouts.latents_of(latent()["samples"], model) + level.noise * noise
    z_t = z_t[:, :, list(order)]
    said = model.run(z_t, lambda denoiser: denoiser(z_t, level, prompts.embeddings.target).z_0)
    return layouts.samples_of(said, model)


def as_clip(samples):
    return samples.movedim(0, 1)[None]


def said_by_the_host(patcher, share: float = 0.6):
    """The same by SamplerCustomAdvanced: a step of Euler to sigma 0 goes to the prediction."""
    level = taken(patcher)[0].process.at(share)
    guider = nodes_custom_sampler.Guider_Basic(patcher)
    guider.set_conds(texts()["target"])
    euler, sigmas = comfy.samplers.sampler_object("euler"), torch.tensor([level.t, 0.0])
    return checks.sampled_by_the_host(euler, sigmas, latent(), guider, 7)


def check_the_prediction_is_the_hosts_own():
    found = predicted(moving())
    torch.testing.assert_close(found, said_by_the_host(moving()), rtol=1e-3, atol=1e-3)
    assert not torch.allclose(found, predicted(stable_diffusion()), atol=1e-1)


def check_the_prediction_is_the_hosts_own_in_context_windows():
    found = predicted(moving(**WINDOWS))
    torch.testing.assert_close(found, said_by_the_host(moving(**WINDOWS)), rtol=1e-3, atol=1e-3)
    assert not torch.allclose(found, predicted(moving()), atol=1e-2)


def check_frames_are_seen_in_their_order():
    """Shuffled frames are predicted shuffled by the model of pictures alone."""
    order = (3, 0, 4, 2, 1)
    still, moves = stable_diffusion(), moving()
    torch.testing.assert_close(
        predicted(still, order), predicted(still)[list(order)], rtol=0, atol=1e-3
    )
    assert not torch.allclose(predicted(moves, order), predicted(moves)[list(order)], atol=1e-2)


def check_a_frame_hears_the_others():
    """Without the last frame, the others are predicted otherwise."""
    still, moves = stable_diffusion(), moving()
    torch.testing.assert_close(
        predicted(still, (0, 1, 2, 3)), predicted(still)[:4], rtol=0, atol=1e-3
    )
    assert not torch.allclose(predicted(moves, (0, 1, 2, 3)), predicted(moves)[:4], atol=1e-2)


# --- edits --------------------------------------------------------------------------------------


def edit(patcher, steps: int = 1, terms=None, samples=None, **changed):
    model, prompts = taken(patcher, **changed)
    if terms is None:
        (terms,) = DeltaDenoising().build(1.0, 0.0, 1.0)
    run = (model, prompts, samples or latent(), terms, steps, 0.4, 5.0, 7, 0.0, 1.0, "sgd")
    return ScoreDistillation().run(*run)[0]["samples"]


def edit_by_sampler(patcher, terms=None, **changed):
    guider = EditGuider().guide(patcher, **(texts() | changed), cfg=5.0)[0]
    sigmas = patcher.get_model_object("model_sampling").sigmas.flip(0)
    sampler = checks.distilling(1, terms)
    return checks.sampled_by_the_host(sampler, sigmas, latent(), guider, 7)


def check_both_nodes_edit_alike():
    for patcher in (moving(), moving(**WINDOWS)):
        found = edit(patcher)
        assert found.shape == (5, 4, 8, 8)
        torch.testing.assert_close(edit_by_sampler(patcher), found, rtol=1e-3, atol=1e-3)
        assert not torch.allclose(found, latent()["samples"], atol=1e-2)
        assert not torch.allclose(found, edit(stable_diffusion()), atol=1e-2)


def check_equal_prompts_change_nothing():
    for patcher in (moving(), moving(**WINDOWS)):
        same = {"target": texts()["source"]}
        assert torch.equal(edit(patcher, **same), latent()["samples"])
        found = edit_by_sampler(patcher, **same)  # the host scales latents, and back
        torch.testing.assert_close(found, latent()["samples"], rtol=1e-5, atol=1e-5)


def check_no_term_looks_into_it():
    settings = checks.default_inputs(SpatialSelfSimilarity)
    (terms,) = SpatialSelfSimilarity().build(**settings)
    checks.refused("nothing can look", edit, moving(), terms=terms)
    checks.refused("nothing can look", edit_by_sampler, moving(), terms=terms)


def check_a_gradient_goes_through_it():
    """The gradient on the noised clip is that of finite differences."""
    model, prompts = taken(moving())
    z, level = layouts.latents_of(latent()["samples"], model), model.process.at(0.5)
    z_t = level.signal * z + level.noise * checks.noise_like(z)

    def work(denoiser):
        def loss(z_t):
            said = denoiser(z_t, level, prompts.embeddings.target).z_0
            return said.double().square().sum()

        checks.gradient_held_to_slopes(loss, z_t, 3e-3)

    model.run(z, work)


def check_more_frames_than_the_module_knows_are_told():
    many = {"samples": latent()["samples"][:1].repeat(33, 1, 1, 1)}
    checks.refused("has upper limit of 32 frames", edit, moving(), samples=many)


# --- what is left behind ------------------------------------------------------------------------


def check_nothing_is_left_in_the_model_of_pictures():
    """The host takes the motion out when it next loads the model without it."""
    sampling, before = comfy.samplers.sampling_function, edit(stable_diffusion())
    for run in (partial(edit, moving()), check_more_frames_than_the_module_knows_are_told):
        run()
        assert comfy.samplers.sampling_function is sampling
        assert torch.equal(edit(stable_diffusion()), before)
        names = [type(part).__name__ for part in stable_diffusion().model.modules()]
        assert "VanillaTemporalModule" not in names


def check_a_run_leaves_the_fingerprint_as_it_was():
    prints = {taken(stable_diffusion())[0].fingerprint}
    for patcher in (moving(), moving(**WINDOWS)):
        before = taken(patcher)[0].fingerprint
        prints.add(before)
        edit(patcher)
        assert taken(patcher)[0].fingerprint == before
    assert len(prints) == 3


if __name__ == "__main__":
    checks.arguments = [arguments[0], "", ""]
    checks.run_checks(globals(), arguments[1])
