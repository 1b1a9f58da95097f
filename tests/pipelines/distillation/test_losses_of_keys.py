"""Losses of what attention sees, on the loop: real models at tiny size."""

import logging
import math
from dataclasses import replace

import pytest
import torch
from rescore.attention.fusion import Fusion
from rescore.attention.unet.checkpointing import checkpointed
from rescore.attention.unet.sites import find_sites
from rescore.pipelines.controls import RunControls
from rescore.pipelines.distillation.consistency import GlobalConsistency, global_consistency_loss
from rescore.pipelines.distillation.prediction import predict
from rescore.pipelines.distillation.self_similarity import (
    SpatialSelfSimilarity,
    TemporalSelfSimilarity,
    spatial_self_similarity_loss,
    temporal_self_similarity_loss,
)
from rescore.pipelines.distillation.terms import Draw, Needs, Weighted
from rescore.pipelines.flow import Flow, FlowSmoothing
from rescore.pipelines.models.grid import ClipGrid
from rescore.pipelines.models.process import noised
from small_runs import (
    CONSISTENCY,
    DDS,
    KIND,
    LEVEL,
    ONE_STEP,
    SPATIAL,
    TEMPORAL,
    Pull,
    backbone,
    backbone_of,
    clip,
    draw_of,
    edited,
    prompts,
    run,
)
from tiny_unets import BUILD, HEIGHT, WIDTH, unet

LOSSES = {
    SpatialSelfSimilarity: spatial_self_similarity_loss,
    TemporalSelfSimilarity: temporal_self_similarity_loss,
    GlobalConsistency: global_consistency_loss,
}


BOTH = Needs(target=True, source=True)


@pytest.fixture(params=KIND)
def kind(request):
    return request.param


def keys_of(kind, z_t, cond, sites) -> dict[str, torch.Tensor]:
    """Keys by hooks, with the whole graph of a whole run of the model."""
    seen = {}
    hooks = [
        unet(kind)
        .get_submodule(f"{site.name}.to_k")
        .register_forward_hook(lambda _, __, out, name=site.name: seen.__setitem__(name, out))
        for site in sites
    ]
    backbone(kind).denoiser(z_t, LEVEL, cond)
    for hook in hooks:
        hook.remove()
    return seen


def whole_gradient(kind, term, z, z_source, noise) -> tuple[torch.Tensor, float]:
    """The gradient of a term's loss on z, through the whole graph, noising and all.

    Times the number of latent pixels, as a term has it; the number stays the loss itself.
    """
    sites, loss = find_sites(unet(kind), "decoder", "spatial"), LOSSES[type(term)]
    z = z.clone().requires_grad_()
    texts = prompts()
    target = keys_of(kind, noised(z, noise, LEVEL), texts.target, sites)
    with torch.no_grad():
        source = keys_of(kind, noised(z_source, noise, LEVEL), texts.source, sites)
    value = sum(loss(source[site.name], target[site.name]) for site in sites) / len(sites)
    return math.prod(z.shape[2:]) * torch.autograd.grad(value, z)[0], value.item()


@pytest.mark.parametrize(
    "term", [SPATIAL, TEMPORAL, CONSISTENCY], ids=lambda entry: entry.term.name
)
@pytest.mark.parametrize("beside", [(), (DDS,)], ids=["alone", "with delta denoising"])
def test_the_gradient_is_that_of_the_whole_graph(kind, term, beside):
    """The step on the loop, beside autograd through the noising and all of the model."""
    before = edited(kind)
    generator = torch.Generator()
    generator.set_state(before.random)
    torch.randint(0, 2, (), generator=generator)
    noise = torch.randn(before.z.shape, generator=generator)
    expected, value = whole_gradient(kind, term.term, before.z, clip(), noise)

    # A weight at which the gradient is as large as the latents, so that no digits are lost.
    weight = 1 / expected.abs().max().item()
    after, _ = run(kind, (replace(term, weight=weight), *beside), state=before)
    without, _ = run(kind, beside or (Weighted(Pull(0.0), weight=1e-9),), state=before)
    torch.testing.assert_close(without.z - after.z, weight * expected, rtol=0, atol=1e-3)
    assert after.values[-1][term.term.name] == pytest.approx(value, rel=1e-3)


@pytest.mark.parametrize(
    ("terms", "cfg", "rows", "finished"),
    [
        ((DDS,), 7.5, [4], [True]),
        ((DDS, SPATIAL, TEMPORAL, CONSISTENCY), 7.5, [3, 1], [True, True]),
        ((SPATIAL, TEMPORAL), 7.5, [1, 1], [False, False]),
        ((DDS, SPATIAL), 1.0, [1, 1], [True, True]),
        # Guidance of 0 reads the unprompted rows only: the prompted ones end at their keys.
        ((DDS, SPATIAL), 0.0, [3, 1], [True, False]),
    ],
)
def test_no_call_and_no_row_too_many(kind, terms, cfg, rows, finished):
    _, model = run(kind, terms, replace(ONE_STEP, steps=2, cfg=cfg))
    assert model.rows == 2 * rows
    assert model.finished == 2 * finished


def test_losses_go_back_through_the_model_together(kind, monkeypatch):
    """Once for all that are masked and refined alike, and the sum is the same."""
    from rescore.pipelines.distillation import prediction

    calls = []
    pull_back = prediction._pull_back
    monkeypatch.setattr(prediction, "_pull_back", lambda *args: calls.append(1) or pull_back(*args))
    before = edited(kind)
    terms = [replace(t, weight=3.0) for t in (SPATIAL, TEMPORAL, CONSISTENCY)]
    together, _ = run(kind, terms, state=before)
    assert len(calls) == 1
    alone = [run(kind, (term,), state=before)[0].z - before.z for term in terms]
    torch.testing.assert_close(together.z - before.z, sum(alone), rtol=1e-3, atol=1e-5)

    calls.clear()
    mask = torch.zeros(1, HEIGHT, WIDTH)
    mask[:, :, :4] = 1
    masked = [terms[0], *(replace(term, masks=(mask,)) for term in terms[1:])]
    apart, _ = run(kind, masked, state=before)
    assert len(calls) == 2
    expected = alone[0] + mask * (alone[1] + alone[2])
    torch.testing.assert_close(apart.z - before.z, expected, rtol=1e-3, atol=1e-5)


def test_clips_of_a_batch_do_not_know_each_other(kind):
    """Predictions, losses and gradients of two clips at once are those of one after the other."""
    whole = draw_of(clip(2), clip(2, seed=5))
    parts = [Draw(LEVEL, *(part[i : i + 1] for part in whole[1:4])) for i in range(2)]
    sites = find_sites(unet(kind), "decoder", "spatial")
    model = backbone(kind).denoiser
    controls = RunControls([Fusion(2, 0.3)], model, ClipGrid.of(clip())).at(0, 1, slice(None))
    seen, values = [], []
    for draw in (whole, *parts):
        step = predict(BOTH, draw, model, prompts(), 7.5, keys=sites, controls=controls)
        said = step.predictions
        result = SPATIAL.term(draw, said, draw.z_t, draw.z_t)
        gradient = 30 * step.pull_back(result.on_keys)
        seen.append(torch.stack([said.target.eps, said.source.eps, gradient]))
        values.append(result.value)
    torch.testing.assert_close(seen[0], torch.cat(seen[1:], dim=1), rtol=1e-3, atol=1e-4)
    assert seen[0][2].abs().max() > 0.1
    assert values[0] == pytest.approx((values[1] + values[2]) / 2, rel=1e-4)


def test_patterns_of_a_term_choose_its_layers():
    one = SpatialSelfSimilarity("up_blocks.1.attentions.0.*")
    before = edited("video")
    values = {
        term.sites: run("video", (Weighted(term),), state=before)[0].values[-1][term.name]
        for term in (one, SpatialSelfSimilarity("up_blocks.2.*"), SpatialSelfSimilarity())
    }
    both, _ = run("video", (Weighted(one), replace(TEMPORAL, weight=1.0)), state=before)
    # Beside a term that reads more layers it still reads its own.
    assert both.values[-1][one.name] == pytest.approx(values[one.sites], rel=1e-4)
    assert len(set(values.values())) == 3


def test_half_precision_does_not_lose_small_gradients():
    """Gradients on keys that lie below what float16 can hold still arrive at the latents."""
    in_half = BUILD["video"]().half().eval().requires_grad_(False)
    in_full = BUILD["video"]().eval().requires_grad_(False)
    in_full.load_state_dict(in_half.state_dict())
    draw, gradients = draw_of(clip() + 0.3 * clip(seed=4), clip()), []
    for model in (in_full, in_half):
        denoiser = backbone_of("video", model).denoiser
        sites = find_sites(model, "decoder", "spatial")
        seen = predict(Needs(), draw, denoiser, prompts(), 7.5, keys=sites)
        on_keys = SPATIAL.term(draw, seen.predictions, draw.z_t, draw.z_t).on_keys
        small = {name: 1e-6 * gradient for name, gradient in on_keys.items()}
        assert not any(gradient.half().any() for gradient in small.values())
        gradients.append(seen.pull_back(small))
    full, half = gradients
    assert half.dtype == torch.float32
    assert (half - full).norm() < 0.02 * full.norm()


def test_a_clip_of_one_frame_has_nothing_to_compare(caplog):
    still = Flow.of(*torch.zeros(2, 0, 2, 8 * HEIGHT, 8 * WIDTH))
    smoothed = replace(SPATIAL, refinements=(FlowSmoothing(still),))
    terms = (smoothed, TEMPORAL, CONSISTENCY)
    with caplog.at_level(logging.WARNING):
        one, _ = run("video", terms, z_source=clip(frames=1))
    assert [record.getMessage().split(":")[0] for record in caplog.records] == [
        "flow smoothing", "temporal self-similarity", "global consistency",
    ]  # fmt: skip
    only, _ = run("video", (SPATIAL,), z_source=clip(frames=1))
    assert torch.equal(one.z, only.z)
    assert one.values[0]["temporal self-similarity"] == 0


@pytest.mark.parametrize("controls", [(), (Fusion(2),)], ids=["plain", "fused"])
def test_checkpointing_leaves_the_edit_as_it_is(kind, controls):
    terms = (DDS, SPATIAL, TEMPORAL, CONSISTENCY)
    plain, _ = run(kind, terms, controls=controls)
    with checkpointed(unet(kind)):
        again, _ = run(kind, terms, controls=controls)
    torch.testing.assert_close(again.z, plain.z)
    assert not torch.equal(plain.z, run(kind, (DDS,), controls=controls)[0].z)
