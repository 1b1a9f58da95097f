"""What is observed of a real video model, against maps formed by hand."""

from functools import partial

import pytest
import torch
from rescore.attention.layers import Entry
from rescore.attention.observation import observe
from rescore.attention.unet.layers import UNetLayers
from rescore.attention.unet.sites import find_sites
from tiny_unets import HEIGHT, WIDTH, call, inputs, unet

FRAMES = 5
SITES = "up_blocks.[12].*"


@pytest.fixture(params=["video", "motion"])
def kind(request):
    return request.param


def sites(kind):
    return find_sites(unet(kind), SITES, "temporal"), find_sites(unet(kind), SITES, "spatial")


def watched(kind, z, cond, **options):
    return observe(partial(call, kind, z, cond), *sites(kind), **options)


def by_hand(kind, z, cond):
    """Whole maps and keys, kept by a change of our own."""
    temporal, spatial = sites(kind)
    maps, keys = {}, {}

    def keep(layer, q, k, v, attend):
        if layer.site in temporal:
            maps[layer.site.name] = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1)
        else:
            keys[layer.site.name] = k.transpose(1, 2).flatten(2)
        return attend(q, k, v)

    with UNetLayers(unet(kind)).installed([Entry([*temporal, *spatial], keep)], [0]):
        call(kind, z, cond)
    return maps, keys


@pytest.mark.parametrize("top_k", [1, 2, FRAMES + 4])
def test_the_largest_weights_are_kept(kind, top_k):
    z, cond = inputs(1, FRAMES)
    with torch.no_grad():
        seen, output = watched(kind, z, cond, top_k=top_k)
        maps, keys = by_hand(kind, z, cond)
        torch.testing.assert_close(output, call(kind, z, cond))
    assert list(seen.rows) == list(maps)
    for name, whole in maps.items():
        assert seen.rows[name].shape[-1] == min(top_k, FRAMES)
        torch.testing.assert_close(seen.rows[name], whole.gather(-1, seen.frames[name]))
        largest = whole.sort(-1, descending=True).values[..., : min(top_k, FRAMES)]
        torch.testing.assert_close(seen.rows[name], largest)
    for name, whole in keys.items():
        torch.testing.assert_close(seen.keys[name], whole)


def test_positions_are_rows_then_columns(kind):
    """The finest layers of the decoder see the latents' own grid."""
    seen, _ = watched(kind, *inputs(1, FRAMES))
    assert {len(rows) for rows in seen.rows.values()} == {
        HEIGHT * WIDTH,
        HEIGHT * WIDTH // 4,
    }
    assert {keys.shape[:2] for keys in seen.keys.values()} == {
        (FRAMES, HEIGHT * WIDTH),
        (FRAMES, HEIGHT * WIDTH // 4),
    }


def test_the_same_frames_of_another_clip(kind):
    z, cond = inputs(1, FRAMES)
    seen, _ = watched(kind, z, cond, top_k=2)
    other, _ = watched(kind, z + 0.1, cond, picked=seen.frames)
    maps, _ = by_hand(kind, z + 0.1, cond)
    for name, whole in maps.items():
        torch.testing.assert_close(other.rows[name], whole.gather(-1, seen.frames[name]))


def test_what_is_seen_leads_back_to_the_clip_and_the_output_does_not(kind):
    z, cond = inputs(1, FRAMES)
    z.requires_grad_()
    seen, output = watched(kind, z, cond)
    assert not output.requires_grad
    for part in (*seen.rows.values(), *seen.keys.values()):
        (gradient,) = torch.autograd.grad(part.square().sum(), z, retain_graph=True)
        assert float(gradient.abs().max()) > 0


def test_a_run_without_output_stops_early(kind):
    z, cond = inputs(1, FRAMES)
    seen, output = watched(kind, z, cond, output=False)
    whole, _ = watched(kind, z, cond)
    assert output is None
    assert all(torch.equal(seen.keys[name], whole.keys[name]) for name in whole.keys)


def test_only_one_kind_may_be_wanted(kind):
    temporal, spatial = sites(kind)
    z, cond = inputs(1, FRAMES)
    seen, _ = observe(partial(call, kind, z, cond), [], spatial)
    assert seen.rows == {} and len(seen.keys) == len(spatial)
    seen, _ = observe(partial(call, kind, z, cond), temporal, [])
    assert seen.keys == {} and len(seen.rows) == len(temporal)
