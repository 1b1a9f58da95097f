"""Changes of attention in diffusers' Wan: a processor that calls `TransformerLayers.attention`."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from ..layers import Plan, attend
from .layers import TransformerLayers
from .sites import FAMILIES


class WanProcessor:
    """Computes the same as diffusers' `WanAttnProcessor`, but only for text-to-video models."""

    def __init__(self, layers: TransformerLayers) -> None:
        self.layers = layers

    def __call__(
        self,
        attn: nn.Module,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        rotary_emb: tuple[Tensor, Tensor] | None = None,
        **unused: Any,
    ) -> Tensor:
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        q, k = attn.norm_q(attn.to_q(hidden_states)), attn.norm_k(attn.to_k(context))
        q, k, v = (
            rearrange(part, "b n (h d) -> b h n d", h=attn.heads)
            for part in (q, k, attn.to_v(context))
        )
        if rotary_emb is not None:
            q, k = (_turned(part, *rotary_emb) for part in (q, k))
        read = self.layers.attention(attend, q, k, v)
        project, dropout = attn.to_out
        return dropout(project(rearrange(read, "b h n d -> b n (h d)")))


def _turned(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Apply rotary positions to heads `[b, h, n, d]`: rotate each pair of channels by its angle.

    `cos` and `sin` are `[1, n, 1, d]`, with every angle twice (Su et al., 2021, Eq. 34).
    """
    cos, sin = (rearrange(part[..., ::2], "1 n 1 p -> 1 1 n p") for part in (cos, sin))
    x, y = heads.unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([x * cos - y * sin, x * sin + y * cos], dim=-1).flatten(-2).to(heads)


class WanLayers(TransformerLayers):
    """The attention layers of diffusers' `WanTransformer3DModel`.

    Raises, when made:
        ValueError: for an image-to-video Wan.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model, FAMILIES["WanTransformer3DModel"])
        self._attentions = [getattr(b, n) for b in model.blocks for n in ("attn1", "attn2")]
        if any(attn.add_k_proj is not None for attn in self._attentions):
            raise ValueError(
                "Nothing can look into a Wan that begins with a given picture (I2V). Use a "
                "text-to-video model."
            )

    @contextmanager
    def installed(self, plan: Plan, rows: Sequence[int]) -> Iterator[None]:
        before = [attn.processor for attn in self._attentions]
        with super().installed(plan, rows):
            try:
                for attn in self._attentions:
                    attn.set_processor(WanProcessor(self))
                yield
            finally:
                for attn, processor in zip(self._attentions, before, strict=True):
                    attn.set_processor(processor)
