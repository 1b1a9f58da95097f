"""A network that is kept apart computes the same, with little but small parts on its device."""

import pytest
import torch
from rescore.pipelines.models.storage import keep_apart, put_together, store_in_fp8
from rescore.pipelines.models.unet.load import load_text_to_video
from rescore.pipelines.models.wan.load import load_wan
from tiny_models import write_tiny_t2v
from tiny_wan import write_tiny_wan


@pytest.fixture(scope="module", params=["t2v", "wan"])
def load(request, tmp_path_factory):
    """Makes the same tiny model again and again."""
    folder = tmp_path_factory.mktemp(request.param)
    write, read = {
        "t2v": (write_tiny_t2v, load_text_to_video),
        "wan": (write_tiny_wan, load_wan),
    }[request.param]
    write(folder, seed=5)
    return lambda: read(folder, dtype=torch.float32)


def predicted(model):
    """A prediction, and the gradient of its size on the latents."""
    generator = torch.Generator().manual_seed(7)
    channels = model.denoiser.space.channels
    z = torch.randn(1, channels, 3, 4, 4, generator=generator).requires_grad_()
    text, level = model.encode_prompt("a red circle").embedding, model.denoiser.process.grid(5)[2]
    eps = model.denoiser(z, level, text).eps
    (gradient,) = torch.autograd.grad(eps.square().sum(), z)
    return eps.detach(), gradient


@pytest.mark.parametrize("in_fp8", [False, True])
def test_values_and_gradients_are_the_same_to_the_bit(load, in_fp8):
    model = load()
    network = model.modules()["network"]
    if in_fp8:
        store_in_fp8(network)
    before = predicted(model)
    for _ in range(2):  # again, on another device perhaps
        keep_apart(network, "cpu")
        assert all(map(torch.equal, predicted(model), before))
    put_together(network)
    assert all(map(torch.equal, predicted(model), before))


def test_weights_stay_and_all_else_goes_to_the_device(load):
    """The device "meta" computes shapes alone, and refuses what was left behind."""
    model = load()
    network = model.modules()["network"]
    keep_apart(network, "meta")
    sizes = {"cpu": 0, "meta": 0}
    for parameter in network.parameters():
        sizes[parameter.device.type] += parameter.numel()
    assert sizes["cpu"] > sizes["meta"] > 0
    assert model.device.type == "meta"
    z = torch.randn(1, model.denoiser.space.channels, 3, 4, 4, device="meta")
    text = model.encode_prompt("a red circle").embedding.to("meta")
    with torch.no_grad():
        output = model.denoiser.output(z, 500.0, text)
    assert output.device.type == "meta" and output.shape == z.shape
