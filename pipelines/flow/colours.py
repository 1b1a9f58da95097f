"""Flow as pictures, by the usual colour wheel: the hue is the direction, the strength the speed."""

import math

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

# The wheel of Baker et al. (2011), "A Database and Evaluation Methodology for Optical Flow": the
# number of steps from each of these colours to the next, beginning with red, which points right.
_STEPS = {"red": 15, "yellow": 6, "green": 4, "cyan": 11, "blue": 13, "magenta": 6}
_COLOURS = ((1, 0, 0), (1, 1, 0), (0, 1, 0), (0, 1, 1), (0, 0, 1), (1, 0, 1))


def flow_picture(
    flow: Float[Tensor, "n 2 h w"], longest: float | int | None = None
) -> Float[Tensor, "n 3 h w"]:
    """Pictures, 0..1, of a flow: white where nothing moves, full colour at the `longest` vector.

    `longest` is in pixels; by default it is the longest vector of the whole flow, so that its
    pictures can be compared. Right is red, down yellow-green, left cyan-blue, up violet. Longer
    vectors are darker.
    """
    length = flow.square().sum(dim=1, keepdim=True).sqrt()
    if longest is None:
        longest = float(length.max()) if length.numel() else 0.0
    share = length / longest if longest > 0 else torch.zeros_like(length)
    turn = torch.atan2(flow[:, 1], flow[:, 0]) / (2 * math.pi) % 1
    hue = rearrange(_wheel(turn), "n h w c -> n c h w")
    return torch.where(share <= 1, 1 - share * (1 - hue), 0.75 * hue)


def _wheel(turn: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape 3"]:
    """The colour at a share of a full turn, 0..1, linear between the named colours."""
    colours = turn.new_tensor((*_COLOURS, _COLOURS[0]))
    ends = turn.new_tensor([0, *_STEPS.values()]).cumsum(0) / sum(_STEPS.values())
    before = (torch.bucketize(turn.contiguous(), ends, right=True) - 1).clamp(0, len(_STEPS) - 1)
    part = ((turn - ends[before]) / (ends[before + 1] - ends[before]))[..., None]
    return colours[before] + part * (colours[before + 1] - colours[before])
