"""Remove from an edit what the autoencoder alone has changed in the clip."""

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from ..compare import require_alike
from ..models.grid import check_masks, resized


def restored(
    edited: Float[Tensor, "1 c f H W"],
    source: Float[Tensor, "1 c f2 H2 W2"],
    reconstruction: Float[Tensor, "1 c f3 H3 W3"],
    *,
    threshold: float | int = 0.1,
) -> Float[Tensor, "1 c f H W"]:
    """`edited + k (source - reconstruction)`: an edit with the source's own colours and detail.

    `reconstruction` is the source encoded and decoded, without an edit. Where a pixel of the edit
    equals that of the reconstruction, k is 1, and the result is exactly the source's pixel. k falls
    linearly to 0 where a colour differs by `threshold` (of 0..1) or more, so edited pixels stay.
    Before, each frame loses what moved its colours as a whole, as between windows of a long clip.

    Raises:
        ValueError: if the clips differ in length or size, or the threshold is not positive.
    """
    require_alike(source, edited)
    require_alike(source, reconstruction)
    if threshold <= 0:
        raise ValueError(f"The threshold is {threshold}; it must be more than 0.")
    untouched = (edited == reconstruction).all(dim=1, keepdim=True)
    edited = edited - _drift(edited - reconstruction, threshold)
    apart = (edited - reconstruction).abs().amax(dim=1, keepdim=True)
    kept = (1 - apart / threshold).clamp(min=0)
    # The other way round the source would be met only to rounding.
    return (kept * source + (edited - kept * reconstruction)).where(~untouched, source).clamp(0, 1)


def _drift(
    change: Float[Tensor, "1 c f H W"], threshold: float | int
) -> Float[Tensor, "1 c f 1 1"]:
    """How far the colours of each frame have moved as a whole: the median over its pixels, d.

    It is taken less seriously the nearer it comes to the threshold, d max(0, 1 - |d| / threshold):
    what moves the whole picture so far is an edit.
    """
    moved = rearrange(change, "1 c f H W -> 1 c f (H W)").median(dim=-1).values
    return rearrange(moved * (1 - moved.abs() / threshold).clamp(min=0), "1 c f -> 1 c f 1 1")


def kept_outside(
    edited: Float[Tensor, "1 c f H W"],
    source: Float[Tensor, "1 c f2 H2 W2"],
    mask: Float[Tensor, "n h w"],
) -> Float[Tensor, "1 c f H W"]:
    """`mask edited + (1 - mask) source`; where the mask is 0 exactly the source's pixels.

    The mask holds 0..1, one for the clip or one for each frame; of another size it is scaled.

    Raises:
        ValueError: if the clips differ in length or size, or the mask in the number of frames, or
            if the mask holds anything else.
    """
    require_alike(source, edited)
    frames, *size = edited.shape[2:]
    check_masks(mask, frames)
    share = rearrange(resized(mask.to(edited), *size), "n h w -> 1 1 n h w").expand_as(edited)
    return torch.lerp(source, edited, share).where(share > 0, source)
