"""Spatial self-attention at its two ends: every frame alone, and all frames with all."""

from diffusers.models.attention_processor import Attention
from einops import rearrange
from jaxtyping import Float
from torch import Tensor


def frame_attention(
    attn: Attention, z: Float[Tensor, "b f n d"], height: int, width: int
) -> Float[Tensor, "b f n d"]:
    """Every frame reads itself: what the image model does."""
    read = attn(rearrange(z, "b f n d -> (b f) n d"))
    return rearrange(read, "(b f) n d -> b f n d", b=len(z))


def space_time_attention(
    attn: Attention, z: Float[Tensor, "b f n d"], height: int, width: int
) -> Float[Tensor, "b f n d"]:
    """Every token reads every token of the clip: the full attention that others approximate.

    Its cost grows with the square of the number of frames. The batch stays that of frames, as for
    every spatial attention layer, so every frame is handed the whole clip.
    """
    frames = z.shape[1]
    clip = rearrange(z, "b f n d -> b 1 (f n) d").expand(-1, frames, -1, -1)
    context = rearrange(clip, "b f m d -> (b f) m d")
    read = attn(rearrange(z, "b f n d -> (b f) n d"), encoder_hidden_states=context)
    return rearrange(read, "(b f) n d -> b f n d", b=len(z))
