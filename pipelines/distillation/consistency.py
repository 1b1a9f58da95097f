"""Global consistency: what a clip shows as a whole changes in time no more than the source's does.

Inspired by the abstract of "Training-Free Video Editing via Optical Flow-Enhanced Score
Distillation" (Zhu et al.), which names such a loss; the definition is ours.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from .terms import TermOfKeys


def global_consistency_loss(
    keys_source: Float[Tensor, "f n c"], keys_target: Float[Tensor, "f n c"]
) -> Float[Tensor, ""]:
    """How far each frame strays from the clip's mean, other than the source's frames do.

    A frame is the mean of its features (here attention keys) over all places. Its deviation from
    the mean over the clip is compared with the same frame's in the source: the squared distance,
    averaged over frames, in units of the source's mean squared feature. An edit that moves all
    frames alike is free, and so is all change in time that the source shows. Exactly 0, with a zero
    gradient, for a clip of one frame. In float32 at least.
    """
    source, target = (
        keys.to(torch.promote_types(keys.dtype, torch.float32)).mean(dim=1)
        for keys in (keys_source, keys_target)
    )
    # The deviation of the difference is the difference of the deviations.
    moved = target - source
    strayed = (moved - moved.mean(dim=0)).square().sum(dim=-1).mean()
    size = source.square().sum(dim=-1).mean().clamp(min=torch.finfo(source.dtype).tiny)
    return strayed / size


class GlobalConsistency(TermOfKeys):
    """Global consistency of attention keys as a term."""

    name = "global consistency"
    loss = staticmethod(global_consistency_loss)
    compares_frames = True
