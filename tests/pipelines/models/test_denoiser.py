"""A denoiser gives a model its clips in slices that fit, guides it, and changes its attention."""

import logging
import weakref
from dataclasses import replace

import pytest
import torch
from gaussian_world import exact_eps, gaussian_model, prompt
from rescore.attention.fusion import Fusion
from rescore.attention.layers import Entry
from rescore.pipelines.models.denoiser import guide, guided
from rescore.pipelines.models.grid import ClipGrid
from rescore.pipelines.models.process import (
    Prediction,
    RectifiedFlow,
    VariancePreserving,
    noised,
    split,
)
from rescore.shapeworld.models import SCHEDULE as CONFIG
from small_runs import KIND, LEVEL, backbone
from tiny_models import TEXT_WIDTH
from tiny_unets import inputs, unet

KINDS = ("text-to-video", "image", "animatediff")
PROCESS = VariancePreserving.from_config(CONFIG)


def clips(count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, 2, 3, 5, 7, generator=generator, dtype=torch.float64)


# --- slices


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rows", [1, 2, 3, 5])
@torch.no_grad()
def test_slicing_changes_nothing(load, draw, kind, rows):
    model, z, cond = load(kind).denoiser, draw(3, 4, 2, 7, 5), draw(3, 5, TEXT_WIDTH, seed=1)
    level = model.process.level(500)
    whole = model(z, level, cond)
    sliced = replace(model, rows_per_call=rows)(z, level, cond)
    torch.testing.assert_close(sliced, whole, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", ["epsilon", "v", "denoised"])
def test_each_clip_is_read_under_its_own_prompt(kind):
    model, z, level = gaussian_model(PROCESS, kind), clips(5), PROCESS.level(313)
    model.rows_per_call = 2
    means = torch.tensor([0.0, 1.0, -2.0, 3.0, 5.0], dtype=torch.float64).view(5, 1, 1)
    said = model(z, level, means)
    assert model.output.rows == [2, 2, 1]
    expected = exact_eps(z, level, means.view(5, 1, 1, 1, 1))
    torch.testing.assert_close(said.eps, expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(noised(*said, level), z, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("process", "kind"),
    [(PROCESS, "epsilon"), (PROCESS, "v"), (RectifiedFlow(3.0), "flow")],
    ids=["epsilon", "v", "flow"],
)
def test_a_model_is_told_the_level_in_its_own_way_and_its_output_is_split(process, kind):
    z, level, told = clips(2), process.at(0.7), []

    def output(z, t, cond):
        told.append(t)
        return z.sin()

    model = replace(gaussian_model(process, kind), output=output)
    said = model(z, level, prompt(0.0).expand(2, 1, 1))
    assert told == [level.t]
    torch.testing.assert_close(said, split(z.sin(), z, level, kind), rtol=0, atol=0)


def with_room_for(model, rows):
    """Make a loaded unet run out of memory with more than `rows` clips; returns what it gets."""
    sizes = []

    def hook(module, inputs):
        sizes.append(inputs[0].shape[0])
        if inputs[0].shape[0] > rows:
            raise torch.OutOfMemoryError("out of memory")

    model.unet.register_forward_pre_hook(hook)
    return sizes


@torch.no_grad()
def test_rows_are_halved_until_they_fit(load, draw, caplog):
    loaded, z, cond = load("text-to-video"), draw(7, 4, 2, 5, 7), draw(7, 5, TEXT_WIDTH, seed=1)
    model, level = loaded.denoiser, loaded.process.level(500)
    whole = model(z, level, cond)
    sizes = with_room_for(loaded, 2)
    with caplog.at_level(logging.WARNING, "rescore"):
        said = model(z, level, cond)
    torch.testing.assert_close(said, whole, atol=1e-5, rtol=0)
    assert sizes == [7, 4, 2, 2, 2, 1]
    assert model.rows_per_call == 2
    assert [record.args[1:] for record in caplog.records] == [(7, 4), (4, 2)]
    sizes.clear()
    model(z, level, cond)
    assert sizes == [2, 2, 2, 1]  # what was learnt is kept


def test_what_a_failed_call_held_is_gone_before_the_next_one():
    held = []

    def output(z, t, cond):
        assert not [ref for ref in held if ref() is not None]
        if len(z) > 1:
            large = z.clone()
            held.append(weakref.ref(large))
            raise torch.OutOfMemoryError
        return z

    model = replace(gaussian_model(PROCESS), output=output)
    model(clips(5), PROCESS.level(7), prompt(0.0).expand(5, 1, 1))
    assert len(held) == 3  # with 5, 3 and 2 clips
    assert model.rows_per_call == 1


@torch.no_grad()
def test_a_clip_that_does_not_fit_alone_is_a_clear_error(load, draw):
    loaded = load("text-to-video")
    with_room_for(loaded, 0)
    with pytest.raises(
        MemoryError, match=r"t2v has no memory .* 2 frames of 14 x 10 pixels on cpu"
    ):
        loaded.denoiser(draw(3, 4, 2, 5, 7), loaded.process.level(500), draw(3, 5, TEXT_WIDTH))


@pytest.mark.parametrize("with_graph", ["latents", "text"])
def test_a_graph_is_not_built_in_slices_behind_the_callers_back(load, draw, with_graph):
    loaded, z, cond = load("text-to-video"), draw(2, 4, 2, 5, 7), draw(2, 5, TEXT_WIDTH)
    sizes, level = with_room_for(loaded, 1), loaded.process.level(500)
    (z if with_graph == "latents" else cond).requires_grad_()
    with pytest.raises(MemoryError, match="with gradients"):
        loaded.denoiser(z, level, cond)
    assert sizes == [2] and loaded.denoiser.rows_per_call is None
    with torch.no_grad():  # no graph is wanted here, whatever the tensors are
        loaded.denoiser(z, level, cond)
    assert sizes == [2, 2, 1, 1]


# --- attention


@pytest.fixture(params=KIND)
def kind(request):
    return request.param


@pytest.fixture(autouse=True)
def models_are_left_as_they_were():
    yield
    for kind in KIND:
        assert not any("forward" in vars(module) for module in unet(kind).modules())
        assert {type(p).__name__ for p in unet(kind).attn_processors.values()} == {
            "AttnProcessor2_0"
        }


@torch.no_grad()
def test_slices_are_told_which_clips_they_hold(kind):
    """The first calls fail, as when memory runs out; then clips come one by one."""
    model, seen = replace(backbone(kind).denoiser), []

    def look(layer, q, k, v, attend):
        seen.append(layer.rows)
        if len(layer.rows) > 1:
            raise torch.OutOfMemoryError
        return attend(q, k, v)

    plan = [Entry(model.layers.find("mid_block.*", "spatial"), look)]
    z, cond = inputs(3, 2)
    plain = model(z, LEVEL, cond)
    changed = model(z, LEVEL, cond, plan=plan, rows=(7, 8, 9))
    assert seen == [(7, 8, 9), (7, 8), (7,), (8,), (9,)]
    torch.testing.assert_close(changed, plain, rtol=1e-4, atol=1e-4)
    seen.clear()
    model(z, LEVEL, cond, plan=plan)
    assert seen == [(0,), (1,), (2,)]


@pytest.mark.parametrize("rows_per_call", [1, 2, 3])
@torch.no_grad()
def test_edits_read_their_sources_across_slices(kind, rows_per_call):
    model = backbone(kind).denoiser
    z, cond = inputs(5, 2)
    numbers = (11, 2, 3, 5, 7)

    def fused(model):
        fusion = Fusion(3, 0.3).on(model.layers, ClipGrid.of(z))
        plan = [fusion({5: 11, 7: 2}, slice(None))]
        return model(z, LEVEL, cond, plan=plan, rows=numbers)

    whole, plain = fused(model), model(z, LEVEL, cond)
    sliced = fused(replace(model, rows_per_call=rows_per_call))
    torch.testing.assert_close(sliced, whole, rtol=1e-4, atol=1e-4)
    changed = (whole.eps - plain.eps).abs().amax(dim=(1, 2, 3, 4)) > 1e-3
    assert changed.tolist() == [False, False, False, True, True]


def test_layers_run_again_only_where_that_is_wanted(kind):
    model = backbone(kind).denoiser

    def patched():
        return any("forward" in vars(module) for module in unet(kind).modules())

    with model.checkpointed():
        assert patched()
    assert not patched()
    with model.checkpointed(False), replace(model, layers=None).checkpointed():
        assert not patched()


# --- guidance


@pytest.mark.parametrize(("cfg", "rows"), [(0, [2]), (0.0, [2]), (1, [2]), (1.0, [2]), (7.5, [4])])
@pytest.mark.parametrize("kind", ["epsilon", "v", "denoised"])
def test_a_guided_prediction_is_that_of_both_prompts(kind, cfg, rows):
    """And what is not read is not computed."""
    model, z, level = gaussian_model(PROCESS, kind), clips(2), PROCESS.level(613)
    cond = torch.tensor([1.9, -3.0], dtype=torch.float64).view(2, 1, 1)
    said = model.guided(z, level, cond, prompt(0.3).expand(2, 1, 1), cfg)
    assert model.output.rows == rows
    with_prompt = exact_eps(z, level, cond.view(2, 1, 1, 1, 1))
    expected = guide(exact_eps(z, level, 0.3), with_prompt, cfg)
    torch.testing.assert_close(said.eps, expected, rtol=1e-9, atol=1e-9)
    # It is a line through z_t still: the clip it shows and its noise make up the latents.
    torch.testing.assert_close(noised(*said, level), z, rtol=1e-9, atol=1e-9)


def test_both_parts_of_a_prediction_are_guided_alike():
    z = clips(4)
    found = guided(Prediction(z[0], z[1]), Prediction(z[2], z[3]), 7.5)
    assert torch.equal(found.z_0, guide(z[0], z[2], 7.5))
    assert torch.equal(found.eps, guide(z[1], z[3], 7.5))
