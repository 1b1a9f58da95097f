"""Group normalisation of a clip as a whole, in a UNet that takes its frames as a batch."""

from typing import Any

from diffusers.models.resnet import ResnetBlock2D
from einops import rearrange
from torch import Tensor, nn


class ClipGroupNorm(nn.GroupNorm):
    """Group normalisation whose mean and variance are those of all frames of a clip together.

    Takes and returns `[(b f), c, h, w]`; the model sets `frames` before it runs. Weights and names
    are those of the layer it takes the place of.
    """

    frames: int = 1

    def __init__(self, norm: nn.GroupNorm) -> None:
        super().__init__(norm.num_groups, norm.num_channels, norm.eps, device="meta")
        self.weight, self.bias = norm.weight, norm.bias

    def forward(self, x: Tensor) -> Tensor:
        clips = rearrange(x, "(b f) c h w -> b c f h w", f=self.frames)
        return rearrange(super().forward(clips), "b c f h w -> (b f) c h w")


def normalise_over_clips(unet: Any) -> None:
    """Let a UNet's residual blocks and its output normalise over clips, as Tune-A-Video's do.

    Its authors' code holds clips as `[b, c, f, h, w]` there. In transformers it goes frame by
    frame, and these stay as they are.
    """
    for block in (m for m in unet.modules() if isinstance(m, ResnetBlock2D)):
        block.norm1, block.norm2 = ClipGroupNorm(block.norm1), ClipGroupNorm(block.norm2)
    unet.conv_norm_out = ClipGroupNorm(unet.conv_norm_out)
