"""Self-attention of frames over tokens of their own and of other frames, and its two ends."""

from diffusers.models.attention_processor import Attention
from einops import rearrange
from jaxtyping import Float
from torch import Tensor


def frame_tokens(z: Float[Tensor, "b f n d"]) -> Float[Tensor, "b f n d"]:
    """For each frame, its own tokens: what an image model reads."""
    return z


def space_time_tokens(z: Float[Tensor, "b f n d"]) -> Float[Tensor, "b f m d"]:
    """For each frame, the tokens of all frames in time order: full attention; m = f n.

    Its cost grows with the square of the number of frames.
    """
    clip = rearrange(z, "b f n d -> b 1 (f n) d")
    return clip.expand(-1, z.shape[1], -1, -1)


def attend_over(
    attn: Attention, z: Float[Tensor, "b f n d"], context: Float[Tensor, "b f m d"]
) -> Float[Tensor, "b f n d"]:
    """A self-attention layer in which each frame's tokens read those of its `context`.

    Keys and values are projected from the context with the layer's own maps (EI2, Zhang et al.,
    2023, Eq. 10).
    """
    read = attn(
        rearrange(z, "b f n d -> (b f) n d"),
        encoder_hidden_states=rearrange(context, "b f m d -> (b f) m d"),
    )
    return rearrange(read, "(b f) n d -> b f n d", b=len(z))
