"""The attention processor that stands in a UNet's layer while a plan changes it."""

from typing import Any

import torch
from diffusers.models.attention_processor import Attention
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from ..layers import Layer, Plan, Site, attend, changed, without_recording


class HeadsProcessor:
    """A processor for diffusers' `Attention` in which a plan changes the output of the heads.

    Without a change it computes the same as diffusers' `AttnProcessor2_0`, and as its
    `AttnAddedKVProcessor2_0` in a layer that has keys of its own for the text: there each token of
    the image reads the text, and then the image. `rows` are the numbers of the clips in the batch.
    The batch of a spatial or cross-attention layer is `(clip frame)`, that of a temporal one
    `(clip position)`.
    """

    def __init__(self, site: Site, plan: Plan, rows: tuple[int, ...]) -> None:
        # `attend` is a method here. As an attribute it would make a reference cycle, and records of
        # the changes, perhaps with a whole graph, would stay until Python collects garbage.
        self.site, self.plan, self.rows = site, plan, rows

    def again(self) -> "HeadsProcessor":
        """A processor for the second run of the layer, with the same changes as now.

        A graph may refer to it, because it refers to no record that has a graph.
        """
        return HeadsProcessor(self.site, without_recording(self.plan), self.rows)

    def attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        keys: Float[Tensor, "b h n d"] | None = None,
    ) -> Tensor:
        """The attention of the layer, with all changes of the plan; `keys` as in `Layer`."""
        return changed(self.plan, Layer(self.site, self.rows, keys), attend)(q, k, v)

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        **unused: Any,
    ) -> Tensor:
        if attention_mask is not None:
            raise ValueError(
                "The model was called with an attention mask. ReScore changes attention only where "
                "none is used; leave the mask out."
            )
        if is_joint(attn):
            return self._joint(attn, hidden_states, encoder_hidden_states)
        x = hidden_states
        if attn.spatial_norm is not None:
            x = attn.spatial_norm(x, temb)
        if is_image := x.ndim == 4:
            height = x.shape[2]
            x = rearrange(x, "b c h w -> b (h w) c")
        if attn.group_norm is not None:
            x = rearrange(attn.group_norm(rearrange(x, "b n c -> b c n")), "b c n -> b n c")
        context = x if encoder_hidden_states is None else encoder_hidden_states
        if encoder_hidden_states is not None and attn.norm_cross is not None:
            context = attn.norm_encoder_hidden_states(context)

        q, k, v = attn.to_q(x), attn.to_k(context), attn.to_v(context)
        q, k, v = (rearrange(p, "b n (h d) -> b h n d", h=attn.heads) for p in (q, k, v))
        if attn.norm_q is not None:
            q = attn.norm_q(q)
        if attn.norm_k is not None:
            k = attn.norm_k(k)
        keys = self._own_keys(attn, x) if context is not x and self.site.kind == "spatial" else None
        x = rearrange(self.attend(q, k, v, keys), "b h n d -> b n (h d)").to(q.dtype)

        project, dropout = attn.to_out
        x = dropout(project(x))
        if is_image:
            x = rearrange(x, "b (h w) c -> b c h w", h=height)
        if attn.residual_connection:
            x = x + hidden_states
        return x / attn.rescale_output_factor

    @staticmethod
    def _own_keys(attn: Attention, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b h n d"]:
        """The keys of each frame, in an inflated layer, where the frames also read others."""
        keys = rearrange(attn.to_k(x), "b n (h d) -> b h n d", h=attn.heads)
        return keys if attn.norm_k is None else attn.norm_k(keys)

    def _joint(self, attn: Attention, image: Tensor, text: Tensor) -> Tensor:
        height = image.shape[2]
        x = rearrange(image, "b c h w -> b c (h w)")
        x = rearrange(attn.group_norm(x), "b c n -> b n c")
        if attn.norm_cross is not None:
            text = attn.norm_encoder_hidden_states(text)
        k, v = attn.add_k_proj(text), attn.add_v_proj(text)
        if not attn.only_cross_attention:
            k = torch.cat([k, attn.to_k(x)], dim=1)
            v = torch.cat([v, attn.to_v(x)], dim=1)
        q, k, v = (
            rearrange(part, "b n (h d) -> b h n d", h=attn.heads) for part in (attn.to_q(x), k, v)
        )
        keys = None if attn.only_cross_attention else k[:, :, -q.shape[2] :]
        project, dropout = attn.to_out
        read = dropout(project(rearrange(self.attend(q, k, v, keys), "b h n d -> b n (h d)")))
        return image + rearrange(read, "b (h w) c -> b c h w", h=height)


def is_joint(attn: Attention) -> bool:
    """Whether a layer has keys and values of its own for the text (DeepFloyd IF, Show-1)."""
    return attn.added_kv_proj_dim is not None
