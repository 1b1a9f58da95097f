"""Weighted attention fusion: the formula, and the right clips reading the right references."""

import math

import pytest
import torch
from rescore.attention.fusion import AttentionFusion
from rescore.attention.layers import Entry, Layer, Site, attend
from rescore.attention.unet.layers import UNetLayers
from rescore.attention.unet.sites import find_sites
from tiny_unets import KINDS, call, inputs, unet

FRAMES = 3


def heads(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def explicit(q, k, v):
    """Eq. 11 and 12 as they are written."""
    return (q @ k.mT / math.sqrt(q.shape[-1])).softmax(dim=-1) @ v


def fused_attention(q, k, v, k_reference, v_reference, weight):
    """A layer of two clips, of which the second reads the first, too."""
    layer = Layer(Site("a layer", "spatial"), (0, 1))
    parts = (torch.cat(both) for both in ((q, q), (k_reference, k), (v_reference, v)))
    return AttentionFusion({1: 0}, weight)(layer, *parts, attend)[len(q) :]


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_it_is_equation_13(weight):
    q, (k, v, k_ref, v_ref) = heads(2, 3, 5, 11), heads(4, 2, 3, 7, 11, seed=1)
    expected = weight * explicit(q, k, v) + (1 - weight) * explicit(q, k_ref, v_ref)
    torch.testing.assert_close(fused_attention(q, k, v, k_ref, v_ref, weight), expected)


def test_a_case_by_hand():
    """One query sees two equal keys, so it reads their mean: 2 of its own, 8 of its reference."""
    q, k = torch.ones(1, 1, 1, 1), torch.ones(1, 1, 2, 1)
    v, v_ref = (torch.tensor(values).view(1, 1, 2, 1) for values in ([1.0, 3.0], [7.0, 9.0]))
    assert fused_attention(q, k, v, k, v_ref, 0.75).item() == 0.75 * 2 + 0.25 * 8


def test_a_reference_that_is_the_clip_itself_changes_nothing():
    q, k, v = heads(2, 3, 5, 7), heads(2, 3, 5, 7, seed=1), heads(2, 3, 5, 7, seed=2)
    torch.testing.assert_close(fused_attention(q, k, v, k, v, 0.3), explicit(q, k, v))


def test_no_gradient_goes_to_the_reference():
    own = [heads(2, 2, 3, 5, seed=seed).requires_grad_() for seed in range(3)]
    reference = [heads(2, 2, 3, 5, seed=seed).requires_grad_() for seed in (3, 4)]
    assert torch.autograd.gradcheck(lambda *t: fused_attention(*t, *reference, 0.3), own)
    fused_attention(*own, *reference, 0.3).sum().backward()
    assert not any(part.grad.any() for part in reference)


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


def fused(kind, z, cond, pairs, weight, sites, rows=None):
    plan = [Entry(sites, AttentionFusion(pairs, weight))]
    rows = range(len(z)) if rows is None else rows
    with torch.no_grad(), UNetLayers(unet(kind)).installed(plan, rows):
        return call(kind, z, cond)


def by_hand(kind, z, cond, pairs, weight, site):
    """One fused layer without any plan: its keys and values are taken, then its output replaced."""
    layer, taken = unet(kind).get_submodule(site.name), {}
    hooks = [
        layer.get_submodule(name).register_forward_hook(
            lambda _, __, out, name=name: taken.__setitem__(name, out)
        )
        for name in ("to_q", "to_k", "to_v")
    ]

    def replace(_, args, output):
        q, k, v = (
            taken[name].unflatten(2, (layer.heads, -1)).transpose(1, 2).double()
            for name in ("to_q", "to_k", "to_v")
        )
        read = explicit(q, k, v)
        for edited, reference in pairs.items():
            for frame in range(FRAMES):
                e, r = edited * FRAMES + frame, reference * FRAMES + frame
                read[e] = weight * explicit(q[e], k[e], v[e]) + (1 - weight) * explicit(
                    q[e], k[r], v[r]
                )
        return layer.to_out[0](read.transpose(1, 2).flatten(2).to(output.dtype))

    hooks.append(layer.register_forward_hook(replace))
    try:
        with torch.no_grad():
            return call(kind, z, cond)
    finally:
        for hook in hooks:
            hook.remove()


@pytest.mark.parametrize("pairs", [{2: 0, 3: 1}, {3: 1}, {0: 4, 1: 4}], ids=str)
def test_each_frame_reads_the_same_frame_of_its_reference(kind, pairs):
    """Two edited clips may share a reference; the other clips are as they would be anyway."""
    site = find_sites(unet(kind), "up_blocks.1.*", "spatial")[1]
    z, cond = inputs(5, FRAMES)
    result = fused(kind, z, cond, pairs, 0.3, [site])
    expected = by_hand(kind, z, cond, pairs, 0.3, site)
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-5)
    plain = by_hand(kind, z, cond, {}, 0.3, site)
    for row in range(5):
        assert torch.allclose(result[row], plain[row], atol=1e-5) == (row not in pairs)


def test_weight_1_is_no_fusion_bit_for_bit(kind):
    z, cond = inputs(4, FRAMES)
    sites = UNetLayers(unet(kind)).last(3)
    with torch.no_grad():
        plain = call(kind, z, cond)
    result = fused(kind, z, cond, {2: 0, 3: 1}, 1.0, sites)
    torch.testing.assert_close(result, plain, rtol=1e-6, atol=1e-6)
    assert torch.equal(result, fused(kind, z, cond, {}, 0.5, sites))


def test_equal_clips_stay_as_they_are(kind):
    """A clip that reads itself, even from another place of the batch, is not changed."""
    z, cond = inputs(1, FRAMES)
    z, cond = z.repeat(2, 1, 1, 1, 1), cond.repeat(2, 1, 1)
    with torch.no_grad():
        plain = call(kind, z, cond)
    result = fused(kind, z, cond, {1: 0}, 0.3, UNetLayers(unet(kind)).last(4))
    torch.testing.assert_close(result, plain, rtol=1e-5, atol=1e-5)


def test_references_from_an_earlier_call_are_the_same_ones(kind):
    """As where the edited clip runs alone, with a graph, or the batch is taken in slices."""
    z, cond = inputs(4, FRAMES)
    sites = UNetLayers(unet(kind)).last(3)
    whole = fused(kind, z, cond, {2: 0, 3: 1}, 0.3, sites)

    plan = [Entry(sites, AttentionFusion({2: 0, 3: 1}, 0.3))]
    with torch.no_grad(), UNetLayers(unet(kind)).installed(plan, range(3)):
        first = call(kind, z[:3], cond[:3])
    leaf = z[3:].clone().requires_grad_()
    with UNetLayers(unet(kind)).installed(plan, [3]):
        last = call(kind, leaf, cond[3:])
    result = torch.cat([first, last.detach()])
    torch.testing.assert_close(result, whole, rtol=1e-5, atol=1e-5)
    assert torch.autograd.grad(last.sum(), leaf)[0].any()


def test_an_edited_clip_before_its_reference():
    z, cond = inputs(2, FRAMES)
    sites = UNetLayers(unet("image")).last(1)
    with pytest.raises(ValueError, match=r"Clip 0 .* before its counterpart, clip 7.* come first"):
        fused("image", z, cond, {0: 7}, 0.5, sites)


@pytest.mark.parametrize("weight", [-0.1, 1.1, math.nan])
def test_the_weight_is_a_share(weight):
    with pytest.raises(ValueError, match=r"fusion weight .* within 0\.\.1"):
        AttentionFusion({1: 0}, weight)
