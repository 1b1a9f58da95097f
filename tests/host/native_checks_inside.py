"""Inside the network: keys of attention, their gradients, fusion, self-similarity."""

import comfy.model_management
import torch
from native_start import (
    CLIP,
    compares_keys,
    default_inputs,
    edit,
    gradient_held_to_slopes,
    keys_of,
    latent,
    noise_like,
    patcher,
    refused,
    taken,
    taken_image,
    texts,
)
from rescore.attention.dit.processor import WanLayers
from rescore.attention.recording import Recorder, forward_recorded
from rescore.nodes.assd import AttentionFusion
from rescore.nodes.distillation import ScoreDistillation
from rescore.nodes.latents import VideoVAEEncode
from rescore.nodes.similarity import SpatialSelfSimilarity
from rescore.nodes.terms import DeltaDenoising
from rescore.shapeworld import wan


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


def check_the_gradient_of_keys_is_that_of_finite_differences():
    if not compares_keys():
        return
    model, prompts = taken()
    z = model.latents_in(latent()["samples"])
    level = model.process.at(0.5)
    z_t = level.signal * z + level.noise * noise_like(z)

    def work(denoiser):
        (site,) = denoiser.layers.find("blocks.7.*", "spatial")

        def loss(z_t):
            keys, _ = keys_of(denoiser, z_t, level, prompts.embeddings.target, site, False)
            return keys.double().square().sum()

        gradient_held_to_slopes(loss, z_t, 1e-2)

    model.run(z, work)
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
