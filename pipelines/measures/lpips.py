"""LPIPS: a perceptual distance between two clips, from the features of a trained network.

Zhang et al. (2018), "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric",
version 0.1. The networks are AlexNet, VGG16 and SqueezeNet 1.1, with the layer numbers and weight
files of torchvision.
"""

from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from .measure import Measure, check_pair, mean
from .region import Region

SMALLEST = 32  # pixels; for smaller pictures the last layers have no output
# Mean and standard deviation of the training pictures, in -1..1, rounded as in LPIPS.
_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
_TINY = 1e-8  # added to squared lengths, against division by zero


class _Network(NamedTuple):
    layers: Callable[[], list[nn.Module]]
    taps: tuple[int, ...]  # the layers, counted from 0, whose outputs are compared
    trunk: str  # the file torchvision publishes
    heads: str  # the file of LPIPS


def _alexnet() -> list[nn.Module]:
    return [
        nn.Conv2d(3, 64, 11, stride=4, padding=2), nn.ReLU(), nn.MaxPool2d(3, stride=2),
        nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, stride=2),
        nn.Conv2d(192, 384, 3, padding=1), nn.ReLU(),
        nn.Conv2d(384, 256, 3, padding=1), nn.ReLU(),
        nn.Conv2d(256, 256, 3, padding=1), nn.ReLU(),
    ]  # fmt: skip


def _vgg16() -> list[nn.Module]:
    layers: list[nn.Module] = []
    channels = 3
    for width, count in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(count):
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
            channels = width
        layers.append(nn.MaxPool2d(2))
    return layers[:-1]


class _Fire(nn.Module):
    """A block of SqueezeNet: first few channels, then many, from two kernels side by side."""

    def __init__(self, channels: int, few: int, many: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(channels, few, 1)
        self.expand1x1 = nn.Conv2d(few, many, 1)
        self.expand3x3 = nn.Conv2d(few, many, 3, padding=1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c2 h w"]:
        x = self.squeeze(x).relu()
        return torch.cat([self.expand1x1(x), self.expand3x3(x)], dim=1).relu()


def _squeezenet() -> list[nn.Module]:
    def smaller() -> nn.Module:
        return nn.MaxPool2d(3, stride=2, ceil_mode=True)

    return [
        nn.Conv2d(3, 64, 3, stride=2), nn.ReLU(), smaller(),
        _Fire(64, 16, 64), _Fire(128, 16, 64), smaller(),
        _Fire(128, 32, 128), _Fire(256, 32, 128), smaller(),
        _Fire(256, 48, 192), _Fire(384, 48, 192), _Fire(384, 64, 256), _Fire(512, 64, 256),
    ]  # fmt: skip


NETWORKS = {
    "alex": _Network(_alexnet, (1, 4, 7, 9, 11), "alexnet-owt-7be5be79.pth", "alex.pth"),
    "vgg": _Network(_vgg16, (3, 8, 15, 22, 29), "vgg16-397923af.pth", "vgg.pth"),
    "squeeze": _Network(
        _squeezenet, (1, 4, 7, 9, 10, 11, 12), "squeezenet1_1-b8a52dc0.pth", "squeeze.pth"
    ),
}


class PerceptualNet(nn.Module):
    """The features of a network at some of its layers, and the weight of each channel there."""

    def __init__(self, name: str, trunk: Mapping[str, Tensor], heads: Sequence[Tensor]) -> None:
        """`trunk` is torchvision's state dict; `heads` holds one weight per channel of each tap."""
        super().__init__()
        self.name = name
        network = NETWORKS[name]
        layers = nn.Sequential(*network.layers())
        layers.load_state_dict(
            {key.removeprefix("features."): t for key, t in trunk.items() if "features." in key}
        )
        cuts = (0, *(tap + 1 for tap in network.taps))
        self.slices = nn.ModuleList(layers[start:end] for start, end in pairwise(cuts))
        self.heads = nn.ParameterList(nn.Parameter(head.flatten()) for head in heads)
        self.eval().requires_grad_(False)

    def forward(self, pictures: Float[Tensor, "b 3 h w"]) -> list[Tensor]:
        """Features of unit length, `[b, c, h, w]` each, of pictures in 0..1."""
        shift, scale = (pictures.new_tensor(x)[:, None, None] for x in (_SHIFT, _SCALE))
        x = (2 * pictures - 1 - shift) / scale
        features = []
        for part in self.slices:
            x = part(x)
            features.append(x * torch.rsqrt(x.square().sum(dim=1, keepdim=True) + _TINY))
        return features


@torch.no_grad()
def lpips(
    source: Float[Tensor, "1 3 f H W"],
    edited: Float[Tensor, "1 3 f2 H2 W2"],
    region: Region,
    net: PerceptualNet,
    *,
    on_frame: Callable[[int], None] | None = None,
) -> Measure:
    """Learned perceptual distance, 0 for equal clips.

    It is the sum over layers of the mean over places of w (a - b)^2, added up over channels. a and
    b are features of unit length at every place, w are the weights of the channels. Outside the
    region, the source's pixels replace those of the edit, so that the network sees no difference
    there. A place counts by the share of it that lies inside the region. If the region is all
    pixels, this is the LPIPS of the paper. The value is the mean over frames.

    Raises:
        ValueError: if the clips cannot be compared, or are smaller than 32 pixels.
    """
    check_pair(source, edited)
    if min(source.shape[-2:]) < SMALLEST:
        raise ValueError(
            f"The clips are {source.shape[4]} x {source.shape[3]} pixels; LPIPS needs at least "
            f"{SMALLEST} x {SMALLEST}. Enlarge them, or use PSNR or SSIM."
        )
    device = net.heads[0].device
    values = []
    for i, where in enumerate(region.where.to(source.device)):
        if not bool(where.any()):
            values.append(float("nan"))
            continue
        seen = torch.where(where, edited[:, :, i], source[:, :, i])
        pair = torch.cat([source[:, :, i], seen]).float().to(device)
        values.append(_distance(net, pair, where.float().to(device)))
        if on_frame is not None:
            on_frame(i + 1)
    return Measure(region.title(f"LPIPS {net.name}"), mean(values), "", "lower", tuple(values))


def _distance(
    net: PerceptualNet, pair: Float[Tensor, "2 3 h w"], where: Float[Tensor, "h w"]
) -> float:
    total = 0.0
    for head, features in zip(net.heads, net(pair), strict=True):
        apart = (head[:, None, None] * (features[0] - features[1]).square()).sum(dim=0)
        share = functional.adaptive_avg_pool2d(where[None], apart.shape)[0]
        total += float((share * apart).sum() / share.sum())
    return total


def load_lpips(name: str, folders: Sequence[Path]) -> PerceptualNet:
    """The network `name` ("alex", "vgg" or "squeeze") from files on this machine.

    The trunk is searched in `folders`, then in torchvision's downloads; the heads in `folders`,
    then in an installed torchmetrics or lpips package, which contain them.

    Raises:
        FileNotFoundError: if a file is not found; the message says where to get it.
        ValueError: if a file is damaged or belongs to another network.
    """
    network = NETWORKS[name]
    trunk_file = _first([*folders, Path(torch.hub.get_dir()) / "checkpoints"], network.trunk)
    heads_file = _first([*folders, *_packaged_heads()], network.heads)
    addresses = {
        f"https://download.pytorch.org/models/{network.trunk}": trunk_file,
        "https://raw.githubusercontent.com/richzhang/PerceptualSimilarity/master/lpips/weights/"
        f"v0.1/{network.heads}": heads_file,
    }
    if missing := [address for address, file in addresses.items() if file is None]:
        raise FileNotFoundError(
            f"LPIPS needs weights that are not on this machine, and nothing is downloaded. Put "
            f"{' and '.join(missing)} into {folders[0]}; or use PSNR or SSIM, which need none."
        )
    try:
        trunk, heads = (
            torch.load(file, map_location="cpu", weights_only=True)
            for file in (trunk_file, heads_file)
        )
        weights = [heads[f"lin{i}.model.1.weight"] for i in range(len(network.taps))]
        net = PerceptualNet(name, trunk, weights)
        features = net(torch.zeros(1, 3, SMALLEST, SMALLEST))
    # torch raises different exceptions for different kinds of damage.
    except Exception as error:
        raise ValueError(
            f"{trunk_file} and {heads_file} do not make the {name} network of LPIPS: one of them "
            "is damaged or belongs to another network. Fetch them again."
        ) from error
    _check_heads(net, [part.shape[1] for part in features], heads_file)
    return net


def _check_heads(net: PerceptualNet, widths: Sequence[int], file: Path | None) -> None:
    found = [head.numel() for head in net.heads]
    if found != widths:
        raise ValueError(
            f"{file} weighs {found} channels, but the layers of {net.name} have {widths}: it "
            "belongs to another network. Fetch it again."
        )


def _packaged_heads() -> list[Path]:
    """The folders with LPIPS heads in installed packages, which are not imported."""
    inside = {"torchmetrics": "functional/image/lpips_models", "lpips": "weights/v0.1"}
    specs = ((find_spec(package), part) for package, part in inside.items())
    return [Path(spec.origin).parent / part for spec, part in specs if spec and spec.origin]


def _first(folders: Sequence[Path], name: str) -> Path | None:
    """The file of that name in the first folder that has one."""
    return next((folder / name for folder in folders if (folder / name).is_file()), None)
