"""The transformer block of a video model: an image model's block, with attention along time."""

from collections.abc import Callable
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias

import torch
from diffusers import Transformer2DModel, UNet2DConditionModel
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import Attention
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ..ffam import fine_coarse_tokens
from ..layers import Site
from ..linear import TrainedLinear
from ..space_time import frame_tokens, space_time_tokens
from ..sparse_causal import sparse_causal_tokens
from ..temporal import TemporalAttention
from .sites import map_size

# What each frame reads in self-attention: (z [b, f, n, d], height, width, ratio) -> [b, f, m, d].
Spatial: TypeAlias = Callable[[Tensor, int, int, int], Tensor]
SPATIAL: MappingProxyType[str, Spatial] = MappingProxyType(
    {
        "frame": lambda z, *_: frame_tokens(z),
        "sparse-causal": lambda z, *_: sparse_causal_tokens(z),
        "fine-coarse": fine_coarse_tokens,
        "space-time": lambda z, *_: space_time_tokens(z),
    }
)
CLIP = "clip"  # what a block is told through the UNet's `cross_attention_kwargs`: a `ClipSize`


class ClipSize(NamedTuple):
    """The size of the latents a UNet works on."""

    frames: int
    height: int
    width: int


class VideoBlock(nn.Module):
    """Self-attention over frames, text cross-attention, feed-forward, attention along time.

    The order of EI2 and Tune-A-Video. The layers are those of an image model's block under the
    names they have there, so that whatever finds or changes attention layers by name finds these.
    """

    def __init__(
        self,
        block: BasicTransformerBlock,
        spatial: str,
        ratio: int,
        temporal: TemporalAttention | None,
    ) -> None:
        super().__init__()
        self.norm1, self.attn1 = block.norm1, block.attn1
        self.norm2, self.attn2 = block.norm2, block.attn2
        self.norm3, self.ff = block.norm3, block.ff
        self.spatial, self.ratio = spatial, ratio
        self.temporal = temporal
        for layer in (self.attn1, self.attn2):
            layer.to_q = TrainedLinear(layer.to_q.weight, layer.to_q.bias)
        self.requires_grad_(False)

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        timestep: Tensor | None = None,
        cross_attention_kwargs: dict[str, Any] | None = None,
        class_labels: Tensor | None = None,
    ) -> Tensor:
        """The features `[(b f), n, d]` of one layer of a UNet; called as an image model's block."""
        clip: ClipSize = (cross_attention_kwargs or {})[CLIP]
        frames = clip.frames
        height, width = map_size(hidden_states.shape[1], clip.height, clip.width)

        z = rearrange(self.norm1(hidden_states), "(b f) n d -> b f n d", f=frames)
        read = attend_over(self.attn1, z, self.context(z, height, width))
        z = rearrange(read, "b f n d -> (b f) n d") + hidden_states
        z = self.attn2(self.norm2(z), encoder_hidden_states=encoder_hidden_states) + z
        z = self.ff(self.norm3(z)) + z
        if self.temporal is None:
            return z
        along_time = rearrange(z, "(b f) n d -> b n f d", f=frames)
        return rearrange(self.temporal(along_time), "b n f d -> (b f) n d")

    def context(
        self, z: Float[Tensor, "b f n d"], height: int, width: int
    ) -> Float[Tensor, "b f m d"]:
        """What each frame's self-attention reads, of any tensor that has a row for each token."""
        return SPATIAL[self.spatial](z, height, width, self.ratio)

    @torch.no_grad()
    def refine_norms(self) -> None:
        """Update the block's spectral norms after its weights have changed."""
        if self.temporal is not None:
            self.temporal.refine_norms()


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


def image_blocks(unet: nn.Module) -> list[nn.ModuleList]:
    """The lists of transformer blocks of an image model's UNet.

    Raises:
        ValueError: if it is none, or has no self-attention.
    """
    lists = [m.transformer_blocks for m in unet.modules() if isinstance(m, Transformer2DModel)]
    if isinstance(unet, UNet2DConditionModel) and lists:
        return lists
    raise ValueError(
        f"{type(unet).__name__} is no 2D UNet with self-attention, so there is nothing to inflate. "
        "Use the UNet of an image model such as Stable Diffusion 1.4."
    )


def video_block(
    block: BasicTransformerBlock,
    spatial: str,
    ratio: int,
    temporal: Callable[..., TemporalAttention] | None,
    generator: torch.Generator,
) -> VideoBlock:
    """A `VideoBlock` that takes over the layers of a block, with heads along time as in space.

    Raises:
        ValueError: if the block is not one of Stable Diffusion's, with self- and cross-attention.
    """
    if block.norm_type != "layer_norm" or block.pos_embed is not None or hasattr(block, "fuser"):
        raise ValueError(
            "A transformer block of this model is not like Stable Diffusion 1's (plain LayerNorm, "
            "no positions, no grounding). Use a Stable Diffusion 1.x model."
        )
    if block.only_cross_attention or block.attn2 is None or not block.attn2.is_cross_attention:
        raise ValueError(
            "A transformer block of this model has not both a self-attention and a text "
            "cross-attention layer. Use a Stable Diffusion 1.x model."
        )
    time = None
    if temporal is not None:
        heads = block.attn1.heads
        time = temporal(
            block.attn1.query_dim, heads, block.attn1.inner_dim // heads, generator=generator
        ).to(block.attn1.to_q.weight.device)
    return VideoBlock(block, spatial, ratio, time)


def marked_of_read(
    unet: nn.Module, site: Site, marked: Bool[Tensor, "f n"], height: int, width: int
) -> Bool[Tensor, "f m"]:
    """Which tokens, of those that each frame reads, are marked or average a marked one.

    In a `VideoBlock` those are other frames' too; in all other models a frame's own.
    """
    block = unet.get_submodule(site.name.rpartition(".")[0])
    if not isinstance(block, VideoBlock):
        return marked
    own = rearrange(marked.float(), "f n -> 1 f n 1")
    return rearrange(block.context(own, height, width) > 0, "1 f m 1 -> f m")
