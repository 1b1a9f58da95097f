"""Measures with CLIP: how well a clip fits a prompt, how constant it is, how people may like it.

All of them take embeddings of any length.
"""

import math
from dataclasses import replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from .measure import Measure
from .region import Region


def text_alignment(
    frames: Float[Tensor, "f d"],
    prompt: Float[Tensor, "1 d"],
    region: Region | None = None,
) -> Measure:
    """100 times the mean over frames of the cosine between CLIP embeddings of frame and prompt.

    This is the frame-wise CLIP score of video editing papers, most of which multiply it by 100.
    CLIPScore (Hessel et al., 2021) itself is 2.5 max(cos, 0). With a region, the frames must come
    from `only`. Frames without any of the region do not count: they have NaN in `values`.
    """
    values = 100 * _cosines(frames, prompt)
    if region is None:
        return _summary("CLIP text", values, "x100")
    seen = region.where.flatten(1).any(dim=1)
    found = _summary(region.title("CLIP text"), values[seen], "x100")
    values = values.masked_fill(~seen, torch.nan)
    return replace(found, values=tuple(values.tolist()))


def only(clip: Float[Tensor, "1 3 f H W"], region: Region) -> Float[Tensor, "1 3 f H W"]:
    """The clip, black everywhere but in a region, as PIE-Bench and FiVE-Bench show it to CLIP."""
    return clip * region.where.to(clip)


def pick_score(frames: Float[Tensor, "f d"], prompt: Float[Tensor, "1 d"], scale: float) -> Measure:
    """The mean over frames of s = T cos(frame, prompt) (Kirstain et al., 2023); `scale` is T.

    With PickScore's model and its temperature (T is about 100), pictures get about 20. Of two
    pictures, exp(s_1) / (exp(s_1) + exp(s_2)) is the share of people who would pick the first.
    """
    return _summary("PickScore", scale * _cosines(frames, prompt), "")


def frame_consistency(
    frames: Float[Tensor, "f d"], pairs: Literal["neighbours", "all pairs"]
) -> Measure:
    """100 times the mean cosine between the CLIP embeddings of two frames.

    The mean is over all pairs of different frames, as in Tune-A-Video (Wu et al., 2023), or over
    neighbouring frames, as in most later papers. A still clip has 100. `values` hold one number for
    each frame (its mean with all others), or one for each pair of neighbours. One frame has NaN.
    """
    name = f"CLIP consistency, {pairs}"
    if len(frames) < 2:
        return Measure(name, math.nan, "x100", "higher")
    if pairs == "neighbours":
        cosines = 100 * functional.cosine_similarity(frames[:-1].double(), frames[1:].double())
        return _summary(name, cosines, "x100", each="pair of neighbours")
    unit = functional.normalize(frames.double(), dim=-1)
    # Each frame with all others: the sum over all frames, minus the frame with itself.
    others = 100 * (unit @ unit.sum(dim=0) - unit.square().sum(dim=-1)) / (len(frames) - 1)
    return _summary(name, others, "x100")


def _cosines(frames: Float[Tensor, "f d"], prompt: Float[Tensor, "1 d"]) -> Float[Tensor, " f"]:
    return functional.cosine_similarity(frames.double(), prompt.double())


def _summary(name: str, values: Float[Tensor, " n"], unit: str, *, each: str = "frame") -> Measure:
    if not bool(torch.isfinite(values).all()):
        raise ValueError("The model gave embeddings with NaN; its weights may be damaged.")
    return Measure(name, values.mean().item(), unit, "higher", tuple(values.tolist()), each)
