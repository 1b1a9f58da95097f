"""Sparse-causal attention: every frame reads the first frame and the one before it."""

import torch
from diffusers.models.attention_processor import Attention
from einops import rearrange
from jaxtyping import Float
from torch import Tensor


def sparse_causal_tokens(z: Float[Tensor, "b f n d"]) -> Float[Tensor, "b f m d"]:
    """For each frame, the tokens of the first frame and then those of the frame before it.

    From Tune-A-Video (Wu et al., 2023, Eq. 5); m = 2 n. The first frame reads itself twice, which
    for attention is the same as once.
    """
    first = z[:, :1].expand_as(z)
    before = torch.cat([z[:, :1], z[:, :-1]], dim=1)
    return torch.cat([first, before], dim=2)


def sparse_causal_attention(
    attn: Attention, z: Float[Tensor, "b f n d"], height: int, width: int
) -> Float[Tensor, "b f n d"]:
    """A spatial self-attention layer whose keys and values are the sparse-causal tokens."""
    context = rearrange(sparse_causal_tokens(z), "b f m d -> (b f) m d")
    read = attn(rearrange(z, "b f n d -> (b f) n d"), encoder_hidden_states=context)
    return rearrange(read, "(b f) n d -> b f n d", b=len(z))
