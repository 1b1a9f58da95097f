"""Cut the region of an edit out of a clip, at the model's own size, and paste it back."""

import math
from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from ..compare import require_alike
from ..models.grid import check_masks, latent_mask
from .shapes import feather as feathered
from .shapes import grow


@dataclass(frozen=True, eq=False)
class Region:
    """A box with a fixed place in all frames of a clip, and the mask inside it."""

    top: int
    left: int
    mask: Float[Tensor, "f h w"]  # white may change; of the size of the box, in the clip's pixels
    clip: tuple[int, int, int]  # frames, height and width of the clip it is cut from
    size: tuple[int, int]  # height and width at which the box is edited

    @property
    def rows(self) -> slice:
        return slice(self.top, self.top + self.mask.shape[1])

    @property
    def columns(self) -> slice:
        return slice(self.left, self.left + self.mask.shape[2])


def find_region(
    mask: Float[Tensor, "n h w"],
    clip: tuple[int, int, int],
    *,
    size: tuple[int, int],
    margin: float | int = 0.25,
    multiple: int = 8,
) -> Region:
    """The box around all that is not black in a mask, in any frame.

    `clip` is (frames, height, width) of the clip, `size` is (height, width) of the model's input.
    The box is widened on every side by `margin` times its longer side, and then to the shape of
    `size`. If the clip is too small for that, the box is edited in another shape with about as many
    pixels. Both sides of the edited box are multiples of `multiple`.

    Raises:
        ValueError: for a mask that is black everywhere or has a wrong number of frames.
    """
    frames, height, width = clip
    check_masks(mask, frames)
    fitted = latent_mask(mask, len(mask), height, width)[0, 0]
    shown = (fitted > 0).any(dim=0)
    if not bool(shown.any()):
        raise ValueError(
            "The mask is black everywhere, so there is nothing to cut out. White is what shall "
            "change."
        )
    edges = [shown.any(dim=1 - axis).nonzero()[[0, -1], 0].tolist() for axis in (0, 1)]
    sides = [last + 1 - first for first, last in edges]
    wanted = [side + 2 * margin * max(sides) for side in sides]
    scale = max(side / full for side, full in zip(wanted, size, strict=True))
    (top, down), (left, across) = (
        _span(first, last + 1, max(side, round(scale * full)), limit)
        for (first, last), side, full, limit in zip(
            edges, sides, size, (height, width), strict=True
        )
    )
    area = math.prod(size)
    ratio = down / across
    edited = math.sqrt(area * ratio), math.sqrt(area / ratio)
    return Region(
        top,
        left,
        fitted[:, top : top + down, left : left + across].expand(frames, -1, -1).clone(),
        clip,
        (_whole(edited[0], multiple), _whole(edited[1], multiple)),
    )


def _span(first: int, after: int, length: int, limit: int) -> tuple[int, int]:
    """Start and length of a span around first..after, inside 0..limit."""
    length = min(length, limit)
    start = round((first + after - length) / 2)
    return min(max(start, 0), limit - length), length


def _whole(side: float, multiple: int) -> int:
    return max(1, round(side / multiple)) * multiple


def cut(clip: Float[Tensor, "1 c f H W"], region: Region) -> Float[Tensor, "1 c f h w"]:
    """The clip inside the box of a region, at the size at which it is edited."""
    _check_clip(clip, region)
    return _resized(clip[..., region.rows, region.columns], region.size)


def cut_mask(region: Region) -> Float[Tensor, "f h w"]:
    """The mask of a region, at the size at which it is edited."""
    scaled = _resized(rearrange(region.mask, "f h w -> 1 1 f h w"), region.size)
    return rearrange(scaled, "1 1 f h w -> f h w")


def paste(
    edited: Float[Tensor, "1 c f2 h w"],
    clip: Float[Tensor, "1 c f H W"],
    region: Region,
    *,
    feather: float | int = 8,
    match_colours: bool = True,
) -> Float[Tensor, "1 c f H W"]:
    """The clip with an edited region in it; where the mask is black, its pixels do not change.

    The edge of the edit is soft over `feather` pixels, inside the mask. An autoencoder shifts
    colours a little. `match_colours` shifts them back, equally in every frame, so that the mean
    colour around the mask is that of the clip.

    Raises:
        ValueError: if clip or edit do not belong to the region.
    """
    _check_clip(clip, region)
    box = clip[..., region.rows, region.columns]
    whole = _resized(edited, box.shape[-2:])
    require_alike(box, whole)
    mask = region.mask.to(clip)
    if match_colours:
        around = (grow(mask, _reach(mask)) > 0) & (mask == 0)
        if bool(around.any()):
            apart = (box - whole)[0, :, around].mean(dim=1)
            whole = (whole + rearrange(apart, "c -> 1 c 1 1 1")).clamp(0, 1)
    inner = grow(mask, -math.ceil(feather)) if feather > 0 else mask
    share = torch.minimum(feathered(inner, feather), mask)
    # A mask that is thinner than its soft edge would disappear.
    share = torch.where(share.amax(dim=(1, 2), keepdim=True) < 0.5, mask, share)
    mixed = torch.where(share > 0, torch.lerp(box, whole, share.expand_as(box)), box)
    result = clip.clone()
    result[..., region.rows, region.columns] = mixed
    return result


def _reach(mask: Tensor) -> int:
    """The width in pixels of the border around a mask in which colours are compared."""
    return max(2, min(mask.shape[1:]) // 8)


def _check_clip(clip: Tensor, region: Region) -> None:
    if (found := tuple(clip.shape[2:])) != region.clip:
        told = [f"{f} frames of {w} x {h}" for f, h, w in (found, region.clip)]
        raise ValueError(f"The clip has {told[0]}, and the region was found in one of {told[1]}.")


def _resized(clip: Tensor, size: tuple[int, ...]) -> Tensor:
    if clip.shape[-2:] == tuple(size):
        return clip
    frames = rearrange(clip, "1 c f h w -> f c h w")
    scaled = functional.interpolate(frames, tuple(size), mode="bicubic", antialias=True)
    return rearrange(scaled.clamp(0, 1), "f c h w -> 1 c f h w")
