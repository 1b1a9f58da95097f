"""The loop in the host's own sampling node: Edit Guider and Distillation Sampler."""

import comfy.samplers
import torch
from native_start import (
    Told,
    all_sigmas,
    conditioning,
    distilling,
    latent,
    patcher,
    sampled_by_the_host,
    sigma_of,
    taken,
    texts,
    watched,
)
from rescore.nodes.distillation import ScoreDistillation
from rescore.nodes.native import (
    EditGuider,
)
from rescore.nodes.terms import DeltaDenoising


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
    noting = watched(lambda args: asked.add(round(sigma_of(args), 6)))
    guider = EditGuider().guide(noting, **texts(), cfg=5.0)[0]
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
