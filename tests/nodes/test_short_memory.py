"""A model that a device has no room for is kept in main memory, and the log says so."""

import logging
from types import SimpleNamespace

import pytest
import torch
from rescore.nodes import host

GIB = 2**30


class Patcher:
    """What the host keeps of a model, as far as loading needs it."""

    def __init__(self, model, load_device, offload_device) -> None:
        self.model, self.load_device = model, load_device


@pytest.fixture
def model(load):
    """A model that was loaded before the host is short of memory."""
    return load("text-to-video")


@pytest.fixture
def management(model, monkeypatch):
    """A host whose device computes nothing but shapes, and that says how much room there is."""
    calls = []
    device = torch.device("meta")
    management = SimpleNamespace(
        calls=calls,
        room=GIB,
        get_torch_device=lambda: device,
        unet_offload_device=lambda: torch.device("cpu"),
        get_total_memory=lambda _: management.room,
        minimum_inference_memory=lambda: 0,
        module_size=lambda m: sum(p.numel() * p.element_size() for p in m.parameters()),
        free_memory=lambda size, where: calls.append("unload"),
        load_models_gpu=lambda patchers, **_: calls.append("whole"),
        should_use_bf16=lambda _: False,
        should_use_fp16=lambda _: False,
        throw_exception_if_processing_interrupted=lambda: None,
    )
    for name in ("vae_device", "vae_offload_device", "text_encoder_device"):
        setattr(management, name, lambda: torch.device("cpu"))
    management.text_encoder_offload_device = lambda: torch.device("cpu")
    modules = {
        "comfy.model_management": management,
        "comfy.model_patcher": SimpleNamespace(ModelPatcher=Patcher),
    }
    monkeypatch.setattr(host, "_host", modules.get)
    known = SimpleNamespace(import_module=modules.__getitem__)
    monkeypatch.setattr(host, "importlib", known)
    return management


def test_where_there_is_no_room_layers_are_moved_one_by_one(model, management, caplog):
    with caplog.at_level(logging.WARNING, "rescore"):
        host.load(model, "network", memory=2 * GIB)
    assert management.calls == ["unload"]
    assert "needs 2.0 GiB with the work, and the device has 1.0" in caplog.text
    devices = {parameter.device.type for parameter in model.network.parameters()}
    assert devices == {"cpu", "meta"} and model.device.type == "meta"


def test_where_there_is_room_it_is_loaded_whole_and_put_together_again(model, management, caplog):
    host.load(model, "network", memory=2 * GIB)
    layer = next(m for m in model.network.modules() if hasattr(m, "parametrizations"))
    assert layer.weight.device.type == "meta"
    management.room, management.calls[:] = 4 * GIB, []
    caplog.clear()
    host.load(model, "network", memory=2 * GIB)
    assert management.calls == ["whole"] and not caplog.text
