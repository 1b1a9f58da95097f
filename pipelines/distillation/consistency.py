"""Global consistency: frames differ from the clip's mean as the source's frames do from theirs.

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
    """How much each frame's deviation from the clip's mean differs from that in the source.

    A frame is represented by the mean of its features (here attention keys) over all places. Its
    deviation from the mean over the clip is compared with that of the same frame in the source:
    the squared distance, averaged over frames and divided by the source's mean squared feature. A
    change that is equal in all frames costs nothing, and neither does a change over time that the
    source has, too. Exactly 0, with a zero gradient, for a clip of one frame. Computed in float32
    at least.
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
