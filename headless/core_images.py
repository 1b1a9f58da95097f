"""Stand-ins for the host's image nodes: loading, saving and previewing."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, ImageSequence, PngImagePlugin
from torch import Tensor

from .core_video import (
    file_metadata,
    files_of_kind,
    input_verdict,
    prefix_verdict,
    saved_entry,
)
from .errors import printable
from .paths import Folders, find_input, output_place, publish
from .video_write import to_pixels

logger = logging.getLogger(__name__)

# Pillow would hand EPS to an external interpreter of PostScript, which is a programming language.
FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "PPM")


def open_pictures(path: Path) -> Iterator[Image.Image]:
    """The picture or pictures of an image file, upright; raises ValueError if it is none."""
    Image.init()  # all of Pillow's formats are known only after this
    try:
        with Image.open(path, formats=FORMATS) as file:
            for picture in ImageSequence.Iterator(file):
                yield ImageOps.exif_transpose(picture)
                if file.format == "MPO":  # further pictures are other views of the same moment
                    return
    except Exception as error:  # on a damaged file Pillow's readers stop in many ways
        raise ValueError(
            f"'{printable(path.name)}' is not an image that can be read ({printable(error, 200)})."
        ) from error


def to_rgba(picture: Image.Image) -> Tensor:
    """A picture as float32 `[H, W, 4]` in 0..1, with alpha 1 where it has none.

    Raises:
        ValueError: for numbers of which nothing says how much white is.
    """
    if picture.mode[0] in "IF":  # Pillow's own conversion to RGB would clip 16-bit grey
        values = np.array(picture, dtype=np.float32)
        if picture.mode == "F" or not (0 <= values.min() and values.max() <= 65535):
            kind = "floating-point" if picture.mode == "F" else "32-bit"
            raise ValueError(
                f"The image has {kind} pixels, and nothing says which number is white. Save it "
                "with 8 or 16 bits."
            )
        grey = torch.from_numpy(values / 65535)
        return torch.stack([grey, grey, grey, torch.ones_like(grey)], dim=-1)
    return torch.from_numpy(np.array(picture.convert("RGBA"), dtype=np.float32) / 255)


def has_alpha(picture: Image.Image) -> bool:
    """Whether the picture says anything about transparency."""
    return "A" in picture.getbands() or "transparency" in picture.info


class LoadImage:
    """An image file: frames `[n, H, W, 3]` and the inverse of its alpha as a mask."""

    folders: Folders
    RETURN_TYPES = ("IMAGE", "MASK")
    FUNCTION = "load"
    CATEGORY = "image"

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {"image": (files_of_kind(cls.folders, "image"), {"image_upload": True})}
        }

    @classmethod
    def VALIDATE_INPUTS(cls, image):
        return input_verdict(image, cls.folders)

    def load(self, image: str) -> tuple[Tensor, Tensor]:
        frames: list[Tensor] = []
        transparent, others = False, 0
        for picture in open_pictures(find_input(image, self.folders)):
            rgba = to_rgba(picture)
            if not frames or rgba.shape == frames[0].shape:  # like the host: others are left out
                frames.append(rgba)
                transparent |= has_alpha(picture)
            else:
                others += 1
        if others:
            logger.warning(
                "'%s': %d of its pictures have another size than the first, and are left out.",
                *(printable(image), others),
            )
        clip = torch.stack(frames)
        # the host's sign for "no alpha" is an empty 64x64 mask
        mask = 1 - clip[..., 3] if transparent else torch.zeros(len(clip), 64, 64)
        return clip[..., :3].contiguous(), mask


def encode_png(pixels: Tensor, metadata: Mapping[str, object]) -> bytes:
    """One uint8 frame `[H, W, 3]` as a PNG file with text entries."""
    info = PngImagePlugin.PngInfo()
    for key, value in metadata.items():
        info.add_text(key, json.dumps(value))
    buffer = io.BytesIO()
    Image.fromarray(pixels.numpy()).save(buffer, "PNG", pnginfo=info, compress_level=4)
    return buffer.getvalue()


class SaveImage:
    """Writes each frame as a numbered PNG to the output folder."""

    folders: Folders
    RETURN_TYPES = ()
    LATER_RETURN_TYPES = ("IMAGE",)
    FUNCTION = "save"
    OUTPUT_NODE = True
    CATEGORY = "image"
    KIND = "output"

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "images": ("IMAGE",),
                "filename_prefix": ("STRING", {"default": "ComfyUI"}),
            },
            "hidden": {"prompt": "PROMPT", "extra_pnginfo": "EXTRA_PNGINFO"},
        }

    @classmethod
    def VALIDATE_INPUTS(cls, filename_prefix):
        return prefix_verdict(filename_prefix, cls.folders)

    def save(self, images, filename_prefix="ComfyUI", prompt=None, extra_pnginfo=None):
        pixels = to_pixels(images, "the image")
        height, width = pixels.shape[1:3]
        folder, stem = output_place(filename_prefix, self.folders, width, height)
        metadata = file_metadata(prompt, extra_pnginfo)
        entries = []
        for index, frame in enumerate(pixels):
            name = stem.replace("%batch_num%", str(index))
            path = publish(encode_png(frame, metadata), folder, name, ".png", self.folders)
            entries.append(saved_entry(path, self.folders, self.KIND))
        return {"ui": {"images": entries}, "result": (images,)}


class PreviewImage(SaveImage):
    """Writes each frame as a PNG to the folder `temp` in the output folder."""

    KIND = "temp"
    VALIDATE_INPUTS = None

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {"images": ("IMAGE",)},
            "hidden": {"prompt": "PROMPT", "extra_pnginfo": "EXTRA_PNGINFO"},
        }

    def save(self, images, prompt=None, extra_pnginfo=None):
        return super().save(images, "temp/preview", prompt, extra_pnginfo)
