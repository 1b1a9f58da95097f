"""Plans on real models: what they change, and that nothing is left of them."""

import gc
import weakref

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor2_0, FusedAttnProcessor2_0
from rescore.attention.layers import Entry, Site
from rescore.attention.unet.layers import UNetLayers
from rescore.attention.unet.sites import attention_sites, find_sites
from tiny_unets import KINDS, call, inputs, unet

CLIPS, FRAMES = 2, 3


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture(autouse=True)
def models_are_left_as_they_were():
    """Not one processor, hook or weight differs after a test."""
    before = {kind: state(unet(kind)) for kind in KINDS}
    yield
    assert {kind: state(unet(kind)) for kind in KINDS} == before


def state(model) -> tuple:
    processors = {name: id(processor) for name, processor in model.attn_processors.items()}
    hooks = len(model._forward_pre_hooks), len(model._forward_hooks)
    weights = {name: (id(p), p._version) for name, p in model.named_parameters()}
    return processors, hooks, weights, set(model.__dict__)


def plain(layer, q, k, v, attend):
    return attend(q, k, v)


def zeros(layer, q, k, v, attend):
    return torch.zeros_like(q)


def run(kind, clips=CLIPS, frames=FRAMES):
    with torch.no_grad():
        return call(kind, *inputs(clips, frames))


def test_nothing_special_at_all_layers_is_what_diffusers_computes(kind):
    sites = attention_sites(unet(kind))
    assert all(type(p) is AttnProcessor2_0 for p in unet(kind).attn_processors.values())
    expected = run(kind)
    with UNetLayers(unet(kind)).installed([Entry(sites, plain)], range(CLIPS)):
        assert not any(type(p) is AttnProcessor2_0 for p in unet(kind).attn_processors.values())
        torch.testing.assert_close(run(kind), expected, rtol=1e-6, atol=1e-6)
    assert torch.equal(run(kind), expected)


def test_every_layer_matters(kind):
    """So the equality above says something about each of them."""
    expected = run(kind)
    for site in attention_sites(unet(kind)):
        with UNetLayers(unet(kind)).installed([Entry([site], zeros)], range(CLIPS)):
            assert not torch.allclose(run(kind), expected, rtol=1e-4, atol=1e-4), site.name


def test_a_layer_is_told_its_clips_and_gets_their_heads(kind):
    """Samples of a clip lie together: in a batch of two, a change in one leaves the other's."""
    seen = {}

    def look(layer, q, k, v, attend):
        assert layer.rows == (5, 3)
        samples = len(q) // 2
        seen.setdefault(layer.site, []).append((q[:samples], q[samples:]))
        assert q.ndim == 4
        assert q.shape[0] % (1 if layer.site.kind == "temporal" else 2 * FRAMES) == 0
        return attend(q, k, v)

    sites = attention_sites(unet(kind))
    z, cond = inputs(2, FRAMES)
    other = torch.cat([z[:1], z[1:] + 1])
    for latents in (z, other):
        with torch.no_grad(), UNetLayers(unet(kind)).installed([Entry(sites, look)], (5, 3)):
            call(kind, latents, cond)
    assert seen.keys() == set(sites)
    for (first, second), (same, changed) in seen.values():
        torch.testing.assert_close(first, same, rtol=1e-4, atol=1e-5)
        assert not torch.allclose(second, changed, rtol=1e-2, atol=1e-3)


def test_several_changes_at_a_layer_nest_in_the_order_of_the_plan():
    site = find_sites(unet("image"), "mid_block.*.attn1")
    calls = []

    def named(name):
        def change(layer, q, k, v, attend):
            calls.append(name)
            return attend(q, k, v)

        return change

    plan = [Entry(site, named("inner")), Entry(site, named("outer"))]
    with UNetLayers(unet("image")).installed(plan, range(CLIPS)):
        run("image")
    assert calls == ["outer", "inner"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_it_is_gone_after_an_error_inside_the_model(kind, error):
    def fail(layer, q, k, v, attend):
        raise error("stop")

    sites = attention_sites(unet(kind))
    with (
        pytest.raises(error, match="stop"),
        UNetLayers(unet(kind)).installed([Entry(sites[3:5], fail)], range(CLIPS)),
    ):
        run(kind)


def test_what_a_change_holds_goes_with_its_plan():
    """At once: a graph that waits for Python's garbage collector doubles the memory of a step."""

    class Change:
        def __call__(self, layer, q, k, v, attend):
            return attend(q, k, v)

    change = Change()
    gone = weakref.ref(change)
    z, cond = inputs(1, FRAMES)
    gc.disable()
    try:
        with UNetLayers(unet("image")).installed(
            [Entry(attention_sites(unet("image")), change)], [0]
        ):
            call("image", z, cond)
        del change
        assert gone() is None
    finally:
        gc.enable()


def test_another_with_may_change_other_layers():
    sites = find_sites(unet("video"), kind="spatial")
    expected = [run("video")]
    plans = (
        [Entry(sites[:2], zeros)],
        [Entry(sites[4:], zeros)],
        [Entry([sites[0], *sites[4:]], zeros)],
    )
    for plan in plans[:2]:
        with UNetLayers(unet("video")).installed(plan, range(CLIPS)):
            expected.append(run("video"))
    with UNetLayers(unet("video")).installed(plans[0], range(CLIPS)):
        with UNetLayers(unet("video")).installed(plans[1], range(CLIPS)):
            both = run("video")
        one = run("video")
    with UNetLayers(unet("video")).installed([*plans[0], *plans[1]], range(CLIPS)):
        torch.testing.assert_close(run("video"), both, rtol=0, atol=0)
    assert torch.equal(one, expected[1])
    assert not torch.allclose(both, expected[1])


def test_but_not_the_same_ones():
    sites = find_sites(unet("video"), kind="spatial")
    with (
        UNetLayers(unet("video")).installed([Entry(sites[:2], plain)], range(CLIPS)),
        pytest.raises(ValueError, match=r"down_blocks\.1.* is already changed .* one plan"),
        UNetLayers(unet("video")).installed([Entry(sites[1:], plain)], range(CLIPS)),
    ):
        pass


def test_the_sites_of_another_model():
    sites = find_sites(unet("video"), kind="temporal")
    with (
        pytest.raises(ValueError, match=r"no attention layer transformer_in.* another model's"),
        UNetLayers(unet("image")).installed([Entry(sites, plain)], range(CLIPS)),
    ):
        pass


def test_attention_that_does_more_is_not_replaced():
    site = find_sites(unet("image"), "mid_block.*.attn1")[0]
    layer = unet("image").get_submodule(site.name)
    before = layer.processor
    layer.set_processor(FusedAttnProcessor2_0())
    try:
        with (
            pytest.raises(ValueError, match=r"mid_block.* not plain .*FusedAttnProcessor2_0"),
            UNetLayers(unet("image")).installed([Entry([site], plain)], range(CLIPS)),
        ):
            pass
    finally:
        layer.set_processor(before)


def test_an_attention_mask_is_refused():
    site = find_sites(unet("image"), "mid_block.*.attn2")
    z, cond = inputs(1, 1)
    with (
        pytest.raises(ValueError, match="attention mask"),
        UNetLayers(unet("image")).installed([Entry(site, plain)], (0,)),
    ):
        unet("image")(
            z[:, :, 0], torch.tensor(7), cond, encoder_attention_mask=torch.ones(cond.shape[:2])
        )


def test_a_layer_of_an_unknown_name():
    with (
        pytest.raises(ValueError, match=r"no attention layer nowhere\.attn1"),
        UNetLayers(unet("image")).installed(
            [Entry([Site("nowhere.attn1", "spatial")], plain)], (0,)
        ),
    ):
        pass
