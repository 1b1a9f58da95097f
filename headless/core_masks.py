"""Stand-ins for the host's nodes that make and show a mask, or paste an image through one."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

CHANNELS = ["red", "green", "blue", "alpha"]
LARGEST_SIDE = 16384
OFFSET = "INT", {"default": 0, "min": 0, "max": LARGEST_SIDE, "step": 1}  # pixels


class SolidMask:
    """A mask with one value everywhere."""

    RETURN_TYPES = ("MASK",)
    FUNCTION = "fill"
    CATEGORY = "mask"

    @classmethod
    def INPUT_TYPES(cls):
        side = {"default": 512, "min": 1, "max": LARGEST_SIDE, "step": 1}
        return {
            "required": {
                "value": ("FLOAT", {"default": 1.0, "min": 0.0, "max": 1.0, "step": 0.01}),
                "width": ("INT", side),
                "height": ("INT", side),
            }
        }

    def fill(self, value: float, width: int, height: int) -> tuple[Tensor]:
        return (torch.full((1, height, width), value),)


class MaskToImage:
    """A mask as grey frames."""

    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "convert"
    CATEGORY = "mask"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"mask": ("MASK", {})}}

    def convert(self, mask: Tensor) -> tuple[Tensor]:
        return (mask.reshape(-1, *mask.shape[-2:], 1).expand(-1, -1, -1, 3),)


class ImageToMask:
    """One channel of the frames as a mask."""

    RETURN_TYPES = ("MASK",)
    FUNCTION = "convert"
    CATEGORY = "mask"

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {"image": ("IMAGE", {}), "channel": ("COMBO", {"options": CHANNELS})},
        }

    def convert(self, image: Tensor, channel: str) -> tuple[Tensor]:
        index = CHANNELS.index(channel)
        if index >= image.shape[-1]:
            raise ValueError(
                f"The image has {image.shape[-1]} channels and no {channel}; choose another."
            )
        return (image[..., index],)


class ThresholdMask:
    """1 where the mask is above the value, else 0."""

    RETURN_TYPES = ("MASK",)
    FUNCTION = "threshold"
    CATEGORY = "mask"

    @classmethod
    def INPUT_TYPES(cls):
        value = {"default": 0.5, "min": 0.0, "max": 1.0, "step": 0.01}
        return {"required": {"mask": ("MASK", {}), "value": ("FLOAT", value)}}

    def threshold(self, mask: Tensor, value: float) -> tuple[Tensor]:
        return ((mask > value).float(),)


class ImageCompositeMasked:
    """`source` pasted onto `destination` at (x, y), where the mask (stretched to it) lets it."""

    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "paste"
    CATEGORY = "image"

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "destination": ("IMAGE", {}),
                "source": ("IMAGE", {}),
                "x": OFFSET,
                "y": OFFSET,
                "resize_source": ("BOOLEAN", {"default": False}),
            },
            "optional": {"mask": ("MASK", {})},
        }

    def paste(self, destination, source, x, y, resize_source, mask=None) -> tuple[Tensor]:
        below = destination.movedim(-1, 1).clone()
        above = source.movedim(-1, 1)
        if below.shape[1] > above.shape[1]:
            raise ValueError(
                f"The destination has {below.shape[1]} channels and the source {above.shape[1]}; "
                "give both the same."
            )
        above = above[:, : below.shape[1]]
        if resize_source:
            above = functional.interpolate(above, below.shape[-2:], mode="bilinear")
        above = _to_length(above, len(below))
        height = max(0, min(above.shape[-2], below.shape[-2] - y))
        width = max(0, min(above.shape[-1], below.shape[-1] - x))
        seen = torch.ones(1, 1, *above.shape[-2:])
        if mask is not None:
            planes = mask.reshape(-1, 1, *mask.shape[-2:])
            seen = functional.interpolate(planes, above.shape[-2:], mode="bilinear")
            seen = _to_length(seen, len(below))
        seen = seen[..., :height, :width]
        place = below[..., y : y + height, x : x + width]
        place.copy_(seen * above[..., :height, :width] + (1 - seen) * place)
        return (below.movedim(1, -1),)


def _to_length(frames: Tensor, length: int) -> Tensor:
    """The first `length` frames, starting over when there are fewer."""
    return frames.repeat(-(-length // len(frames)), 1, 1, 1)[:length]
