"""Checkpointed blocks give the same numbers, keep less, and are gone afterwards."""

from functools import partial

import pytest
import torch
from rescore.attention.layers import Entry
from rescore.attention.observation import observe
from rescore.attention.unet.checkpointing import checkpointed
from rescore.attention.unet.sites import find_sites
from tiny_unets import call, inputs, unet

FRAMES = 3


def gradient(kind):
    z, cond = inputs(1, FRAMES)
    cond.requires_grad_()
    kept = 0

    def count(tensor):
        nonlocal kept
        kept += tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        output = call(kind, z, cond)
    (found,) = torch.autograd.grad(output.square().sum(), cond)
    return output.detach(), found, kept


@pytest.mark.parametrize("kind", ["image", "video", "motion"])
def test_same_numbers_with_less_kept(kind):
    output, found, kept = gradient(kind)
    before = {name: set(vars(module)) for name, module in unet(kind).named_modules()}
    with checkpointed(unet(kind)):
        again, same, less = gradient(kind)
    assert torch.equal(again, output)
    torch.testing.assert_close(same, found)
    assert less < kept / 3
    assert {name: set(vars(module)) for name, module in unet(kind).named_modules()} == before


def test_it_is_gone_after_an_error():
    with pytest.raises(KeyboardInterrupt), checkpointed(unet("motion")):
        raise KeyboardInterrupt
    assert not any("forward" in vars(module) for module in unet("motion").modules())


def test_observed_layers_have_their_gradient_all_the_same():
    z, cond = inputs(1, FRAMES)
    z.requires_grad_()
    spatial = find_sites(unet("motion"), "up_blocks.1.*", "spatial")
    temporal = find_sites(unet("motion"), "up_blocks.1.*", "temporal")

    def gradient_of_seen():
        seen, _ = observe(partial(call, "motion", z, cond), temporal, spatial)
        parts = [*seen.keys.values(), *seen.rows.values()]
        return torch.autograd.grad(sum(part.square().sum() for part in parts), z)[0]

    plain = gradient_of_seen()
    with checkpointed(unet("motion")):
        torch.testing.assert_close(gradient_of_seen(), plain)


@pytest.mark.parametrize("kind", ["image", "video", "motion"])
def test_a_changed_layer_is_run_again_as_it_was(kind):
    """The plan is gone, and the model has seen other clips, when the gradient comes by."""
    z, cond = inputs(2, FRAMES)
    cond.requires_grad_()
    sites = find_sites(unet(kind), "*", "spatial")
    processors = dict(unet(kind).attn_processors)

    def twice_for_the_second(layer, q, k, v, attend):
        factor = torch.tensor([1.0 + row for row in layer.rows])
        return attend(q, k, v) * factor.repeat_interleave(len(q) // len(factor)).view(-1, 1, 1, 1)

    def gradient_of_changed():
        plan = [Entry(sites, twice_for_the_second)]
        halves = [call(kind, z[i : i + 1], cond[i : i + 1], plan, rows=[i]) for i in (0, 1)]
        return torch.autograd.grad(torch.cat(halves).square().sum(), cond)[0]

    plain = gradient_of_changed()
    with checkpointed(unet(kind)):
        torch.testing.assert_close(gradient_of_changed(), plain)
    assert unet(kind).attn_processors == processors
