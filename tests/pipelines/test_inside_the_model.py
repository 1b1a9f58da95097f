"""Terms that look into the model, and fusion inside it, on the loop: real models at tiny size."""

import logging
from dataclasses import dataclass, replace
from functools import cache

import pytest
import torch
from rescore.attention.fusion import Fusion
from rescore.attention.sites import decoder_sites
from rescore.pipelines.backbones.backbone import Backbone
from rescore.pipelines.consistency import GlobalConsistency, global_consistency_loss
from rescore.pipelines.delta_denoising import DeltaDenoising
from rescore.pipelines.flow import Flow, FlowSmoothing, smooth_along_flow
from rescore.pipelines.prediction import Inside, Prompts, predict
from rescore.pipelines.schedule import NoiseSchedule
from rescore.pipelines.score_distillation import Settings, distil
from rescore.pipelines.self_similarity import (
    SpatialSelfSimilarity,
    TemporalSelfSimilarity,
    spatial_self_similarity_loss,
    temporal_self_similarity_loss,
)
from rescore.pipelines.terms import Draw, Result, Weighted
from rescore.shapeworld.models import SCHEDULE as CONFIG
from tiny_unets import BUILD, HEIGHT, WIDTH, inputs, unet
from torch import nn

FRAMES = 3
KIND = {"image": "image", "video": "text-to-video", "motion": "animatediff"}
SCHEDULE = NoiseSchedule.from_config(CONFIG)
DDS = Weighted(DeltaDenoising())
SPATIAL, TEMPORAL = Weighted(SpatialSelfSimilarity()), Weighted(TemporalSelfSimilarity())
CONSISTENCY = Weighted(GlobalConsistency())
LOSSES = {
    SpatialSelfSimilarity: spatial_self_similarity_loss,
    TemporalSelfSimilarity: temporal_self_similarity_loss,
    GlobalConsistency: global_consistency_loss,
}


@cache
def backbone(kind: str) -> Backbone:
    none = nn.Identity()
    return Backbone("tiny", KIND[kind], unet(kind), none, none, None, SCHEDULE)


@pytest.fixture(params=KIND)
def kind(request):
    return request.param


@pytest.fixture(autouse=True)
def models_are_left_as_they_were():
    before = {kind: state(unet(kind)) for kind in KIND}
    yield
    assert {kind: state(unet(kind)) for kind in KIND} == before


def state(model) -> tuple:
    processors = {name: id(processor) for name, processor in model.attn_processors.items()}
    return processors, len(model._forward_pre_hooks), len(model._forward_hooks)


def clip(clips: int = 1, frames: int = FRAMES, seed: int = 0) -> torch.Tensor:
    return inputs(clips, frames, seed)[0]


def prompts() -> Prompts:
    return Prompts(*(inputs(1, 1, seed)[1] for seed in (1, 2, 3)))


class Watched:
    """A model's `eps_theta` that notes with how many clips it is called, and which calls ended."""

    def __init__(self, kind: str) -> None:
        self.model, self.rows, self.finished = backbone(kind), [], []

    def __call__(self, z, t, cond):
        self.rows.append(len(z))
        self.finished.append(False)
        prediction = self.model.eps_theta(z, t, cond)
        self.finished[-1] = True
        return prediction


T = 400
# One step at one timestep, of which the gradient can be read off.
ONE_STEP = Settings(1, 1.0, 7.5, t_min=T / 999, t_max=T / 999)


def run(kind, terms, settings=ONE_STEP, z_source=None, **options):
    model = Watched(kind)
    z_source = clip() if z_source is None else z_source
    options = {"unet": unet(kind)} | options
    return distil(z_source, terms, model, prompts(), SCHEDULE, settings, **options), model


def edited(kind) -> torch.Tensor:
    """A clip that is not its source any more, as a state to go on from."""
    state, _ = run(kind, (Weighted(Pull(0.3)),), unet=None)
    return state


@dataclass(frozen=True)
class Pull:
    """A term that asks nothing of the model: it pulls the latents to a value."""

    to: float
    name: str = "pull"
    needs: frozenset[str] = frozenset()

    def __call__(self, draw, predictions, z, z_source):
        return Result(0.1 * (z - self.to), 1.0)


def draw_of(z, z_source, seed=7) -> Draw:
    noise = torch.randn(z.shape, generator=torch.Generator().manual_seed(seed))
    noised = (SCHEDULE.add_noise(x, noise, T) for x in (z, z_source))
    return Draw(T, noise, *noised)


def keys_of(kind, z_t, cond, sites) -> dict[str, torch.Tensor]:
    """Keys by hooks, with the whole graph of a whole run of the model."""
    seen = {}
    hooks = [
        unet(kind)
        .get_submodule(f"{site.name}.to_k")
        .register_forward_hook(lambda _, __, out, name=site.name: seen.__setitem__(name, out))
        for site in sites
    ]
    backbone(kind).eps_theta(z_t, T, cond)
    for hook in hooks:
        hook.remove()
    return seen


def whole_gradient(kind, term, z, z_source, noise) -> tuple[torch.Tensor, float]:
    """The gradient of a term's loss on z, through the whole graph, noising and all."""
    sites, loss = decoder_sites(unet(kind)), LOSSES[type(term)]
    z = z.clone().requires_grad_()
    texts = prompts()
    target = keys_of(kind, SCHEDULE.add_noise(z, noise, T), texts.target, sites)
    with torch.no_grad():
        source = keys_of(kind, SCHEDULE.add_noise(z_source, noise, T), texts.source, sites)
    value = sum(loss(source[site.name], target[site.name]) for site in sites) / len(sites)
    return torch.autograd.grad(value, z)[0], value.item()


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
    from rescore.pipelines import prediction

    calls = []
    pull_back = prediction._pull_back
    monkeypatch.setattr(prediction, "_pull_back", lambda *args: calls.append(1) or pull_back(*args))
    before = edited(kind)
    terms = [replace(t, weight=1e3) for t in (SPATIAL, TEMPORAL, CONSISTENCY)]
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


def test_predictions_are_the_same_with_and_without_keys(kind):
    """And in fused layers, too: there the prompted target reads what its source had before."""
    draw, eps = draw_of(clip(2), clip(2, seed=5)), frozenset({"eps_target", "eps_source"})
    keys = eps | {"keys_target", "keys_source"}
    sites = decoder_sites(unet(kind))
    found = {}
    for fused in ((), sites[-3:]):
        inside = Inside(unet(kind), sites, fused, 0.3)
        with torch.no_grad():
            for needs in (eps, keys):
                found[needs, bool(fused)] = predict(
                    needs, draw, backbone(kind).eps_theta, prompts(), 7.5, inside
                )
    for fused in (False, True):
        plain, with_keys = found[eps, fused], found[keys, fused]
        torch.testing.assert_close(with_keys.eps_target, plain.eps_target, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(with_keys.eps_source, plain.eps_source, rtol=1e-4, atol=1e-4)
        assert not with_keys.eps_target.requires_grad
    unfused, fused = found[eps, False], found[eps, True]
    torch.testing.assert_close(fused.eps_source, unfused.eps_source, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(fused.eps_target, unfused.eps_target, atol=1e-3)


@pytest.mark.parametrize(
    ("terms", "rows"), [((DDS,), [4]), ((SPATIAL,), [1, 1]), ((DDS, SPATIAL), [3, 1])]
)
def test_fusion_costs_no_call(kind, terms, rows):
    """Where the source's rows are not asked for, they are there for the target to read."""
    _, model = run(kind, terms, fusion=Fusion(2, 0.5))
    assert model.rows == rows


def test_fusion_with_weight_1_is_none(kind):
    before = edited(kind)
    fused, _ = run(kind, (DDS,), state=before, fusion=Fusion(2, 1.0))
    plain, _ = run(kind, (DDS,), state=before)
    torch.testing.assert_close(fused.z, plain.z, rtol=1e-5, atol=1e-5)
    half, _ = run(kind, (DDS,), state=before, fusion=Fusion(2, 0.5))
    assert not torch.allclose(half.z, plain.z, atol=1e-2)


def test_clips_of_a_batch_do_not_know_each_other(kind):
    """Predictions, losses and gradients of two clips at once are those of one after the other."""
    whole = draw_of(clip(2), clip(2, seed=5))
    parts = [Draw(T, *(part[i : i + 1] for part in whole[1:])) for i in range(2)]
    sites = decoder_sites(unet(kind))
    inside = Inside(unet(kind), sites, sites[-2:], 0.3)
    needs = SPATIAL.term.needs | DDS.term.needs
    seen, values = [], []
    for draw in (whole, *parts):
        p = predict(needs, draw, backbone(kind).eps_theta, prompts(), 7.5, inside)
        result = SPATIAL.term(draw, p, draw.z_t, draw.z_t)
        seen.append(torch.stack([p.eps_target, p.eps_source, 1e4 * p.pull_back(result.on_keys)]))
        values.append(result.value)
    torch.testing.assert_close(seen[0], torch.cat(seen[1:], dim=1), rtol=1e-3, atol=1e-4)
    assert seen[0][2].abs().max() > 0.1
    assert values[0] == pytest.approx((values[1] + values[2]) / 2, rel=1e-4)


def test_a_run_goes_on_where_it_stopped():
    kind = "video"
    settings = Settings(4, 0.1, 7.5, seed=3)
    terms = (DDS, replace(SPATIAL, weight=1e3, end=0.5), replace(TEMPORAL, weight=1e3))
    whole, _ = run(kind, terms, settings, fusion=Fusion(1, 0.7))
    terms_again = (DDS, replace(SPATIAL, weight=1e3, end=1.0), replace(TEMPORAL, weight=1e3))
    first, _ = run(kind, terms_again, replace(settings, steps=2), fusion=Fusion(1, 0.7))
    then, _ = run(kind, (terms[0], terms[2]), replace(settings, steps=2), state=first,
                  fusion=Fusion(1, 0.7))  # fmt: skip
    assert torch.equal(whole.z, then.z)
    assert [list(v) for v in whole.values] == [
        ["delta denoising", "spatial self-similarity", "temporal self-similarity"]] * 2 + [
        ["delta denoising", "temporal self-similarity"]] * 2  # fmt: skip


def test_it_runs_inside_inference_mode(kind):
    terms = (DDS, replace(SPATIAL, weight=1e3))
    outside, _ = run(kind, terms, replace(ONE_STEP, steps=2))
    with torch.inference_mode():
        inside, _ = run(kind, terms, replace(ONE_STEP, steps=2))
    assert torch.equal(inside.z, outside.z)


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
        none = nn.Identity()
        eps_theta = Backbone("tiny", KIND["video"], model, none, none, None, SCHEDULE).eps_theta
        needs, inside = SPATIAL.term.needs, Inside(model, decoder_sites(model))
        predictions = predict(needs, draw, eps_theta, prompts(), 7.5, inside)
        on_keys = SPATIAL.term(draw, predictions, draw.z_t, draw.z_t).on_keys
        small = {name: 1e-6 * gradient for name, gradient in on_keys.items()}
        assert not any(gradient.half().any() for gradient in small.values())
        gradients.append(predictions.pull_back(small))
    full, half = gradients
    assert half.dtype == torch.float32
    assert (half - full).norm() < 0.02 * full.norm()


def flow() -> Flow:
    """Of a clip that drifts 8 pixels, which are 1 latent, to the right with every frame."""
    forward = torch.zeros(FRAMES - 1, 2, 8 * HEIGHT, 8 * WIDTH)
    forward[:, 0] = 8
    return Flow.of(forward, -forward)


def test_gradients_are_smoothed_before_they_are_masked():
    before, small = edited("video"), flow().resized(HEIGHT, WIDTH)
    mask = torch.zeros(1, HEIGHT, WIDTH)
    mask[:, 2:5, 3:9] = 1
    smoothed = replace(DDS, refinements=(FlowSmoothing(flow(), 0.8, 1),), masks=(mask,))
    plain, _ = run("video", (DDS,), state=before)
    after, model = run("video", (smoothed,), state=before)
    expected = mask * smooth_along_flow(
        plain.z - before.z, small.forward, small.backward, small.visible_forward,
        small.visible_backward, 0.8, 1,
    )  # fmt: skip
    torch.testing.assert_close(after.z - before.z, expected, rtol=1e-4, atol=1e-5)
    assert model.rows == [4]


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


@dataclass(frozen=True)
class Breaks:
    """A loss of keys whose gradient is not a number."""

    name: str = "breaks"
    sites: str = "up_blocks.*"
    needs: frozenset[str] = frozenset({"keys_target", "keys_source"})

    def __call__(self, draw, predictions, z, z_source):
        return Result(None, 0.0, {n: k.log() for n, k in predictions.keys_target.items()})


@pytest.mark.parametrize(
    ("terms", "options", "error", "sentence"),
    [
        (
            (Weighted(SpatialSelfSimilarity("upblocks.*")),), {}, ValueError,
            r"'upblocks.*' matches no spatial self-attention layer.*up_blocks\.2",
        ),
        (
            (Weighted(SpatialSelfSimilarity("*.temp_attentions.*")),), {}, ValueError,
            "matches no spatial self-attention",
        ),
        ((DDS,), {"fusion": Fusion(8, 0.5)}, ValueError, r"last 8 .* choose 1 to 7"),
        ((SPATIAL,), {"unet": None}, ValueError, "'spatial self-similarity' looks into the model"),
        ((DDS,), {"unet": None, "fusion": Fusion()}, ValueError, "Attention fusion looks into"),
        ((Weighted(Breaks()),), {}, FloatingPointError, "'breaks' is not finite at step 1"),
        (
            (replace(DDS, refinements=(FlowSmoothing(flow()),)),),
            {"z_source": clip(frames=5)}, ValueError, "another clip's",
        ),
    ],
)  # fmt: skip
def test_mistakes_are_told(terms, options, error, sentence):
    with pytest.raises(error, match=sentence):
        run("video", terms, **options)


@pytest.mark.parametrize(("layers", "weight"), [(0, 0.5), (2, 1.5), (2, -0.5)])
def test_settings_of_fusion_are_checked(layers, weight):
    with pytest.raises(ValueError, match="fus"):
        Fusion(layers, weight)


def test_stopping_in_a_step_takes_the_plan_out(kind):
    """`on_step` may raise, and so may the model: the fixture above sees that nothing is left."""

    def stop(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(kind, (DDS, SPATIAL), fusion=Fusion(), on_step=stop)
    model = backbone(kind)
    hook = unet(kind).get_submodule("up_blocks.1.resnets.0").register_forward_hook(stop)
    try:
        with pytest.raises(KeyboardInterrupt):
            distil(clip(), (DDS, SPATIAL), model.eps_theta, prompts(), SCHEDULE, ONE_STEP,
                   unet=unet(kind), fusion=Fusion())  # fmt: skip
    finally:
        hook.remove()
