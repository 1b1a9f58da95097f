"""Stand-ins for the host's mask nodes, and pasting one image onto another through a mask."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from .core_images import LARGEST_SIDE, PreviewImage

CHANNELS = ["red", "green", "blue", "alpha"]


def _side(default: int, lowest: int = 1) -> tuple[str, dict[str, int]]:
    """A width, height or offset in pixels."""
    return "INT", {"default": default, "min": lowest, "max": LARGEST_SIDE, "step": 1}


def _batched(mask: Tensor) -> Tensor:
    """A mask of any batch layout as `[n, H, W]`."""
    return mask.reshape(-1, *mask.shape[-2:])


class MaskToImage:
    """A mask as grey frames."""

    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "convert"
    CATEGORY = "mask"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"mask": ("MASK", {})}}

    def convert(self, mask: Tensor) -> tuple[Tensor]:
        return (_batched(mask)[..., None].expand(-1, -1, -1, 3),)


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


class SolidMask:
    """A mask with one value everywhere."""

    RETURN_TYPES = ("MASK",)
    FUNCTION = "fill"
    CATEGORY = "mask"

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "value": ("FLOAT", {"default": 1.0, "min": 0.0, "max": 1.0, "step": 0.01}),
                "width": _side(512),
                "height": _side(512),
            }
        }

    def fill(self, value: float, width: int, height: int) -> tuple[Tensor]:
        return (torch.full((1, height, width), value),)


class InvertMask:
    """1 - mask."""

    RETURN_TYPES = ("MASK",)
    FUNCTION = "invert"
    CATEGORY = "mask"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"mask": ("MASK", {})}}

    def invert(self, mask: Tensor) -> tuple[Tensor]:
        return (1.0 - mask,)


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


class GrowMask:
    """A mask grown by `expand` pixels (shrunk if negative), with or without its corners."""

    RETURN_TYPES = ("MASK",)
    FUNCTION = "grow"
    CATEGORY = "mask"

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "mask": ("MASK", {}),
                "expand": _side(0, -LARGEST_SIDE),
                "tapered_corners": ("BOOLEAN", {"default": True}),
            }
        }

    def grow(self, mask: Tensor, expand: int, tapered_corners: bool) -> tuple[Tensor]:
        sign = -1 if expand < 0 else 1
        grown = sign * _batched(mask)
        # a corner reaches every pixel after height + width steps
        for _ in range(min(abs(expand), sum(grown.shape[-2:]))):
            if tapered_corners:
                down = functional.max_pool2d(grown, (3, 1), 1, (1, 0))
                across = functional.max_pool2d(grown, (1, 3), 1, (0, 1))
                grown = torch.maximum(down, across)
            else:
                grown = functional.max_pool2d(grown, 3, 1, 1)
        return (sign * grown,)


class MaskPreview(PreviewImage):
    """Writes each frame of a mask as a grey PNG, as PreviewImage does."""

    CATEGORY = "mask"

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {"mask": ("MASK", {})},
            "hidden": {"prompt": "PROMPT", "extra_pnginfo": "EXTRA_PNGINFO"},
        }

    def save(self, mask, prompt=None, extra_pnginfo=None):
        return super().save(_batched(mask)[..., None], prompt, extra_pnginfo)


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
                "x": _side(0, 0),
                "y": _side(0, 0),
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
            seen = functional.interpolate(
                _batched(mask)[:, None], above.shape[-2:], mode="bilinear"
            )
            seen = _to_length(seen, len(below))
        seen = seen[..., :height, :width]
        place = below[..., y : y + height, x : x + width]
        place.copy_(seen * above[..., :height, :width] + (1 - seen) * place)
        return (below.movedim(1, -1),)


def _to_length(frames: Tensor, length: int) -> Tensor:
    """The first `length` frames, starting over when there are fewer."""
    return frames.repeat(-(-length // len(frames)), 1, 1, 1)[:length]
