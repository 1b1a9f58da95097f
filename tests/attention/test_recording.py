"""Keys out of a running model, with their graph, and no more of the model run than they need."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from rescore.attention.layers import Entry
from rescore.attention.recording import Recorder, forward_recorded
from rescore.attention.unet.sites import find_sites
from small_runs import LEVEL, backbone
from tiny_unets import KINDS, call, inputs, unet
from torch.autograd.graph import saved_tensors_hooks

CLIPS, FRAMES = 2, 3


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


class Watched:
    """What a model does, seen from outside: keys of its layers, which modules ran."""

    def __init__(self, kind, sites):
        self.keys, self.ran, self.model = {}, [], unet(kind)
        self.hooks = [
            self.model.get_submodule(f"{site.name}.to_k").register_forward_hook(self.see(site))
            for site in sites
        ]
        for name in ("conv_in", "conv_out"):
            module = self.model.get_submodule(name)
            self.hooks.append(module.register_forward_hook(self.note(name)))

    def see(self, site):
        return lambda _, __, keys: self.keys.setdefault(site, keys)

    def note(self, name):
        return lambda *_: self.ran.append(name)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for hook in self.hooks:
            hook.remove()


def saved_bytes(function):
    """The result, and what autograd kept for the way back, in bytes."""
    total = 0

    def pack(tensor):
        nonlocal total
        total += tensor.nbytes
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        return function(), total


@pytest.mark.parametrize("output", [True, False], ids=["with output", "keys only"])
def test_it_keeps_what_to_k_gives(kind, output):
    sites = find_sites(unet(kind), "decoder", "spatial")
    z, cond = inputs(CLIPS, FRAMES)
    recorder = Recorder(sites, [11])
    with torch.no_grad(), Watched(kind, sites) as seen:
        expected = call(kind, z, cond)
        prediction = forward_recorded(
            partial(call, kind, z, cond, rows=(10, 11)), [recorder], output=output
        )
    for site in sites:
        keys = seen.keys[site]
        assert recorder.at(site).shape == (1, FRAMES, *keys.shape[1:])
        torch.testing.assert_close(recorder.at(site)[0], keys[FRAMES:], rtol=1e-5, atol=1e-6)
        assert not recorder.at(site).requires_grad
    if output:
        torch.testing.assert_close(prediction, expected, rtol=1e-6, atol=1e-6)
    else:
        assert prediction is None


def test_without_output_the_rest_is_never_run(kind):
    recorder = Recorder(find_sites(unet(kind), "up_blocks.1.*", "spatial"), range(CLIPS))
    with Watched(kind, ()) as seen:
        forward_recorded(partial(call, kind, *inputs(CLIPS, FRAMES)), [recorder], output=False)
    assert seen.ran == ["conv_in"]


@pytest.mark.parametrize("output", [True, False], ids=["with output", "keys only"])
@pytest.mark.parametrize("pattern", ["up_blocks.*", "up_blocks.1.*", "down_blocks.0.*"])
def test_the_gradient_is_that_of_the_whole_graph(kind, pattern, output):
    """Wherever the graph ends, what came before is differentiated exactly."""
    sites = find_sites(unet(kind), pattern, "spatial")
    z, cond = inputs(CLIPS, FRAMES)

    whole = z.clone().requires_grad_()
    with Watched(kind, sites) as seen:
        call(kind, whole, cond)
        loss = sum(seen.keys[site].square().sum() for site in sites)
    expected = torch.autograd.grad(loss, whole)[0]

    z.requires_grad_()
    recorder = Recorder(sites, range(CLIPS))
    prediction = forward_recorded(partial(call, kind, z, cond), [recorder], output=output)
    loss = sum(recorder.at(site).square().sum() for site in sites)
    gradient = torch.autograd.grad(loss, z)[0]
    scale = expected.abs().max()
    torch.testing.assert_close(gradient / scale, expected / scale, rtol=0, atol=1e-5)
    assert scale > 1
    assert prediction is None or not prediction.requires_grad
    assert torch.is_grad_enabled()


def test_nothing_is_kept_for_the_way_back_after_the_last_layer_needed(kind):
    """With the output or without it, the graph is as small; and much smaller than the whole."""
    z, cond = inputs(CLIPS, FRAMES)
    z.requires_grad_()
    sites = find_sites(unet(kind), "down_blocks.*, mid_block.*", "spatial")
    kept = {}
    for output in (True, False):
        recorder = Recorder(sites, range(CLIPS))
        run = partial(forward_recorded, partial(call, kind, z, cond), [recorder], output=output)
        _, kept[output] = saved_bytes(run)
    _, whole = saved_bytes(partial(call, kind, z, cond))
    assert kept[True] == kept[False]
    assert 0 < kept[True] < 0.6 * whole


def test_several_recorders_end_the_graph_together(kind):
    first = Recorder(find_sites(unet(kind), "down_blocks.*", "spatial"), [0])
    last = Recorder(
        find_sites(unet(kind), "decoder", "spatial"), [1], take=lambda q, k, v: q.mean(dim=2)
    )
    z, cond = inputs(CLIPS, FRAMES)
    forward_recorded(partial(call, kind, z.requires_grad_(), cond), [last, first])
    assert first.complete and last.complete
    assert last.at(last.sites[-1]).requires_grad
    heads = unet(kind).get_submodule(last.sites[0].name).heads
    assert last.at(last.sites[0]).shape[:3] == (1, FRAMES, heads)


def test_a_plan_holds_meanwhile(kind):
    z, cond = inputs(CLIPS, FRAMES)
    sites = find_sites(unet(kind), kind="spatial")
    plan = [Entry(sites[:1], lambda layer, q, k, v, attend: torch.zeros_like(q))]
    keys = []
    for entries in ((), plan):
        recorder = Recorder(sites, range(CLIPS))
        with torch.no_grad():
            forward_recorded(partial(call, kind, z, cond), [recorder], plan=entries)
        keys.append([recorder.at(site) for site in sites])
    assert torch.equal(keys[0][0], keys[1][0])
    assert not any(map(torch.allclose, keys[0][1:], keys[1][1:]))


def test_clips_in_slices(kind):
    """The model takes two clips and then one; clip 5 is in the second slice."""
    sites = find_sites(unet(kind), "decoder", "spatial")
    z, cond = inputs(3, FRAMES)

    def run(rows_per_call, plan):
        model = replace(backbone(kind).denoiser, rows_per_call=rows_per_call)
        return model(z, LEVEL, cond, plan=plan, rows=(3, 4, 5))

    for output in (True, False):
        records = []
        for rows_per_call in (2, None):
            recorder = Recorder(sites, [5, 3])
            with torch.no_grad():
                forward_recorded(partial(run, rows_per_call), [recorder], output=output)
            records.append(torch.stack([recorder.at(site).mean() for site in sites]))
            assert recorder.at(sites[0]).shape[0] == 2
        torch.testing.assert_close(*records, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_leaves_gradients_as_they_were(error):
    sites = find_sites(unet("image"), "down_blocks.*", "spatial")

    def fail(layer, q, k, v, attend):
        assert not torch.is_grad_enabled()
        raise error("stop")

    plan = [Entry(find_sites(unet("image"), "mid_block.*"), fail)]
    with pytest.raises(error, match="stop"):
        forward_recorded(partial(call, "image", *inputs(1, 1)), [Recorder(sites, [0])], plan=plan)
    assert torch.is_grad_enabled()


def test_a_forward_that_does_not_run_the_model():
    recorder = Recorder(find_sites(unet("image"), "decoder", "spatial"), [0])
    with pytest.raises(RuntimeError, match="not through all layers"):
        forward_recorded(lambda plan: torch.zeros(1), [recorder])


@pytest.mark.parametrize("output", [True, False], ids=["with output", "keys only"])
@pytest.mark.parametrize("pattern", ["up_blocks.2.*.0.*", "mid_block.*"])
def test_gradient_checkpointing(pattern, output):
    """Blocks that run again on the way back give the same gradient."""
    model = unet("motion")
    sites = find_sites(model, pattern, "spatial")
    z, cond = inputs(1, FRAMES)
    gradients = []
    try:
        for checkpointing in (False, True):
            if checkpointing:
                model.enable_gradient_checkpointing()
            leaf = z.clone().requires_grad_()
            recorder = Recorder(sites, [0])
            forward_recorded(partial(call, "motion", leaf, cond), [recorder], output=output)
            loss = sum(recorder.at(site).square().mean() for site in sites)
            gradients.append(torch.autograd.grad(loss, leaf)[0])
    finally:
        model.disable_gradient_checkpointing()
    torch.testing.assert_close(gradients[1], gradients[0])
