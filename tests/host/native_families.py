"""Families of video models, as ComfyUI's own loaders make them, as models of ReScore's.

usage: python native_families.py COMFYUI FOUND --cpu

Every model is small, and its weights are random. Each function whose name begins with `check` is
run for each family; FOUND becomes a JSON file that says of each what went wrong, or nothing, or
"lacks ..." where this host does not have what is needed.
"""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

if __name__ == "__main__":
    arguments = sys.argv[1:3]
    sys.path.insert(0, str(Path(arguments[0]).resolve()))
    del sys.argv[1:3]  # what is left is for the host, which reads the command line on import
    import comfy.options

    comfy.options.enable_args_parsing()

import comfy.latent_formats
import comfy.ldm.hunyuan_video.model
import comfy.ldm.lightricks.av_model
import comfy.ldm.lightricks.model
import comfy.ldm.lightricks.vae.causal_video_autoencoder
import comfy.ldm.wan.model
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.samplers
import comfy.sd
import comfy.supported_models
import comfy.taesd.taehv
import torch
from comfy_extras import nodes_custom_sampler
from native_start import (  # beside this file
    default_inputs,
    gradient_held_to_slopes,
    gradient_of,
    keys_of,
    noise_like,
    refused,
    run_checks,
)
from rescore.attention.layers import Entry
from rescore.nodes.assd import AttentionFusion
from rescore.nodes.attention_sampling import AttentionControlledSampling
from rescore.nodes.distillation import ScoreDistillation
from rescore.nodes.edit_masks import MaskFromGradient, MaskFromWords
from rescore.nodes.host import conditioning
from rescore.nodes.inspect import InspectGradient
from rescore.nodes.inversion import DDIMInversion
from rescore.nodes.latents import VideoVAEDecode, VideoVAEEncode
from rescore.nodes.native import DistillationSampler, EditGuider, NativeModel
from rescore.nodes.similarity import SpatialSelfSimilarity
from rescore.nodes.terms import DeltaDenoising
from rescore.pipelines.masks.edit_masks import Looks, word_map
from rescore.pipelines.models.text import EncodedPrompt
from rescore.pipelines.models.words import words_of

TEXT = 24  # numbers of a token of the text
WEIGHT = 0.08  # deviation of random weights


@dataclass(frozen=True, eq=False)
class Family:
    """What the host makes of a family's files, and what a latent frame shows."""

    name: str
    load: Callable[[], object]  # the MODEL
    load_vae: Callable[[], object]
    condition: Callable[[int], list]  # a CONDITIONING, by the seed of its random text
    channels: int
    pixels: int
    frames: int
    looks_inside: bool = True
    reads_text_apart: bool = True

    @cached_property
    def patcher(self):
        return self.load()

    @cached_property
    def vae(self):
        return self.load_vae()

    @cached_property
    def texts(self) -> dict:
        return {side: self.condition(i) for i, side in enumerate(("source", "target", "negative"))}

    def taken(self, **changed):
        model = changed.pop("model", self.patcher)
        return NativeModel().take(model, self.vae, **(self.texts | changed))

    @cached_property
    def latent(self) -> dict:
        """Random latents of 1 + 2 latent frames, 4 x 6."""
        size = (1, self.channels, 3, 4, 6)
        samples = torch.randn(size, generator=torch.Generator().manual_seed(11))
        return {"samples": self.patcher.model.process_latent_out(samples)}

    @property
    def clip_shape(self) -> tuple[int, ...]:
        return (1 + 2 * self.frames, 4 * self.pixels, 6 * self.pixels)


# --- what loaders make of small files -----------------------------------------------------------


def filled(module, seed: int = 0):
    """The same module with random weights: the host's layers are made without values."""
    generator = torch.Generator().manual_seed(seed)
    for name, weight in module.named_parameters():
        scale = float(weight.ndim == 1 and "norm" in name and name.endswith("weight"))
        weight.data = scale + WEIGHT * torch.randn(weight.shape, generator=generator)
    return module


def weights_of(network, **config) -> dict:
    plain = {"operations": comfy.ops.disable_weight_init, "dtype": torch.float32, "device": "cpu"}
    return filled(network(**config, **plain)).state_dict()


def loaded(weights: dict, config: dict | None = None):
    """What the host's Load Diffusion Model detects and makes of weights and their metadata."""
    metadata = None if config is None else {"config": json.dumps({"transformer": config})}
    return comfy.sd.load_diffusion_model_state_dict(
        weights, model_options={"dtype": torch.float32}, metadata=metadata
    )


def ltxv():
    config = {
        "num_attention_heads": 4, "attention_head_dim": 16, "cross_attention_dim": 64,
        "caption_channels": TEXT, "num_layers": 3, "in_channels": 128,
    }  # fmt: skip
    return loaded(weights_of(comfy.ldm.lightricks.model.LTXVModel, **config), config)


def ltx_2():
    """A transformer of video and sound."""
    config = {
        "num_attention_heads": 4, "attention_head_dim": 16, "cross_attention_dim": 64,
        "audio_num_attention_heads": 4, "audio_attention_head_dim": 8,
        "audio_cross_attention_dim": 32, "caption_channels": TEXT, "num_layers": 1,
        "in_channels": 128, "audio_in_channels": 128,
    }  # fmt: skip
    return loaded(weights_of(comfy.ldm.lightricks.av_model.LTXAVModel, **config), config)


def ltxv_vae():
    """The host's own autoencoder with one thin block at each size."""
    halved = ["compress_all", {}]
    config = {
        "dims": 3, "in_channels": 3, "out_channels": 3, "latent_channels": 128, "patch_size": 4,
        "norm_layer": "pixel_norm", "latent_log_var": "uniform", "use_quant_conv": False,
        "causal_decoder": False, "encoder_base_channels": 8, "decoder_base_channels": 8,
        "encoder_blocks": [["res_x", {"num_layers": 1}], halved, halved, halved],
        "decoder_blocks": [halved, halved, halved, ["res_x", {"num_layers": 1}]],
    }  # fmt: skip
    network = comfy.ldm.lightricks.vae.causal_video_autoencoder.VideoVAE(config=config)
    weights = filled(network).state_dict()
    weights["per_channel_statistics.mean-of-means"] = torch.zeros(128)
    weights["per_channel_statistics.std-of-means"] = torch.ones(128)
    metadata = {"config": json.dumps({"vae": config})}
    return comfy.sd.VAE(sd=weights, metadata=metadata, dtype=torch.float32)


def tiny_vae(channels: int, dtype=torch.float32):
    """The host's small autoencoder of video, as TAEHV, TAEW and LightTAE are loaded."""
    network = filled(comfy.taesd.taehv.TAEHV(latent_channels=channels))
    weights = {name: weight.to(dtype) for name, weight in network.state_dict().items()}
    return comfy.sd.VAE(sd=weights, dtype=torch.float32)


def hunyuan_video():
    weights = weights_of(
        comfy.ldm.hunyuan_video.model.HunyuanVideo,
        in_channels=16, out_channels=16, vec_in_dim=768, context_in_dim=TEXT, hidden_size=128,
        mlp_ratio=4.0, num_heads=1, depth=2, depth_single_blocks=2, axes_dim=[16, 56, 56],
        theta=256, patch_size=[1, 2, 2], qkv_bias=True, guidance_embed=True, byt5=False,
        meanflow=False, use_cond_type_embedding=False, vision_in_dim=None, meanflow_sum=False,
    )  # fmt: skip
    return loaded(weights)


def wan22_5b():
    weights = weights_of(
        comfy.ldm.wan.model.WanModel, model_type="t2v", dim=128, ffn_dim=96, num_heads=1,
        num_layers=3, in_dim=48, out_dim=48, text_dim=4096,
    )  # fmt: skip
    return loaded(weights)


def wan_i2v():
    """A Wan that begins with a picture, of which its cross-attention reads a description, too."""
    weights = weights_of(
        comfy.ldm.wan.model.WanModel, model_type="i2v", dim=128, ffn_dim=96, num_heads=1,
        num_layers=2, in_dim=36, out_dim=16, text_dim=4096,
    )  # fmt: skip
    return loaded(weights)


def mochi():
    """Its loader knows one size alone: the host's classes at a smaller one."""
    config = {
        "image_model": "mochi_preview", "depth": 2, "patch_size": 2, "num_heads": 2,
        "hidden_size_x": 48, "hidden_size_y": 32, "mlp_ratio_x": 256.0, "mlp_ratio_y": 4.0,
        "learn_sigma": False, "in_channels": 12, "qk_norm": True, "qkv_bias": False,
        "out_bias": True, "attn_drop": 0.0, "patch_embed_bias": True, "posenc_preserve_area": True,
        "timestep_mlp_bias": True, "attend_to_padding": False, "timestep_scale": 1000.0,
        "use_t5": True, "t5_feat_dim": TEXT, "t5_token_length": 7, "rope_theta": 10000.0,
        "dtype": torch.float32,
    }  # fmt: skip
    return modelled(comfy.supported_models.GenmoMochi(config), comfy.model_base.GenmoMochi)


def modelled(settings, kind):
    settings.manual_cast_dtype = None
    device = torch.device("cpu")
    model = filled(kind(settings, device=device).eval())
    return comfy.model_patcher.ModelPatcher(model, device, device)


class NoVAE:
    """In the place of a VAE that has one size alone: only what it says of itself is asked."""

    latent_channels, latent_dim = 12, 3

    def spacial_compression_encode(self):
        return 8

    def temporal_compression_decode(self):
        return 6


def text(seed: int, width: int = TEXT, length: int = 7):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(1, length, width, generator=generator)


def filled_up(seed: int) -> list:
    """As text encoders that fill texts up to one length give it: masked."""
    mask = torch.ones(1, 7, dtype=torch.long)
    mask[:, 5:] = 0
    return [[text(seed), {"attention_mask": mask, "frame_rate": 24}]]


def pooled(seed: int) -> list:
    return [[text(seed), {"pooled_output": text(seed, 768, 1)[:, 0], "guidance": 5.0}]]


def plain(seed: int) -> list:
    return [[text(seed, 4096), {}]]


class Described:
    """What CLIP Vision Encode makes of a picture."""

    penultimate_hidden_states = text(3, 1280, 257)


def pictured(seed: int) -> list:
    return [[text(seed, 4096), {"clip_vision_output": Described()}]]


def unmasked(seed: int) -> list:
    return [[text(seed), {"attention_mask": torch.ones(1, 7, dtype=torch.bool)}]]


def masked_pooled(seed: int) -> list:
    ((given, named),) = pooled(seed)
    return [[given, named | {"attention_mask": filled_up(seed)[0][1]["attention_mask"]}]]


half = torch.float16  # by which the host tells HunyuanVideo's small autoencoder from Wan's
FAMILIES = {
    family.name: family
    for family in (
        Family("ltxv", ltxv, ltxv_vae, filled_up, 128, 32, 8),
        Family("hunyuan_video", hunyuan_video, lambda: tiny_vae(16, half), pooled, 16, 8, 4,
               reads_text_apart=False),
        Family("hunyuan_video_filled_up", hunyuan_video, lambda: tiny_vae(16, half), masked_pooled,
               16, 8, 4, reads_text_apart=False),
        Family("wan22_5b", wan22_5b, lambda: tiny_vae(48), plain, 48, 16, 4),
        Family("wan_i2v", wan_i2v, lambda: tiny_vae(16), pictured, 16, 8, 4),
        Family("mochi", mochi, NoVAE, unmasked, 12, 8, 6, looks_inside=False),
    )
}  # fmt: skip


# --- checks -------------------------------------------------------------------------------------


def delta_denoising():
    return DeltaDenoising().build(1.0, 0.0, 1.0)[0]


def edit(family, terms=None, steps: int = 2, **changed):
    optional = {name: changed.pop(name) for name in ("fusion", "mask") if name in changed}
    model, prompts = family.taken(**changed)
    return ScoreDistillation().run(
        model, prompts, family.latent, delta_denoising() if terms is None else terms,
        steps, 0.4, 5.0, 7, 0.0, 1.0, "sgd", **optional,
    )  # fmt: skip


class Asking(comfy.samplers.Sampler):
    """A sampler of the host's that asks once, for the clean clip in noised latents."""

    def __init__(self, z_t, sigma: float) -> None:
        self.z_t, self.sigma = z_t, torch.tensor([sigma])

    def sample(self, model_wrap, sigmas, extra_args, *_, **__):
        self.said = model_wrap(self.z_t, self.sigma, **extra_args)
        return self.z_t


def check_the_prediction_is_the_hosts_own(family):
    model, prompts = family.taken()
    z = model.latents_in(family.latent["samples"])
    level = model.process.at(0.6)
    z_t = level.signal * z + level.noise * noise_like(z)
    found = model.run(z, lambda denoiser: [denoiser(z_t, level, c).z_0 for c in prompts.embeddings])
    for said, (side, given) in zip(found, family.texts.items(), strict=True):
        guider, sampler = comfy.samplers.CFGGuider(family.patcher), Asking(z_t, level.t)
        guider.set_conds(given, family.texts["negative"])
        guider.set_cfg(1.0)
        clip = family.latent["samples"]
        guider.sample(torch.zeros_like(clip), clip, sampler, torch.tensor([level.t, 0.0]), seed=0)
        torch.testing.assert_close(said, sampler.said, rtol=0, atol=1e-5, msg=side)
    assert not torch.allclose(found[0], found[1], atol=1e-3)


def check_an_edit_moves_and_equal_prompts_move_nothing(family):
    found, _, losses = edit(family)
    assert all(loss > 0 for loss in losses["loss"])
    assert not torch.allclose(found["samples"], family.latent["samples"], atol=1e-3)
    found, _, losses = edit(family, target=family.texts["source"])
    assert losses["loss"] == [0, 0]
    torch.testing.assert_close(found["samples"], family.latent["samples"], rtol=0, atol=1e-5)


def check_the_sampler_equals_score_distillation(family):
    expected, *_ = edit(family, steps=3)
    (guider,) = EditGuider().guide(family.patcher, **family.texts, cfg=5.0)
    (sampler,) = DistillationSampler().build(
        terms=delta_denoising(), steps=3, step_size=0.4, optimiser="sgd"
    )
    sigmas = family.patcher.get_model_object("model_sampling").sigmas.flip(0)
    sampling, noise = nodes_custom_sampler.SamplerCustomAdvanced, nodes_custom_sampler
    found = sampling.execute(
        noise.Noise_RandomNoise(7), guider, sampler, sigmas, {"samples": family.latent["samples"]}
    ).args[0]["samples"]
    torch.testing.assert_close(found, expected["samples"], rtol=0, atol=1e-4)
    assert not torch.allclose(found, family.latent["samples"], atol=1e-3)


def check_a_mask_of_pictures_confines_the_edit_by_either_node(family):
    frames, height, width = family.clip_shape
    mask = torch.zeros(frames, height, width)
    mask[:, :, width // 2 :] = 1
    start = family.latent["samples"]
    by_loop = edit(family, mask=mask)[0]["samples"]
    (guider,) = EditGuider().guide(family.patcher, **family.texts, cfg=5.0)
    (sampler,) = DistillationSampler().build(
        terms=delta_denoising(), steps=2, step_size=0.4, optimiser="sgd"
    )
    sigmas = family.patcher.get_model_object("model_sampling").sigmas.flip(0)
    by_sampler = nodes_custom_sampler.SamplerCustomAdvanced.execute(
        nodes_custom_sampler.Noise_RandomNoise(7), guider, sampler, sigmas,
        {"samples": start, "noise_mask": mask},
    ).args[0]["samples"]  # fmt: skip
    for found in (by_loop, by_sampler):
        torch.testing.assert_close(found[..., :3], start[..., :3], rtol=0, atol=1e-5)
        assert not torch.allclose(found[..., 3:], start[..., 3:], atol=1e-3)


def check_latents_are_inverted_and_come_back(family):
    model, prompts = family.taken()
    inverted, noise = DDIMInversion().invert(model, prompts, family.latent, 20, 1.0, 2)
    settings = default_inputs(AttentionControlledSampling) | {
        "cfg": 1.0, "layout_control": False, "background_control": False, "prompt_control": "off",
    }  # fmt: skip
    same, equal = family.taken(target=family.texts["source"])
    found, _ = AttentionControlledSampling().sample(same, equal, inverted, **settings)
    start = family.latent["samples"]
    error = (found["samples"] - start).norm() / start.norm()
    assert error < 0.05, error
    assert noise["samples"].shape == start.shape


def check_gradients_and_masks_are_shown_on_the_clips_pictures(family):
    model, prompts = family.taken()
    terms = delta_denoising()
    energy, mask, _ = InspectGradient().inspect(model, prompts, family.latent, terms, 0.5, 5.0, 0)
    assert energy.shape == (*family.clip_shape, 3) and mask.shape == family.clip_shape
    settings = default_inputs(MaskFromGradient) | {"timesteps": 1, "draws": 1}
    made = MaskFromGradient().make(model, prompts, family.latent, terms, **settings)
    assert made[0].shape == family.clip_shape
    assert 0 < made[0].mean() < 1


def with_words(family, seen: int | None = None) -> list:
    """The source's CONDITIONING, of as many words as it has tokens, or as its mask shows."""
    ((given, named),) = family.texts["source"]
    letters = "abcdefg"[: seen or given.shape[1]]
    spans = tuple((2 * i, 2 * i + 1) for i in range(len(letters)))
    prompt = EncodedPrompt(given, tuple(letters), "", " ".join(letters), spans)
    return [[given, named | {conditioning.PROMPT: prompt}]]


def check_words_are_seen_where_the_attention_to_the_text_is(family):
    """Attention to all tokens together is 1 at every place, and to one of them is not."""
    seen = 5 if family.name == "ltxv" else None  # the others are masked
    model, prompts = family.taken(source=with_words(family, seen))
    prompt = model.encode_prompt(prompts.source)
    z = model.latents_in(family.latent["samples"])
    looks = Looks(0.2, 0.6, 2)

    def seen_at(positions):
        text = prompts.embeddings.source
        return model.run(z, lambda denoiser: word_map(z, positions, text, denoiser, looks))

    if not (family.looks_inside and family.reads_text_apart):
        sentence = "no text cross-attention" if family.looks_inside else "nothing can look"
        refused(sentence, seen_at, [0])
        return
    places = [at for _, (at,) in words_of(prompt)]
    torch.testing.assert_close(seen_at(places), torch.ones(3, 4, 6), rtol=0, atol=1e-5)
    one = seen_at(places[1:2])
    assert abs(float(one.mean()) - 1) < 1e-5 and float(one.std()) > 1e-4
    settings = default_inputs(MaskFromWords) | {"words": "b, d"}
    mask, *_ = MaskFromWords().make(model, prompts, family.latent, **settings)
    assert mask.shape == family.clip_shape and 0 < mask.mean() < 1


def check_words_of_a_conditioning_that_does_not_tell_them_are_not_found(family):
    model, prompts = family.taken()
    settings = default_inputs(MaskFromWords)
    refused("Encode Native Prompt", MaskFromWords().make, model, prompts, family.latent, **settings)
    several = [*with_words(family), *with_words(family)]
    model, prompts = family.taken(source=several)
    refused("holds 2 prompts", MaskFromWords().make, model, prompts, family.latent, **settings)


def check_words_keep_their_places_under_prompt_control(family):
    """Refined or swapped with itself a prompt changes nothing; another weight of a word does.

    In one step from the noise that both clips share.
    """
    if not (family.looks_inside and family.reads_text_apart):
        return
    text = with_words(family, 5 if family.name == "ltxv" else None)
    model, prompts = family.taken(source=text, target=text)
    inverted, _ = DDIMInversion().invert(model, prompts, family.latent, 1, 1.0, 1)
    off = {"cfg": 1.0, "layout_control": False, "background_control": False, "tau_c": 1.0}

    def sampled(**changed):
        settings = default_inputs(AttentionControlledSampling) | off | changed
        sampling = AttentionControlledSampling()
        return sampling.sample(model, prompts, inverted, **settings)[0]["samples"]

    plain = sampled(prompt_control="off")
    for kind in ("refine", "swap"):
        torch.testing.assert_close(sampled(prompt_control=kind), plain, rtol=0, atol=1e-4)
    weighed = sampled(prompt_control="refine", word_weights="b: 0")
    assert not torch.allclose(weighed, plain, atol=1e-4)


def check_a_clip_that_does_not_fit_comes_back_whole(family):
    """Of 2 + 2 strides of frames and a side that is no multiple."""
    if isinstance(family.vae, NoVAE):
        return
    model, prompts = family.taken()
    frames, height, width = 2 + 2 * family.frames, 3 * family.pixels, 3 * family.pixels - 5
    clip = torch.rand(frames, height, width, 3, generator=torch.Generator().manual_seed(5))
    latent = VideoVAEEncode().encode(model, clip, 8, "mean", 0)[0]
    assert latent["samples"].shape[:3] == (1, family.channels, 4)
    (images,) = VideoVAEDecode().decode(model, latent, 8)
    assert images.shape == clip.shape
    ScoreDistillation().run(
        model, prompts, latent, delta_denoising(), 1, 0.4, 5.0, 7, 0.0, 1.0, "sgd"
    )


def check_latents_that_do_not_fit_are_told(family):
    """Of other channels or dimensions, several clips, and sides that make no whole tokens."""
    model, prompts = family.taken()
    (guider,) = EditGuider().guide(family.patcher, **family.texts, cfg=5.0)
    (sampler,) = DistillationSampler().build(
        terms=delta_denoising(), steps=1, step_size=0.4, optimiser="sgd"
    )
    sigmas = family.patcher.get_model_object("model_sampling").sigmas.flip(0)

    def loop(*size: int):
        given = {"samples": torch.ones(size)}
        return ScoreDistillation().run(
            model, prompts, given, delta_denoising(), 1, 0.4, 5.0, 7, 0.0, 1.0, "sgd"
        )

    def sampled(*size: int):
        return nodes_custom_sampler.SamplerCustomAdvanced.execute(
            nodes_custom_sampler.Noise_RandomNoise(7), guider, sampler, sigmas,
            {"samples": torch.ones(size)},
        )  # fmt: skip

    for run in (loop, sampled):
        refused("channels", run, 1, family.channels + 1, 3, 4, 6)
        refused("VAE" if run is sampled else "frames, height, width", run, 3, 4, 4, 6)
        refused("one", run, 2, family.channels, 3, 4, 6)
        if family.name.startswith(("hunyuan", "mochi")):
            refused("multiples of 2", run, 1, family.channels, 3, 4, 5)
        else:
            run(1, family.channels, 3, 5, 7)


# --- inside -------------------------------------------------------------------------------------


def untouched(layer, q, k, v, attend):
    return attend(q, k, v)


def check_a_plan_that_changes_nothing_changes_nothing(family):
    if not family.looks_inside:
        return
    model, prompts = family.taken()
    z = model.latents_in(family.latent["samples"])
    level = model.process.at(0.6)
    z_t = level.signal * z + level.noise * noise_like(z)

    def work(denoiser):
        kinds = ("spatial", "cross") if family.reads_text_apart else ("spatial",)
        plan = [Entry(denoiser.layers.find("*", kind), untouched) for kind in kinds]
        cond = prompts.embeddings.target
        return denoiser(z_t, level, cond).z_0, denoiser(z_t, level, cond, plan=plan).z_0

    expected, found = model.run(z, work)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def check_the_gradient_of_keys_is_that_of_finite_differences(family):
    if not family.looks_inside or not compares_keys(family):
        return
    model, prompts = family.taken()
    z = model.latents_in(family.latent["samples"])
    level = model.process.at(0.5)
    z_t = level.signal * z + level.noise * noise_like(z)

    def work(denoiser):
        (site,) = denoiser.layers.last(1)

        def loss(z_t):
            keys, _ = keys_of(denoiser, z_t, level, prompts.embeddings.target, site, output=False)
            assert keys.shape[1:3] == (3, 2 * 3 if family.pixels != 32 else 4 * 6)
            # Keys are normed: their squares would be the same anywhere.
            return (keys * noise_like(keys, 9)).double().sum()

        with denoiser.checkpointed(False):
            gradient = gradient_held_to_slopes(loss, z_t, 1e-2)
        with denoiser.checkpointed(True):
            return gradient, gradient_of(loss, z_t)

    gradient, again = model.run(z, work)
    torch.testing.assert_close(again, gradient, rtol=1e-4, atol=1e-5 * float(gradient.abs().max()))
    assert comfy.model_management.in_training is False


def compares_keys(family) -> bool:
    """Whether this host has gradients, without which terms that compare keys tell so."""
    if hasattr(comfy.model_management, "in_training"):
        return True
    refused("ComfyUI 0.14", edit, family, similarity())
    return False


def similarity():
    return SpatialSelfSimilarity().build(**default_inputs(SpatialSelfSimilarity))[0]


def check_self_similarity_acts_or_tells(family):
    if not family.looks_inside:
        refused("nothing can look", edit, family, similarity())
        return
    if not compares_keys(family):
        return
    (terms,) = SpatialSelfSimilarity().build(
        **(default_inputs(SpatialSelfSimilarity) | {"weight": 1.0}), terms=delta_denoising()
    )
    found, _, losses = edit(family, terms)
    assert all(loss > 0 for loss in losses["loss"])
    assert not torch.equal(found["samples"], edit(family)[0]["samples"])


def check_fusion_reads_the_source_or_tells(family):
    (none,), (half,) = AttentionFusion().build(2, 1.0), AttentionFusion().build(2, 0.5)
    if not family.looks_inside:
        refused("nothing can look", edit, family, fusion=half)
        return
    expected = edit(family)[0]["samples"]
    torch.testing.assert_close(edit(family, fusion=none)[0]["samples"], expected, rtol=0, atol=1e-4)
    assert not torch.allclose(edit(family, fusion=half)[0]["samples"], expected, atol=1e-4)
    same = family.texts["source"]
    _, _, losses = edit(family, fusion=half, target=same)
    assert max(losses["loss"]) < 1e-4, losses["loss"]


def check_the_source_is_read_by_both_controls_or_it_is_told(family):
    """SA-I and SA-II; with equal prompts SA-I changes nothing: maps are the edit's own."""
    model, prompts = family.taken()
    inverted, _ = DDIMInversion().invert(model, prompts, family.latent, 4, 1.0, 1)
    sampling = AttentionControlledSampling()

    def sampled(layout: bool, background: bool, same: bool = False):
        changed = {"target": family.texts["source"]} if same else {}
        model, prompts = family.taken(**changed)
        settings = default_inputs(AttentionControlledSampling) | {
            "cfg": 3.0, "layout_control": layout, "background_control": background,
            "prompt_control": "off",
        }  # fmt: skip
        return sampling.sample(model, prompts, inverted, **settings)[0]["samples"]

    if not family.looks_inside:
        refused("nothing can look", sampled, True, False)
        refused("nothing can look", sampled, False, True)
        return
    free = sampled(False, False)
    assert not torch.allclose(sampled(True, False), free, atol=1e-4)
    assert not torch.allclose(sampled(False, True), free, atol=1e-4)
    torch.testing.assert_close(
        sampled(True, False, True), sampled(False, False, True), rtol=0, atol=1e-4
    )


def check_layers_that_a_family_lacks_are_told(family):
    if not family.looks_inside:
        return
    model, _ = family.taken()

    def find(kind: str):
        z = model.latents_in(family.latent["samples"])
        return model.run(z, lambda denoiser: denoiser.layers.find("*", kind))

    refused("no temporal self-attention", find, "temporal")
    if not family.reads_text_apart:
        refused("has no text cross-attention", find, "cross")


def check_models_of_sound_and_video_are_told(family):
    """LTX-2 by the host's own loader; once for all families."""
    if family.name != "ltxv":
        return
    patcher = ltx_2()
    assert type(patcher.model).__name__ == "LTXAV"
    given = family.texts
    refused("sound and video at once", NativeModel().take, patcher, family.vae, **given)
    refused("sound and video at once", EditGuider().guide, patcher, **given, cfg=5.0)


def check_nothing_stays_on_the_model(family):
    """After everything before: no hook, no patched function, no weight of another kind."""
    network = family.patcher.model.diffusion_model
    for module in network.modules():
        assert not (module._forward_hooks or module._forward_pre_hooks)
        assert "forward" not in vars(module)
    assert "transformer_options" not in family.patcher.model_options or (
        "optimized_attention_override" not in family.patcher.model_options["transformer_options"]
    )


if __name__ == "__main__":
    every = [(name, check) for name, check in globals().items() if name.startswith("check_")]
    run_checks(
        {
            f"{name}[{family.name}]": partial(check, family)
            for name, check in every
            for family in FAMILIES.values()
        },
        arguments[1],
    )
