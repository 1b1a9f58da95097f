"""Show-1's UNet: DeepFloyd IF's picture UNet with a layer along time after each of its layers."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers import TransformerTemporalModel, UNet2DConditionModel
from diffusers.models.resnet import TemporalConvLayer
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor, nn

# The blocks of a video model, by the names in its config.json, and those of the picture in them.
BLOCKS = {
    name.replace("2D", "3D"): name
    for name in (
        "ResnetDownsampleBlock2D",
        "SimpleCrossAttnDownBlock2D",
        "UNetMidBlock2DSimpleCrossAttn",
        "ResnetUpsampleBlock2D",
        "SimpleCrossAttnUpBlock2D",
    )
}
_INPUT_LAYER = "transfromer_in_opt"  # spelt so in the published settings


class VideoUNet(UNet2DConditionModel):
    """A UNet over the pixels of a clip in which text and image share one attention (Show-1).

    Every block of pictures gets a convolution along time after each residual block, and attention
    along time after each attention; the weights have the names of Show-1's published files.
    """

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> "VideoUNet":
        """A fresh UNet by the settings of a published `config.json`.

        Raises:
            ValueError: if they name blocks other than those of `BLOCKS`.
        """
        unet = cls.from_config(picture_settings(settings))
        config = unet.config
        heads = config.attention_head_dim
        heads = [heads] * len(config.block_out_channels) if isinstance(heads, int) else [*heads]
        groups = config.norm_num_groups
        if settings.get(_INPUT_LAYER):
            unet.transformer_in = TransformerTemporalModel(
                num_attention_heads=8,
                attention_head_dim=64,
                in_channels=config.block_out_channels[0],
            )
        else:
            unet.transformer_in = None
        unet.down_blocks = nn.ModuleList(
            _Down(block, groups, head) for block, head in zip(unet.down_blocks, heads, strict=True)
        )
        unet.mid_block = _Mid(unet.mid_block, groups, heads[-1])
        unet.up_blocks = nn.ModuleList(
            _Up(block, groups, head)
            for block, head in zip(unet.up_blocks, heads[::-1], strict=True)
        )
        return unet

    def forward(
        self,
        sample: Float[Tensor, "b c f h w"],
        timestep: Tensor,
        encoder_hidden_states: Float[Tensor, "b l d"],
        class_labels: Tensor | None = None,
    ) -> Float[Tensor, "b o f h w"]:
        """What the model says about a noised clip, at one timestep for each.

        `class_labels` is the timestep up to which a super-resolution model's low-resolution clip
        was noised. Sides are multiples of 2 for each block but the last.
        """
        b, _, frames = sample.shape[:3]
        emb = self.time_embedding(self.get_time_embed(sample, timestep))
        noise = self.get_class_embed(sample, class_labels)
        words = self.get_aug_embed(emb, encoder_hidden_states, {})
        emb = sum((part for part in (noise, words) if part is not None), start=emb)
        if self.time_embed_act is not None:
            emb = self.time_embed_act(emb)
        text = self.process_encoder_hidden_states(encoder_hidden_states, {})
        emb = repeat(emb, "b d -> (b f) d", f=frames)
        text = repeat(text, "b l d -> (b f) l d", f=frames)

        x = self.conv_in(rearrange(sample, "b c f h w -> (b f) c h w"))
        if self.transformer_in is not None:
            x = self.transformer_in(x, num_frames=frames).sample
        skips = [x]
        for block in self.down_blocks:
            x, passed = block(x, emb, text, frames)
            skips += passed
        x = self.mid_block(x, emb, text, frames)
        for block in self.up_blocks:
            x = block(x, [skips.pop() for _ in block.resnets], emb, text, frames)
        x = self.conv_out(self.conv_act(self.conv_norm_out(x)))
        return rearrange(x, "(b f) o h w -> b o f h w", b=b)


def picture_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of the UNet of pictures that is in a video model.

    Raises:
        ValueError: if a block is none of `BLOCKS`.
    """
    plain = {name: value for name, value in settings.items() if name != _INPUT_LAYER}
    for entry in ("down_block_types", "up_block_types"):
        plain[entry] = [_picture_block(name) for name in settings.get(entry) or [None]]
    plain["mid_block_type"] = _picture_block(settings.get("mid_block_type"))
    return plain | {"_class_name": UNet2DConditionModel.__name__}


def _picture_block(name: Any) -> str:
    if name not in BLOCKS:
        raise ValueError(
            f"a block of it is {name!r}, and a cascade's video models are made of "
            f"{', '.join(BLOCKS)}"
        )
    return BLOCKS[name]


class _Block(nn.Module):
    """A block of pictures, taken over, with layers along time beside its own."""

    def __init__(self, block: nn.Module, groups: int, heads: int) -> None:
        super().__init__()
        self.resnets = block.resnets
        self.temp_convs = nn.ModuleList(
            TemporalConvLayer(resnet.out_channels, dropout=0.1) for resnet in block.resnets
        )
        self.attentions = getattr(block, "attentions", None)
        if self.attentions is not None:
            self.temp_attentions = nn.ModuleList(
                _along_time(attention.query_dim, groups, heads) for attention in self.attentions
            )

    def resolved(self, i: int, x: Tensor, emb: Tensor, frames: int) -> Tensor:
        return self.temp_convs[i](self.resnets[i](x, emb), frames)

    def attended(self, i: int, x: Tensor, text: Tensor, frames: int) -> Tensor:
        if self.attentions is None:
            return x
        x = self.attentions[i](x, encoder_hidden_states=text)
        return self.temp_attentions[i](x, num_frames=frames).sample


def _along_time(channels: int, groups: int, heads: int) -> TransformerTemporalModel:
    # What the settings call the size of a head is the number of heads here.
    return TransformerTemporalModel(
        num_attention_heads=heads,
        attention_head_dim=channels // heads,
        in_channels=channels,
        norm_num_groups=groups,
    )


class _Down(_Block):
    def __init__(self, block: nn.Module, groups: int, heads: int) -> None:
        super().__init__(block, groups, heads)
        self.downsamplers = block.downsamplers

    def forward(
        self, x: Tensor, emb: Tensor, text: Tensor, frames: int
    ) -> tuple[Tensor, list[Tensor]]:
        """The features, and those that go to the other half."""
        passed = []
        for i in range(len(self.resnets)):
            x = self.attended(i, self.resolved(i, x, emb, frames), text, frames)
            passed.append(x)
        for sampler in self.downsamplers or ():
            x = sampler(x, emb)
            passed.append(x)
        return x, passed


class _Mid(_Block):
    def forward(self, x: Tensor, emb: Tensor, text: Tensor, frames: int) -> Tensor:
        x = self.resolved(0, x, emb, frames)
        for i in range(len(self.attentions)):
            x = self.resolved(i + 1, self.attended(i, x, text, frames), emb, frames)
        return x


class _Up(_Block):
    def __init__(self, block: nn.Module, groups: int, heads: int) -> None:
        super().__init__(block, groups, heads)
        self.upsamplers = block.upsamplers

    def forward(
        self, x: Tensor, passed: Sequence[Tensor], emb: Tensor, text: Tensor, frames: int
    ) -> Tensor:
        """`passed` are the features of the other half, the last first."""
        for i, other in enumerate(passed):
            x = self.resolved(i, torch.cat([x, other], dim=1), emb, frames)
            x = self.attended(i, x, text, frames)
        for sampler in self.upsamplers or ():
            x = sampler(x, emb)
        return x
