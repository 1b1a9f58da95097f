"""Draw masks, grow and feather them, round them to ellipses, and show them over a clip."""

from collections.abc import Sequence

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from kornia.filters import gaussian_blur2d
from torch import Tensor
from torch.nn import functional

from ..models.grid import check_masks, latent_mask


def box_mask(
    frames: int,
    height: int,
    width: int,
    box: tuple[float, float, float, float],
    end: tuple[float, float, float, float] | None = None,
) -> Float[Tensor, "f H W"]:
    """A white box, (left, top, right, bottom) as shares of the picture; it may move to `end`.

    A pixel on the edge has as its value the share of it that the box covers.

    Raises:
        ValueError: for a box without area, or one that leaves the picture.
    """
    for name, edges in (("box", box), ("end box", end or box)):
        left, top, right, bottom = edges
        if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
            raise ValueError(
                f"The {name} reaches from {left} to {right} across and from {top} to {bottom} "
                "down; left must lie before right, top before bottom, and all within 0..1."
            )
    progress = torch.linspace(0, 1, frames, dtype=torch.float64)
    moved = torch.lerp(
        torch.tensor(box, dtype=torch.float64),
        torch.tensor(end or box, dtype=torch.float64),
        rearrange(progress, "f -> f 1"),
    )
    across = _covered(width, moved[:, 0], moved[:, 2])
    down = _covered(height, moved[:, 1], moved[:, 3])
    return torch.einsum("fH,fW->fHW", down, across).float()


def boxes_mask(
    boxes: Sequence[Float[Tensor, "_ 4"]], height: int, width: int
) -> Float[Tensor, "f H W"]:
    """White boxes: for each frame any number of (left, top, right, bottom), in pixels.

    A pixel on the edge of a box has as its value the share of it that the box covers. Parts outside
    the picture are cut off.
    """
    size = torch.tensor([width, height, width, height], dtype=torch.float64)
    mask = torch.zeros(len(boxes), height, width)
    for frame, found in zip(mask, boxes, strict=True):
        if len(found):
            left, top, right, bottom = (found.double().cpu() / size).clamp(0, 1).unbind(dim=1)
            drawn = torch.einsum(
                "nH,nW->nHW", _covered(height, top, bottom), _covered(width, left, right)
            )
            frame.copy_(drawn.amax(dim=0))
    return mask


def bounding_boxes(mask: Float[Tensor, "n H W"], margin: int = 0) -> Float[Tensor, "n H W"]:
    """The smallest box around everything white in each frame, `margin` pixels wider on each side.

    A frame without white stays black.
    """
    boxes = torch.zeros_like(mask)
    for frame, box in zip(mask > 0.5, boxes, strict=True):
        rows, columns = frame.any(1).nonzero(), frame.any(0).nonzero()
        if len(rows):
            (top, bottom), (left, right) = rows[[0, -1], 0].tolist(), columns[[0, -1], 0].tolist()
            down = slice(max(0, top - margin), bottom + margin + 1)
            box[down, max(0, left - margin) : right + margin + 1] = 1
    return boxes


def ellipse_mask(mask: Float[Tensor, "n H W"]) -> Float[Tensor, "n H W"]:
    """The mask together with an ellipse for each of its parts (the maximum of both).

    Each connected part of a frame (above 0.5; diagonal neighbours connect) gets the ellipse with
    the same centre and second moments. VideoDirector's code does this for the first part only. It
    gives an object with another outline more room.
    """
    result = mask.clone()
    for frame, drawn in zip(mask, result, strict=True):
        white = (frame > 0.5).cpu().numpy()
        for part in _parts(white):
            inside = torch.from_numpy(_ellipse(part, white.shape)).to(mask.device)
            drawn[inside] = drawn[inside].clamp(min=1)
    return result


def grow(mask: Float[Tensor, "n H W"], pixels: int) -> Float[Tensor, "n H W"]:
    """The white area made wider by some pixels, or narrower for a negative number.

    It grows by a cross and by a square in turn. So a point becomes an octagon, nearly a disc.
    """
    grown = rearrange(mask, "n H W -> n 1 H W")
    if pixels < 0:
        grown = 1 - grown
    for i in range(abs(pixels)):
        if i % 2:
            grown = functional.max_pool2d(grown, 3, stride=1, padding=1)
        else:
            across = functional.max_pool2d(grown, (1, 3), stride=1, padding=(0, 1))
            down = functional.max_pool2d(grown, (3, 1), stride=1, padding=(1, 0))
            grown = torch.maximum(across, down)
    if pixels < 0:
        grown = 1 - grown
    return rearrange(grown, "n 1 H W -> n H W")


def feather(mask: Float[Tensor, "n H W"], radius: float | int) -> Float[Tensor, "n H W"]:
    """The mask with soft edges: a Gaussian blur with standard deviation radius / 2.

    Outside the picture, the pixels of its border are repeated.
    """
    if radius <= 0:
        return mask
    reach = max(1, round(1.5 * radius))
    # Padded here, because the radius may be larger than the picture.
    padded = functional.pad(rearrange(mask, "n H W -> n 1 H W"), (reach,) * 4, mode="replicate")
    size, sigma = 2 * reach + 1, radius / 2
    blurred = gaussian_blur2d(padded, (size, size), (sigma, sigma), border_type="constant")
    return rearrange(blurred[..., reach:-reach, reach:-reach], "n 1 H W -> n H W").clamp(0, 1)


def drawn_over(
    clip: Float[Tensor, "1 3 f H W"],
    mask: Float[Tensor, "n h w"],
    colour: tuple[float, float, float],
    *,
    opacity: float | int = 0.5,
    outline: int = 2,
) -> Float[Tensor, "1 3 f H W"]:
    """A clip with pixels in 0..1, tinted where the mask is white, with a line around the white.

    `mask` is one for the clip or one for each frame, at any resolution. `outline` is the width in
    pixels of the line around the white area (above 0.5).

    Raises:
        ValueError: if the number of masks is neither 1 nor the number of frames.
    """
    frames, height, width = clip.shape[2:]
    check_masks(mask, frames)
    fitted = latent_mask(mask, len(mask), height, width)[0, 0].to(clip)
    white = (fitted > 0.5).to(clip)
    line = grow(white, outline) - white
    strength = torch.maximum(opacity * fitted, line)
    strength = rearrange(strength, "n H W -> 1 1 n H W")
    tint = rearrange(clip.new_tensor(colour), "c -> 1 c 1 1 1")
    return torch.lerp(clip, tint.expand_as(clip), strength.expand_as(clip))


def _covered(pixels: int, first: Tensor, last: Tensor) -> Float[Tensor, "f {pixels}"]:
    """The share of each pixel that lies between two edges, given as shares of the picture."""
    left = torch.arange(pixels, dtype=torch.float64)
    first, last = (rearrange(edge * pixels, "f -> f 1") for edge in (first, last))
    return (torch.minimum(last, left + 1) - torch.maximum(first, left)).clamp(0, 1)


def _parts(white: np.ndarray) -> list[np.ndarray]:
    """The connected parts of a picture, each as the (row, column) of its pixels, `[k, 2]`.

    In each row, a run of white pixels joins the runs that it touches in the row above.
    """
    runs: list[tuple[int, int, int]] = []  # row, first column, column after the last
    owner: list[int] = []

    def root(run: int) -> int:
        while owner[run] != run:
            owner[run] = run = owner[owner[run]]
        return run

    above = range(0)
    for row, line in enumerate(white):
        edges = np.flatnonzero(np.diff(np.pad(line.astype(np.int8), 1)))
        start = len(runs)
        for first, after in edges.reshape(-1, 2).tolist():
            owner.append(len(runs))
            for other in above:
                if runs[other][1] <= after and first <= runs[other][2]:
                    owner[root(other)] = root(len(runs))
            runs.append((row, first, after))
        above = range(start, len(runs))
    parts: dict[int, list[np.ndarray]] = {}
    for run, (row, first, after) in enumerate(runs):
        columns = np.arange(first, after)
        pixels = np.stack([np.full_like(columns, row), columns], axis=1)
        parts.setdefault(root(run), []).append(pixels)
    return [np.concatenate(part) for part in parts.values()]


def _ellipse(part: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The pixels inside the ellipse with the same moments as a part, `[H, W]` bool.

    A filled ellipse with semi-axes a and b has variances a^2 / 4 and b^2 / 4; a pixel is a unit
    square, whose own variance is 1 / 12.
    """
    centre = part.mean(axis=0)
    moments = np.cov(part.T, bias=True).reshape(2, 2) + np.eye(2) / 12
    away = np.moveaxis(np.indices(shape), 0, -1) - centre
    return np.einsum("hwi,ij,hwj->hw", away, np.linalg.inv(moments), away) <= 4
