"""Self-attention that looks at the source: its layout first (SA-I), then its content (SA-II)."""

from collections.abc import Callable, Mapping

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Shaped
from torch import Tensor
from torch.nn import functional

from .counterparts import Counterparts, Parts
from .layers import Attend, Layer, Site


def mutual_attention(
    q: Float[Tensor, "b h n d"],
    k_source: Float[Tensor, "b h m d"],
    v_source: Float[Tensor, "b h m d"],
    k_target: Float[Tensor, "b h l d"],
    v_target: Float[Tensor, "b h l d"],
    source_foreground: Shaped[Tensor, "#b m"],
) -> Float[Tensor, "b h n d"]:
    """Attention to the source's tokens, but for its foreground, and to the target's own.

    Implements SA-II of VideoDirector (Wang et al., 2025, Eq. 6, second case): one softmax over the
    keys of both. `source_foreground` is true where the source must not be read: those logits are
    minus infinity, which is what the paper's product with the mask means. Where all of a sample's
    source is foreground, this is plain attention to the target. Through torch's fused kernels; no
    map is stored.
    """
    hidden = source_foreground.to(q.device)
    hidden = hidden if hidden.dtype == torch.bool else hidden > 0.5
    seen = functional.pad(~hidden, (0, k_target.shape[2]), value=True)
    # A bias of its own size instead of one per query: kernels broadcast it.
    bias = torch.zeros(seen.shape, dtype=q.dtype, device=q.device).masked_fill(~seen, -torch.inf)
    return functional.scaled_dot_product_attention(
        q,
        torch.cat([k_source, k_target], dim=2),
        torch.cat([v_source, v_target], dim=2),
        attn_mask=rearrange(bias, "b m -> b 1 1 m").expand(-1, -1, q.shape[2], -1),
    )


def source_layout(pairs: Mapping[int, int], max_tokens: int) -> Counterparts:
    """SA-I: clips attend with their counterpart's self-attention maps, to their own values.

    VideoDirector, Eq. 6, first case. Layers of more than `max_tokens` tokens are left alone: where
    tokens are fine, maps hold texture more than layout.
    """

    def read(layer: Layer, own: Parts, source: Parts, attend: Attend) -> Tensor:
        if own[0].shape[2] > max_tokens:
            return attend(*own)
        return attend(source[0], source[1], own[2])

    return Counterparts(pairs, read)


def mutual(
    pairs: Mapping[int, int], foreground: Callable[[Site, int], Bool[Tensor, "s m"]]
) -> Counterparts:
    """SA-II: clips attend to the background of their counterpart and to themselves.

    `foreground` tells for a layer and its number of tokens which of those that each sample reads
    are the source's foreground: its own, or in an inflated model also other frames'.
    """

    def read(layer: Layer, own: Parts, source: Parts, attend: Attend) -> Tensor:
        q, k, v = own
        return mutual_attention(q, source[1], source[2], k, v, foreground(layer.site, q.shape[2]))

    return Counterparts(pairs, read)
