"""Compute the optical flow of a clip, with OpenCV (no weights needed) or RAFT (local weights).

OpenCV and torchvision are imported only when they are used.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeAlias

import torch
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from ..models.tensor_file import open_tensors
from .fields import Flow, resize_flow, warp

# Takes two frames `[1, 3, h, w]` in 0..1, returns the flow from the first to the second.
Between: TypeAlias = Callable[[Tensor, Tensor], Tensor]

METHODS = ("dis", "raft")
# Smaller pictures are enlarged: the methods find nothing in them, or raise an error.
_SMALLEST = {"dis": 32, "raft": 128}
_RAFT_STRIDE = 8  # pixels per place of RAFT's feature maps


@torch.no_grad()
def estimate_flow(
    clip: Float[Tensor, "1 3 f H W"],
    method: str = "dis",
    *,
    weights: Path | None = None,
    on_pair: Callable[[int, int], None] | None = None,
) -> Flow:
    """The optical flow of a clip with pixels in 0..1, in both directions, with its visibility.

    `dis` is dense inverse search (Kroeger et al., 2016) by OpenCV, which needs no weights. It runs
    on the brightness and on two colour differences; at each pixel the best of the three is kept.
    `raft` is RAFT (Teed & Deng, 2020) by torchvision, on the clip's device, with the `weights` file
    or one that torchvision has downloaded before; nothing is downloaded here. `on_pair(done, all)`
    is called after each pair of frames. A clip of one frame has an empty flow.

    Raises:
        ValueError: for an unknown method, or pixels that are not finite.
        ModuleNotFoundError: if the method's package is not installed.
        FileNotFoundError: if RAFT's weights are not there.
    """
    if method not in METHODS:
        raise ValueError(f"{method!r} is no method; choose {' or '.join(METHODS)}.")
    if not bool(torch.isfinite(clip).all()):
        raise ValueError("The clip holds NaN or infinite pixels, so it has no optical flow.")
    size = clip.shape[-2:]
    factor = max(1.0, _SMALLEST[method] / min(size))
    enlarged = [round(factor * s) for s in size]
    frames = functional.interpolate(
        rearrange(clip, "1 c f h w -> f c h w"), enlarged, mode="bilinear"
    ).split(1)
    between = _dis() if method == "dis" else _raft(clip.device, weights)

    forward, backward = clip.new_zeros(2, len(frames) - 1, 2, *size)
    for i in range(len(frames) - 1):
        forward[i : i + 1] = resize_flow(between(frames[i], frames[i + 1]), *size)
        backward[i : i + 1] = resize_flow(between(frames[i + 1], frames[i]), *size)
        if on_pair is not None:
            on_pair(i + 1, len(frames) - 1)
    return Flow.of(forward, backward)


def _dis() -> Between:
    try:
        import cv2
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "Optical flow by dense inverse search needs OpenCV: pip install "
            "opencv-python-headless. Or wire a flow of your own."
        ) from error
    search = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    search.setFinestScale(0)  # the most exact: down to single pixels

    def between(first: Tensor, second: Tensor) -> Tensor:
        found = [
            search.calc(*views, None) for views in zip(_views(first), _views(second), strict=True)
        ]
        flows = torch.stack([torch.from_numpy(flow) for flow in found]).to(first)
        return _best(first, second, rearrange(flows, "n h w c -> n c h w"))

    return between


def _views(frame: Float[Tensor, "1 3 h w"]) -> Iterable[Any]:
    """The three pictures for the search, 0..255: luma (ITU-R BT.601), R - G and B - G.

    In luma alone, an object disappears on a background of the same brightness.
    """
    red, green, blue = frame[0].clamp(0, 1)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    views = torch.stack([luma, (red - green + 1) / 2, (blue - green + 1) / 2])
    return (255 * views).round().to(torch.uint8).cpu().numpy()


def _best(
    first: Float[Tensor, "1 3 h w"],
    second: Float[Tensor, "1 3 h w"],
    flows: Float[Tensor, "n 2 h w"],
) -> Float[Tensor, "1 2 h w"]:
    """At each pixel, the one of several flows along which the colours around it fit best."""
    missed = (warp(second.expand(len(flows), -1, -1, -1), flows) - first).abs().mean(1, True)
    around = functional.avg_pool2d(missed, 5, stride=1, padding=2, count_include_pad=False)
    chosen = repeat(around.argmin(dim=0), "1 h w -> 1 c h w", c=2)
    return flows.gather(0, chosen)


def _raft(device: torch.device, weights: Path | None) -> Between:
    try:
        from torchvision.models import optical_flow
    except ImportError as error:
        raise ModuleNotFoundError(
            "RAFT needs torchvision, in the build that belongs to the installed torch. Choose dis, "
            "which needs none, or wire a flow of your own."
        ) from error
    file = _raft_weights() if weights is None else weights
    build = optical_flow.raft_small if "small" in file.name else optical_flow.raft_large
    model = build(weights=None)
    model.load_state_dict(open_tensors(file)[0])
    model.eval().to(device)

    def between(first: Tensor, second: Tensor) -> Tensor:
        height, width = first.shape[-2:]
        padding = (0, -width % _RAFT_STRIDE, 0, -height % _RAFT_STRIDE)
        pair = (functional.pad(2 * x - 1, padding, mode="replicate") for x in (first, second))
        # The model returns the flow of every refinement; the last one is the best.
        return model(*pair)[-1][..., :height, :width]

    return between


def _raft_weights() -> Path:
    """RAFT's weights in the folder of torchvision's downloads."""
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    found = [*sorted(folder.glob("raft_large_*.pth")), *sorted(folder.glob("raft_small_*.pth"))]
    if not found:
        raise FileNotFoundError(
            f"RAFT's weights are neither in models/optical_flow nor in {folder}, and nothing is "
            "downloaded. Put torchvision's raft_large_C_T_SKHT_V2-*.pth there, or choose dis, "
            "which needs none."
        )
    return found[0]
