"""Bad input: what is refused, and in which words."""

import comfy.model_sampling
import comfy.nested_tensor
import comfy.samplers
import torch
from native_start import (
    all_sigmas,
    as_if,
    conditioning,
    distilling,
    edit,
    image_model,
    image_vae,
    latent,
    patcher,
    refused,
    sampled_by_the_host,
    taken,
    taken_image,
    texts,
    vae,
)
from rescore.nodes.distillation import ScoreDistillation
from rescore.nodes.native import (
    EditGuider,
    NativeModel,
)
from rescore.nodes.prompts import EncodePromptPair
from rescore.nodes.terms import DeltaDenoising
from rescore.shapeworld.models import load_shapeworld


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
