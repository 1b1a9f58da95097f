"""How good an edit is, measured against the clip that it should have become."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from .edits import ATTRIBUTES, Edit, edited, value_of
from .oracle import Reading, read
from .render import Rendering


@dataclass(frozen=True)
class Scores:
    """The figures of one edited clip. PSNR is in dB for a peak of 1, infinite for equal pixels."""

    psnr_edit: float  # to the truth, where the truth differs from the source
    psnr_keep: float  # to the source, everywhere else
    hit: bool  # the edited attribute reads as it should
    kept: float  # share of the other attributes that read as in the source
    lost: tuple[str, ...]  # the other attributes that do not
    flicker: float  # mean change from frame to frame along the true flow, 0..1
    iou: float  # intersection over union of the object seen with the true one, 0..1
    contamination: float  # mean absolute change outside what a user would paint, 0..1


class Estimate(NamedTuple):
    """A mean over clips with its standard error (NaN for a single clip or an infinite mean)."""

    mean: float
    error: float
    count: int


def score(clip: Tensor, edit: Edit) -> Scores:
    """Score an edited clip `[f, h, w, 3]` in 0..1 against the truth of its edit.

    Whether attributes are right is decided by `oracle.read`; so is where the object lies, in the
    edited clip and in the true one alike, so that the truth itself scores an `iou` of 1.
    """
    truth = edited(edit)
    expected = truth.target.clip
    if clip.shape != expected.shape:
        raise ValueError(
            f"The edited clip is {list(clip.shape)}, but its truth is {list(expected.shape)}: "
            "pass all frames of the edit, as [frames, height, width, 3]."
        )
    clip = clip.detach().to("cpu", torch.float32)
    reading = read(clip)
    lost = _lost(reading, edit)
    mask = read(expected).mask
    either = int((reading.mask | mask).sum())
    change = (clip - truth.source.clip).abs().mean(dim=-1)
    return Scores(
        psnr_edit=psnr(clip, expected, truth.change),
        psnr_keep=psnr(clip, truth.source.clip, truth.keep),
        hit=getattr(reading, edit.attribute) == value_of(edit.target, edit.attribute),
        kept=1 - len(lost) / (len(ATTRIBUTES) - 1),
        lost=lost,
        flicker=flicker(clip, truth.target),
        iou=int((reading.mask & mask).sum()) / either if either else 0.0,
        contamination=float(change[~truth.paint].mean()),
    )


def psnr(
    clip: Float[Tensor, "f h w 3"], truth: Float[Tensor, "f h w 3"], where: Bool[Tensor, "f h w"]
) -> float:
    """Peak signal-to-noise ratio over some pixels, in dB: -10 log10 of the mean squared error."""
    if not where.any():
        raise ValueError("There is no pixel to compare: the mask of the PSNR is empty.")
    error = float(((clip - truth)[where].double() ** 2).mean())
    return -10 * math.log10(error) if error > 0 else math.inf


def flicker(clip: Float[Tensor, "f h w 3"], truth: Rendering) -> float:
    """Mean absolute difference between each frame and the next one, warped back to it.

    Warped along the true flow; counted where both frames see the same single thing, backdrop or
    inside of the object: not where one is hidden or has left the canvas, nor on the blend along an
    outline. The truth itself does not flicker where things move by whole pixels, or have no
    pattern.
    """
    frames = clip.permute(0, 3, 1, 2)
    difference = (warp(frames[1:], truth.forward_flow) - frames[:-1]).abs().mean(dim=1)
    coverage = truth.coverage[:, None]
    arriving = warp(coverage[1:], truth.forward_flow)[:, 0]
    pure = (coverage[:-1, 0] == 0) | (coverage[:-1, 0] == 1)
    same = (arriving - coverage[:-1, 0]).abs() < 1e-4
    return float(difference[pure & same & truth.visible_forward].mean())


def warp(
    images: Float[Tensor, "b c h w"], flow: Float[Tensor, "b 2 h w"]
) -> Float[Tensor, "b c h w"]:
    """What each image shows at x + flow(x), bilinear; flow is in pixels, to the right and down."""
    height, width = images.shape[-2:]
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    x, y = columns + 0.5 + flow[:, 0], rows + 0.5 + flow[:, 1]
    points = torch.stack([2 * x / width - 1, 2 * y / height - 1], dim=-1)
    return functional.grid_sample(images, points, padding_mode="border", align_corners=False)


def summarise(scores: Sequence[Scores]) -> dict[str, Estimate]:
    """Mean and standard error of every figure over clips: the rows of a table."""
    if not scores:
        raise ValueError("There are no scores to summarise: score at least one clip.")
    figures = ("psnr_edit", "psnr_keep", "hit", "kept", "flicker", "iou", "contamination")
    return {name: estimate([float(getattr(item, name)) for item in scores]) for name in figures}


def estimate(values: Sequence[float]) -> Estimate:
    """The mean of some figures with its standard error."""
    count, mean = len(values), sum(values) / len(values)
    if count == 1 or not math.isfinite(mean):
        return Estimate(mean, math.nan, count)
    variance = sum((value - mean) ** 2 for value in values) / (count - 1)
    return Estimate(mean, math.sqrt(variance / count), count)


def _lost(reading: Reading, edit: Edit) -> tuple[str, ...]:
    return tuple(
        name
        for name in ATTRIBUTES
        if name != edit.attribute and getattr(reading, name) != value_of(edit.source, name)
    )
