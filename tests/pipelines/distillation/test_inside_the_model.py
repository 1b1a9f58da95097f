"""Terms that look into the model, and fusion inside it, on the loop: real models at tiny size."""

from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch
from rescore.attention.fusion import Fusion
from rescore.attention.mutual import SourceBackground, SourceLayout
from rescore.attention.unet.sites import find_sites
from rescore.pipelines.controls import RunControls
from rescore.pipelines.distillation.prediction import predict
from rescore.pipelines.distillation.score_distillation import Settings, distil
from rescore.pipelines.distillation.self_similarity import SpatialSelfSimilarity
from rescore.pipelines.distillation.terms import Needs, Result, Weighted
from rescore.pipelines.flow import Flow, FlowSmoothing, smooth_along_flow
from rescore.pipelines.models.grid import ClipGrid
from rescore.pipelines.windows import Windows
from small_runs import (
    DDS,
    FRAMES,
    KIND,
    ONE_STEP,
    SPATIAL,
    TEMPORAL,
    backbone,
    clip,
    draw_of,
    edited,
    prompts,
    run,
)
from tiny_unets import HEIGHT, WIDTH, unet


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


def test_predictions_are_the_same_with_and_without_keys(kind):
    """And in fused layers, too: there the prompted target reads what its source had before."""
    draw, model = draw_of(clip(2), clip(2, seed=5)), backbone(kind).denoiser
    decoder = find_sites(unet(kind), "decoder", "spatial")
    found = {}
    for fused in (False, True):
        controls = RunControls([Fusion(3, 0.3)] if fused else [], model, ClipGrid.of(clip()))
        with torch.no_grad():
            for keys in ((), decoder):
                seen = predict(
                    Needs(target=True, source=True), draw, model, prompts(), 7.5,
                    keys=keys, controls=controls.at(0, 1, slice(None)),
                ).predictions  # fmt: skip
                assert set(seen.keys_target or ()) == {site.name for site in keys}
                found[bool(keys), fused] = seen.target.eps, seen.source.eps
    for fused in (False, True):
        (target, source), (with_keys, its_source) = found[False, fused], found[True, fused]
        torch.testing.assert_close(with_keys, target, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(its_source, source, rtol=1e-4, atol=1e-4)
        assert not with_keys.requires_grad
    (unfused, source), (fused, its_source) = found[False, False], found[False, True]
    torch.testing.assert_close(its_source, source, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(fused, unfused, atol=1e-3)


@pytest.mark.parametrize(
    ("terms", "rows"), [((DDS,), [4]), ((SPATIAL,), [1, 1]), ((DDS, SPATIAL), [3, 1])]
)
def test_fusion_costs_no_call(kind, terms, rows):
    """Where the source's rows are not asked for, they are there for the target to read."""
    _, model = run(kind, terms, controls=[Fusion(2, 0.5)])
    assert model.rows == rows


def test_fusion_with_weight_1_is_none(kind):
    before = edited(kind)
    fused, _ = run(kind, (DDS,), state=before, controls=[Fusion(2, 1.0)])
    plain, _ = run(kind, (DDS,), state=before)
    torch.testing.assert_close(fused.z, plain.z, rtol=1e-5, atol=1e-5)
    half, _ = run(kind, (DDS,), state=before, controls=[Fusion(2, 0.5)])
    assert not torch.allclose(half.z, plain.z, atol=1e-2)


def test_controls_act_in_their_part_of_the_steps():
    settings = replace(ONE_STEP, steps=2)
    half, _ = run("video", (DDS,), settings, controls=[SourceLayout(end=0.5)])
    first, _ = run("video", (DDS,), controls=[SourceLayout(end=1.0)])
    then, _ = run("video", (DDS,), state=first)
    assert torch.equal(half.z, then.z)
    assert not torch.allclose(half.z, run("video", (DDS,), settings)[0].z, atol=1e-3)


def test_a_control_with_a_mask_sees_the_frames_of_its_window():
    """All of the source hidden: as without it. Hidden in one window alone: as without it there."""
    z_source = clip(frames=5)
    before, _ = run("video", (DDS,), z_source=z_source)
    windows = Windows(3, 1)

    def found(*masks):
        controls = [SourceBackground(0.0, torch.stack(masks))] if masks else []
        result, _ = run("video", (DDS,), state=before, z_source=z_source, controls=controls,
                        windows=windows)  # fmt: skip
        return result.z

    ones, none = torch.ones(HEIGHT, WIDTH), torch.zeros(HEIGHT, WIDTH)
    plain, read = found(), found(none)
    torch.testing.assert_close(found(ones), plain, rtol=1e-3, atol=1e-4)
    early = found(ones, ones, ones, none, none)
    torch.testing.assert_close(early[:, :, :2], plain[:, :, :2], rtol=1e-3, atol=1e-4)
    assert not torch.allclose(early[:, :, 3:], plain[:, :, 3:], atol=1e-3)
    assert not torch.allclose(early[:, :, :2], read[:, :, :2], atol=1e-3)


def test_a_run_goes_on_where_it_stopped():
    kind = "video"
    settings = Settings(4, 0.1, 7.5, seed=3)
    terms = (DDS, replace(SPATIAL, weight=1e3, end=0.5), replace(TEMPORAL, weight=1e3))
    whole, _ = run(kind, terms, settings, controls=[Fusion(1, 0.7)])
    terms_again = (DDS, replace(SPATIAL, weight=1e3, end=1.0), replace(TEMPORAL, weight=1e3))
    first, _ = run(kind, terms_again, replace(settings, steps=2), controls=[Fusion(1, 0.7)])
    then, _ = run(kind, (terms[0], terms[2]), replace(settings, steps=2), state=first,
                  controls=[Fusion(1, 0.7)])  # fmt: skip
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


@dataclass(frozen=True)
class Breaks:
    """A loss of keys whose gradient is not a number."""

    name: str = "breaks"
    needs: ClassVar[Needs] = Needs(keys="up_blocks.*")

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
        ((DDS,), {"controls": [Fusion(8, 0.5)]}, ValueError, r"last 8 .* choose 1 to 7"),
        ((SPATIAL,), {"seen_into": False}, ValueError, "'spatial self-similarity' looks into"),
        (
            (DDS,), {"seen_into": False, "controls": [Fusion()]}, ValueError,
            "Attention fusion looks into",
        ),
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
        run(kind, (DDS, SPATIAL), controls=[Fusion()], on_step=stop)
    model = backbone(kind).denoiser
    hook = unet(kind).get_submodule("up_blocks.1.resnets.0").register_forward_hook(stop)
    try:
        with pytest.raises(KeyboardInterrupt):
            distil(clip(), (DDS, SPATIAL), model, prompts(), ONE_STEP, controls=[Fusion()])
    finally:
        hook.remove()
