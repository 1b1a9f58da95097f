"""Motion fidelity: whether an edit moves like its source, by the tracks of points in both."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from kornia.geometry.transform import remap
from torch import Tensor

from ..flow import Flow
from .measure import Measure

_KNOWN = 0.5  # an interpolated visibility from here on means: most of the point is visible


class Tracks(NamedTuple):
    """The tracks of points of the first frame, (x, y) in pixels, and which steps are known."""

    places: Float[Tensor, "f n 2"]
    seen: Bool[Tensor, "s n"]  # of each step to the next frame; s = f - 1


def grid(
    height: int, width: int, side: int, where: Bool[Tensor, "h w"] | None = None
) -> Float[Tensor, "n 2"]:
    """A grid of `side` x `side` points (x, y); with `where`, only the points inside it.

    Raises:
        ValueError: if there is no point inside.
    """
    rows = (torch.arange(side) + 0.5) * height / side - 0.5
    columns = (torch.arange(side) + 0.5) * width / side - 0.5
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    points = torch.stack([x, y], dim=-1).reshape(-1, 2)
    if where is not None:
        nearest = points.round().long()
        inside = where[nearest[:, 1].clamp(0, height - 1), nearest[:, 0].clamp(0, width - 1)]
        points = points[inside]
    if not len(points):
        raise ValueError(
            f"None of {side} x {side} points lies in the mask of the first frame. Use more points, "
            "or a larger mask."
        )
    return points


def follow(flow: Flow, points: Float[Tensor, "n 2"]) -> Tracks:
    """The tracks of points of the first frame, along the flow from frame to frame.

    A step is known where the flow is visible, that is, the backward flow confirms it. When a point
    is hidden by something, its track follows what hides it. When it leaves the picture, its track
    stays there.
    """
    places, seen = [points.to(flow.forward)], []
    height, width = flow.forward.shape[2:]
    alive = torch.ones(len(points), dtype=torch.bool, device=flow.forward.device)
    for step, visible in zip(flow.forward, flow.visible_forward, strict=True):
        x, y = places[-1].T[:, None, None]
        known = torch.cat([step, visible[None].to(step)])[None]
        found = remap(known, x, y, padding_mode="border", align_corners=True)[0, :, 0]
        outer = places[-1].new_tensor([width, height]) - 0.5
        alive = alive & ((places[-1] >= -0.5) & (places[-1] <= outer)).all(dim=1)
        places.append(places[-1] + torch.where(alive, found[:2], 0).T)
        seen.append(alive & (found[2] >= _KNOWN))
    empty = torch.ones(0, len(points), dtype=torch.bool)
    return Tracks(torch.stack(places), torch.stack(seen) if seen else empty)


def motion_fidelity(source: Tracks, edited: Tracks, *, still: float = 0.2) -> Measure:
    """Motion fidelity: how well the tracks of two clips match, at most 1.

    Yatim et al. (2024), "Space-Time Diffusion Features for Zero-Shot Text-Driven Motion Transfer";
    here divided by 2. For each track of one clip, take the best correlation with a track of the
    other clip. The result is the mean over the tracks of the edit, plus that over the tracks of the
    source, divided by 2. The correlation of two tracks is the mean over time of the cosine between
    their steps. So only directions count, not lengths, and not where the tracks are.

    This is an approximation: tracks come from chained optical flow instead of CoTracker. Two tracks
    are compared over the steps that are known in both, if these are at least half of all steps. A
    step shorter than `still` pixels counts as no motion, for which the paper's cosine is undefined:
    two such steps have correlation 1, such a step and a longer one have 0. NaN for clips of one
    frame.

    Raises:
        ValueError: for clips of different lengths, or if no two tracks are known.
    """
    name, steps = "motion fidelity", len(source.seen)
    if steps != len(edited.seen):
        raise ValueError(
            f"The clips have {steps + 1} and {len(edited.seen) + 1} frames. Motion is compared "
            "between clips of the same length."
        )
    if not steps:
        return Measure(name, math.nan, "", "higher")
    # [steps n 3]: the direction, and whether there is none, where the track is known.
    a, b = (_directions(tracks, still) for tracks in (source, edited))
    shared = torch.einsum("sn,sm->nm", source.seen.double(), edited.seen.double())
    correlation = torch.einsum("snc,smc->nm", a, b) / shared.clamp(min=1)
    correlation = torch.where(2 * shared >= steps, correlation, -torch.inf)
    best = [correlation.amax(dim=dim) for dim in (0, 1)]
    best = [values[values.isfinite()] for values in best]
    if not all(len(values) for values in best):
        raise ValueError(
            "No point can be followed through half of both clips, so their motion cannot be "
            "compared. Try more points, no mask, or a clip without cuts."
        )
    value = sum(values.mean().item() for values in best) / 2
    return Measure(name, value, "", "higher")


def _directions(tracks: Tracks, still: float) -> Float[Tensor, "s n 3"]:
    steps = tracks.places.double().diff(dim=0)
    length = steps.norm(dim=-1, keepdim=True)
    moves = length > still
    unit = torch.where(moves, steps / length.clamp(min=1e-12), 0)
    return torch.cat([unit, (~moves).double()], dim=-1) * tracks.seen[..., None]
