"""The tokens that a frame reads in self-attention: its own, or those of all frames."""

from einops import rearrange
from jaxtyping import Float
from torch import Tensor


def frame_tokens(z: Float[Tensor, "b f n d"]) -> Float[Tensor, "b f n d"]:
    """For each frame, its own tokens, as in an image model."""
    return z


def space_time_tokens(z: Float[Tensor, "b f n d"]) -> Float[Tensor, "b f m d"]:
    """For each frame, the tokens of all frames in time order: full attention; m = f n.

    Its cost grows with the square of the number of frames.
    """
    clip = rearrange(z, "b f n d -> b 1 (f n) d")
    return clip.expand(-1, z.shape[1], -1, -1)
