"""The transformer block of an inflated model: an image model's block with temporal attention."""

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
from .processor import is_joint
from .sites import map_size

# The tokens that each frame reads: (z [b, f, n, d], height, width, ratio) -> [b, f, m, d].
Spatial: TypeAlias = Callable[[Tensor, int, int, int], Tensor]
SPATIAL: MappingProxyType[str, Spatial] = MappingProxyType(
    {
        "frame": lambda z, *_: frame_tokens(z),
        "sparse-causal": lambda z, *_: sparse_causal_tokens(z),
        "fine-coarse": fine_coarse_tokens,
        "space-time": lambda z, *_: space_time_tokens(z),
    }
)
CLIP = "clip"  # the entry of the UNet's `cross_attention_kwargs` with the `ClipSize` for blocks


class ClipSize(NamedTuple):
    """The size of the latents in a call of the UNet."""

    frames: int
    height: int
    width: int


class VideoBlock(nn.Module):
    """Self-attention that reads frames, text cross-attention, feed-forward, temporal attention.

    This is the order of EI2 and Tune-A-Video. The layers of the image model's block keep their
    names, so that code that finds attention layers by name also finds these.
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
        """The output features `[(b f), n, d]`; called like the block of an image model."""
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
        """What each frame's self-attention reads of `z`, a tensor with a row for each token."""
        return SPATIAL[self.spatial](z, height, width, self.ratio)

    @torch.no_grad()
    def refine_norms(self) -> None:
        """Update the spectral norms of the block, after a change of its weights."""
        if self.temporal is not None:
            self.temporal.refine_norms()


def attend_over(
    attn: Attention, z: Float[Tensor, "b f n d"], context: Float[Tensor, "b f m d"]
) -> Float[Tensor, "b f n d"]:
    """Self-attention in which the tokens of each frame read those of its `context`.

    Keys and values are projected from the context by the layer's own maps (EI2, Zhang et al., 2023,
    Eq. 10).
    """
    read = attn(
        rearrange(z, "b f n d -> (b f) n d"),
        encoder_hidden_states=rearrange(context, "b f m d -> (b f) m d"),
    )
    return rearrange(read, "(b f) n d -> b f n d", b=len(z))


def image_blocks(unet: nn.Module) -> list[nn.ModuleList]:
    """The lists of transformer blocks of an image model's UNet.

    Raises:
        ValueError: if it is no such UNet, or has no self-attention.
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
    """A `VideoBlock` with the layers of a block; its temporal attention has as many heads.

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
    """Among the tokens that each frame reads, those that contain a marked token.

    In a `VideoBlock` a frame also reads other frames; in all other models only itself.

    Raises:
        ValueError: for a layer whose tokens read the text and the image at once.
    """
    if is_joint(unet.get_submodule(site.name)):
        raise ValueError(
            f"{site.name} reads the text and the image in one attention, and a part of the image "
            "cannot be kept from it there. In Attention-Controlled Sampling switch "
            "background_control off, or use a Stable Diffusion 1.x model."
        )
    block = unet.get_submodule(site.name.rpartition(".")[0])
    if not isinstance(block, VideoBlock):
        return marked
    own = rearrange(marked.float(), "f n -> 1 f n 1")
    return rearrange(block.context(own, height, width) > 0, "1 f m 1 -> f m")
