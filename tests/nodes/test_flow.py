"""RAFT's weights are taken from the folder in which the host looks for them."""

import sys
from functools import partial
from types import ModuleType

import pytest
import torch
from torch import nn


class FoundFlow(nn.Module):
    """In RAFT's place, where torchvision is not: it holds the flow it returns as its weight."""

    def __init__(self) -> None:
        super().__init__()
        self.vector = nn.Parameter(torch.zeros(2))

    def forward(self, first, second):
        return [self.vector.view(1, 2, 1, 1).expand(1, 2, *first.shape[-2:])]


@pytest.fixture
def built(monkeypatch):
    """Which models a torchvision with nothing but RAFT was asked for."""
    names: list[str] = []

    def make(name, weights):
        names.append(name)
        return FoundFlow()

    models, optical_flow = ModuleType("torchvision.models"), ModuleType("optical_flow")
    for name in ("raft_large", "raft_small"):
        setattr(optical_flow, name, partial(make, name))
    models.optical_flow = optical_flow
    monkeypatch.setitem(sys.modules, "torchvision", ModuleType("torchvision"))
    monkeypatch.setitem(sys.modules, "torchvision.models", models)
    return names


def test_raft_lies_in_the_hosts_folder_and_the_large_one_is_taken(
    run, clip, built, monkeypatch, tmp_path
):
    folder = tmp_path / "optical_flow" / "raft"
    folder.mkdir(parents=True)
    for name, across in (("raft_small.pth", 8.0), ("raft_large_C_T.pth", 16.0)):
        torch.save({"vector": torch.tensor([across, 0.0])}, folder / name)
    (folder / "raft_large.txt").write_text("no weights")
    images = clip(3, 128, 136)
    monkeypatch.setattr("rescore.nodes.host.roots", lambda category: [tmp_path / category])
    (flow,) = run("ReScoreOpticalFlow", images=images, method="raft")
    assert built == ["raft_large"]
    assert flow.forward[0, 0, 60, 60] == 16
    (folder / "raft_large_C_T.pth").unlink()
    (flow,) = run("ReScoreOpticalFlow", images=images, method="raft")
    assert built[1:] == ["raft_small"] and flow.forward[0, 0, 60, 60] == 8


def test_where_there_are_no_weights_the_folder_is_named(run, clip, built, monkeypatch, tmp_path):
    monkeypatch.setattr("rescore.nodes.host.roots", lambda category: [tmp_path / category])
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(FileNotFoundError, match="neither in models/optical_flow"):
        run("ReScoreOpticalFlow", images=clip(2, 128, 136), method="raft")
    assert built == []
