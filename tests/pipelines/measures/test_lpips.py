"""LPIPS on networks of random weights: the files, the formula, the regions."""

import pytest
import torch
from rescore.pipelines.measures import lpips as module
from rescore.pipelines.measures.lpips import NETWORKS, load_lpips, lpips
from rescore.pipelines.measures.region import region
from tiny_clip import write_random_lpips
from torch import nn

FRAMES, HEIGHT, WIDTH = 2, 37, 43


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_random_lpips(tmp_path_factory.mktemp("lpips"))


@pytest.fixture(scope="module")
def net(folder):
    return load_lpips("alex", [folder])


@pytest.fixture
def pair():
    generator = torch.Generator().manual_seed(0)
    clips = torch.rand(2, 1, 3, FRAMES, HEIGHT, WIDTH, generator=generator)
    return clips[0], clips[1]


@pytest.mark.parametrize("name", ["alex", "squeeze"])
def test_the_formula_step_by_step(tmp_path, pair, name):
    """Features at the taps, of unit length; squared difference, weighted; means; sum."""
    folder, network = write_random_lpips(tmp_path, name), NETWORKS[name]
    net = load_lpips(name, [folder])
    trunk = torch.load(folder / network.trunk, weights_only=True)
    heads = torch.load(folder / network.heads, weights_only=True)
    layers = nn.Sequential(*network.layers())
    layers.load_state_dict({k[9:]: v for k, v in trunk.items() if k.startswith("features.")})
    shift = torch.tensor([-0.030, -0.088, -0.188])[:, None, None]
    scale = torch.tensor([0.458, 0.448, 0.450])[:, None, None]
    expected = []
    with torch.no_grad():
        for i in range(FRAMES):
            a, b = ((2 * clip[:, :, i] - 1 - shift) / scale for clip in pair)
            total = 0.0
            for number, layer in enumerate(layers):
                a, b = layer(a), layer(b)
                if number in network.taps:
                    weight = heads[f"lin{network.taps.index(number)}.model.1.weight"]
                    apart = [x / (1e-8 + x.square().sum(1, True)).sqrt() for x in (a, b)]
                    squared = (apart[0] - apart[1]).square()
                    total += float(nn.functional.conv2d(squared, weight).mean())
            expected.append(total)
    found = lpips(*pair, region(None, FRAMES, HEIGHT, WIDTH), net)
    assert found.values == pytest.approx(expected, rel=1e-5)
    assert found.value == pytest.approx(sum(expected) / FRAMES, rel=1e-5)
    assert (found.name, found.better) == (f"LPIPS {name}", "lower")


def test_equal_clips_and_equal_regions_have_no_distance(net, pair):
    source, _ = pair
    assert lpips(source, source, region(None, FRAMES, HEIGHT, WIDTH), net).value == 0
    mask = torch.zeros(1, HEIGHT, WIDTH)
    mask[..., :20] = 1
    edited = source.clone()
    edited[..., :20] = 1 - edited[..., :20]
    outside, inside = (
        lpips(source, edited, region(mask, FRAMES, HEIGHT, WIDTH, side), net).value
        for side in ("outside", "inside")
    )
    assert outside == 0
    assert inside > 0


def test_a_frame_without_the_region_is_left_out(net, pair):
    masks = torch.zeros(FRAMES, HEIGHT, WIDTH)
    masks[0] = 1
    found = lpips(*pair, region(masks, FRAMES, HEIGHT, WIDTH), net)
    assert found.values[0] != found.values[0]
    assert found.value == found.values[1]


def test_vgg_has_the_layers_of_torchvision():
    layers = NETWORKS["vgg"].layers()
    assert [type(layers[tap]) for tap in NETWORKS["vgg"].taps] == [nn.ReLU] * 5
    widths = [layers[tap - 1].out_channels for tap in NETWORKS["vgg"].taps]
    assert widths == [64, 128, 256, 512, 512]
    pools = [i for i, layer in enumerate(layers) if isinstance(layer, nn.MaxPool2d)]
    assert pools == [4, 9, 16, 23]


def test_squeeze_has_the_layers_and_names_of_torchvision(pair):
    layers = nn.Sequential(*NETWORKS["squeeze"].layers())
    names = {key.rpartition(".")[0] for key in layers.state_dict()}
    fires = (3, 4, 6, 7, 9, 10, 11, 12)
    parts = ("squeeze", "expand1x1", "expand3x3")
    assert names == {"0", *(f"{number}.{part}" for number in fires for part in parts)}
    features, sizes = pair[0][:, :, 0], []
    for number, layer in enumerate(layers):
        features = layer(features)
        if number in NETWORKS["squeeze"].taps:
            sizes.append(tuple(features.shape[1:]))
    # 37 x 43 pixels: 3 x 3 with stride 2, then pools of 3 with stride 2 that round up.
    assert sizes == [
        (64, 18, 21), (128, 9, 10), (256, 4, 5), (384, 2, 2), (384, 2, 2), (512, 2, 2), (512, 2, 2),
    ]  # fmt: skip


def test_small_clips_are_refused(net):
    clip = torch.zeros(1, 3, 1, 31, 37)
    with pytest.raises(ValueError, match="37 x 31 pixels; LPIPS needs at least 32"):
        lpips(clip, clip, region(None, 1, 31, 37), net)


@pytest.mark.parametrize(
    ("name", "widths"),
    [
        ("alex", [64, 192, 384, 256, 256]),
        ("vgg", [64, 128, 256, 512, 512]),
        ("squeeze", [64, 128, 256, 384, 384, 512, 512]),
    ],
)
def test_heads_of_an_installed_package_serve(tmp_path, pair, name, widths):
    """torchmetrics carries the heads; only the trunk must be fetched."""
    (write_random_lpips(tmp_path, name) / NETWORKS[name].heads).unlink()
    net = load_lpips(name, [tmp_path])
    assert [head.numel() for head in net.heads] == widths
    assert lpips(*pair, region(None, FRAMES, HEIGHT, WIDTH), net).value > 0


def test_missing_files_are_told(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_packaged_heads", lambda: [])
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(FileNotFoundError) as error:
        load_lpips("vgg", [tmp_path / "lpips"])
    for part in ("https://download.pytorch.org/models/vgg16-", "v0.1/vgg.pth", str(tmp_path)):
        assert part in str(error.value)


@pytest.mark.parametrize("damage", [b"no weights", "other network"])
def test_damaged_files_are_told(tmp_path, folder, damage):
    write_random_lpips(tmp_path)
    heads = tmp_path / NETWORKS["alex"].heads
    if damage == b"no weights":
        heads.write_bytes(damage)
        message = "damaged or belongs to another network"
    else:
        widths = (64, 128, 256, 512, 512)
        torch.save(
            {f"lin{i}.model.1.weight": torch.ones(1, w, 1, 1) for i, w in enumerate(widths)}, heads
        )
        message = "belongs to another network"
    with pytest.raises(ValueError, match=message):
        load_lpips("alex", [tmp_path])
