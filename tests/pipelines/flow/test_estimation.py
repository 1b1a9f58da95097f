"""Optical flow of clips whose flow is known, and its picture."""

import sys
from types import ModuleType

import pytest
import torch
from einops import rearrange
from rescore.pipelines.flow.colours import flow_picture
from rescore.pipelines.flow.estimation import estimate_flow
from rescore.shapeworld.render import render
from rescore.shapeworld.scene import sample_scene
from torch import nn
from torch.nn.functional import avg_pool2d, pad


def drifting(height: int, width: int, x: int, y: int, frames: int = 3, seed: int = 0):
    """A smooth random picture that moves by whole pixels, (x, y) a frame: `[1, 3, f, h, w]`."""
    generator = torch.Generator().manual_seed(seed)
    reach = frames * max(abs(x), abs(y))
    noise = torch.rand(3, 1, height + 2 * reach + 4, width + 2 * reach + 4, generator=generator)
    picture = rearrange(avg_pool2d(noise, 5, stride=1), "c 1 h w -> c h w")
    picture = (picture - picture.amin()) / (picture.amax() - picture.amin())
    shown = [
        picture[:, reach - y * i :, reach - x * i :][:, :height, :width] for i in range(frames)
    ]
    return torch.stack(shown, dim=1)[None]


@pytest.mark.parametrize("size", [(48, 67), (16, 23), (11, 13)], ids=str)
def test_a_drifting_picture(size):
    """To the right is positive in channel 0, down in channel 1; back is the opposite."""
    flow = estimate_flow(drifting(*size, 2, -1))
    expected = torch.tensor([2.0, -1.0]).view(1, 2, 1, 1)
    assert flow.forward.shape == flow.backward.shape == (2, 2, *size)
    inner = (..., slice(3, -3), slice(3, -3))
    assert (flow.forward - expected)[inner].abs().mean() < 0.1
    assert (flow.backward + expected)[inner].abs().mean() < 0.1
    assert flow.visible_forward[inner].float().mean() > 0.95
    # What drifts out at the right is not visible any more.
    assert flow.visible_forward[..., -1].float().mean() < 0.1


@pytest.mark.parametrize("seed", [0, 2, 3, 8])
def test_the_shape_world(seed):
    """Things without texture, on backdrops with or without, whose motion is known."""
    truth = render(sample_scene(seed))
    flow = estimate_flow(rearrange(truth.clip, "f h w c -> 1 c f h w"))
    moving = truth.mask[:-1]
    missed = (flow.forward - truth.forward_flow).square().sum(dim=1).sqrt()
    speed = truth.forward_flow.square().sum(dim=1).sqrt()
    assert missed[moving].mean() < 0.4 * speed[moving].mean()
    assert missed[~moving].mean() < 0.3 * speed[moving].mean()


def test_colours_of_one_brightness_are_told_apart():
    """Red and green that make up for each other: the luma is the same everywhere."""
    red = drifting(40, 47, 2, -1)[:, :1]
    green = (0.4 - 0.299 * red) / 0.587
    flow = estimate_flow(torch.cat([red, green, 0 * red], dim=1))
    expected = torch.tensor([2.0, -1.0]).view(1, 2, 1, 1)
    assert (flow.forward - expected)[..., 3:-3, 3:-3].abs().mean() < 0.2


def test_it_says_how_far_it_is():
    seen = []
    estimate_flow(drifting(32, 32, 1, 0, frames=4), on_pair=lambda *done: seen.append(done))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_a_clip_of_one_frame_has_no_flow():
    flow = estimate_flow(drifting(32, 33, 1, 0, frames=1))
    assert flow.frames == 1
    assert flow.forward.shape == (0, 2, 32, 33)


@pytest.mark.parametrize("method", ["dis", "raft"])
def test_a_missing_package_is_named(method, monkeypatch):
    for name in ("cv2", "torchvision", "torchvision.models"):
        monkeypatch.setitem(sys.modules, name, None)
    sentence = {"dis": "pip install opencv-python-headless", "raft": "RAFT needs torchvision"}
    with pytest.raises(ModuleNotFoundError, match=sentence[method]):
        estimate_flow(drifting(32, 32, 1, 0), method)


def test_opencv_is_imported_only_when_it_is_used(fresh_python):
    run = fresh_python(
        "import sys, rescore.pipelines.flow.estimation; "
        "assert not {'cv2', 'torchvision'} & set(sys.modules)"
    )
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize(
    ("clip", "method", "sentence"),
    [
        (drifting(32, 32, 1, 0), "farneback", "no method; choose dis or raft"),
        (torch.full((1, 3, 2, 32, 32), torch.nan), "dis", "NaN or infinite"),
    ],
)
def test_what_cannot_be_estimated(clip, method, sentence):
    with pytest.raises(ValueError, match=sentence):
        estimate_flow(clip, method)


class FoundFlow(nn.Module):
    """In RAFT's place, where torchvision is not: it holds the flow it returns as its weight."""

    def __init__(self) -> None:
        super().__init__()
        self.vector = nn.Parameter(torch.zeros(2))

    def forward(self, first, second):
        assert first.shape == second.shape
        assert first.shape[-2] % 8 == first.shape[-1] % 8 == 0
        assert min(first.shape[-2:]) >= 128
        assert -1 <= float(first.min()) < -0.5 and 0.5 < float(first.max()) <= 1
        flow = self.vector.view(1, 2, 1, 1).expand(1, 2, *first.shape[-2:])
        return [flow * 0, flow]


@pytest.fixture
def torchvision(monkeypatch, tmp_path):
    """A torchvision with nothing but RAFT, and a folder for what it has fetched."""
    built = []
    models, optical_flow = ModuleType("torchvision.models"), ModuleType("optical_flow")
    for name in ("raft_large", "raft_small"):
        setattr(
            optical_flow,
            name,
            lambda weights, name=name: built.append((name, weights)) or FoundFlow(),
        )
    models.optical_flow = optical_flow
    monkeypatch.setitem(sys.modules, "torchvision", ModuleType("torchvision"))
    monkeypatch.setitem(sys.modules, "torchvision.models", models)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    return built, tmp_path / "checkpoints"


def test_raft_gets_frames_as_it_wants_them(torchvision):
    """128 pixels at least, whole eighths, -1..1; its last refinement counts, at the clip's size."""
    built, folder = torchvision
    torch.save({"vector": torch.tensor([4.0, 2.0])}, folder / "raft_small_C_T_V2-0123.pth")
    flow = estimate_flow(drifting(64, 93, 1, 0), "raft")
    expected = torch.tensor([2.0, 1.0]).view(1, 2, 1, 1).expand(2, 2, 64, 93)
    torch.testing.assert_close(flow.forward, expected)
    assert built == [("raft_small", None)]


def test_weights_may_lie_elsewhere(torchvision, tmp_path):
    built, _ = torchvision
    torch.save({"vector": torch.tensor([4.0, 2.0])}, tmp_path / "mine.pth")
    estimate_flow(drifting(130, 136, 1, 0), "raft", weights=tmp_path / "mine.pth")
    assert built == [("raft_large", None)]


def test_raft_without_weights_downloads_nothing(torchvision):
    with pytest.raises(FileNotFoundError, match=r"nothing is downloaded.*choose dis"):
        estimate_flow(drifting(32, 32, 1, 0), "raft")


# The picture.


def vectors(*pairs: tuple[float, float]) -> torch.Tensor:
    return rearrange(torch.tensor(pairs).float(), "w c -> 1 c 1 w")


def test_directions_have_their_usual_colours():
    """The corners of the wheel: red to the right, and the others after 15, 21, 25, 36, 49 of 55."""
    turns = torch.tensor([0, 15, 21, 25, 36, 49]) / 55 * 2 * torch.pi
    flow = rearrange(torch.stack([turns.cos(), turns.sin()]), "c w -> 1 c 1 w")
    corners = torch.tensor([[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 1, 1], [0, 0, 1], [1, 0, 1.0]])
    torch.testing.assert_close(flow_picture(flow)[0, :, 0].T, corners, rtol=0, atol=1e-5)


def test_nothing_moving_is_white_and_half_the_speed_half_as_deep():
    picture = flow_picture(vectors((4, 0), (2, 0), (0, 0)))
    expected = torch.tensor([[1, 0, 0], [1, 0.5, 0.5], [1, 1, 1.0]])
    torch.testing.assert_close(picture[0, :, 0].T, expected)
    assert torch.equal(flow_picture(torch.zeros(2, 2, 3, 5)), torch.ones(2, 3, 3, 5))


def test_a_given_scale_and_what_exceeds_it():
    picture = flow_picture(vectors((4, 0), (9, 0)), longest=8)
    torch.testing.assert_close(picture[0, :, 0].T, torch.tensor([[1, 0.5, 0.5], [0.75, 0, 0]]))


def test_the_wheel_closes_and_stays_within_0_and_1():
    turns = torch.linspace(-4, 4, 997)
    flow = rearrange(torch.stack([turns.cos(), turns.sin()]), "c w -> 1 c 1 w")
    picture = flow_picture(flow)
    assert 0 <= picture.min() and picture.max() <= 1
    assert (picture[..., 1:] - picture[..., :-1]).abs().max() < 0.03
    assert flow_picture(pad(flow, (1, 1))).isfinite().all()
