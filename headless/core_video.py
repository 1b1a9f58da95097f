"""Stand-ins for the host's video nodes: LoadVideo, GetVideoComponents, CreateVideo, SaveVideo."""

from __future__ import annotations

import logging
import mimetypes
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path

from torch import Tensor

from .paths import Folders, find_input, input_files, output_place, publish
from .video import FrameRate, Video, VideoComponents, VideoFromComponents
from .video_read import VideoFromFile
from .video_write import LARGEST_CRF, QUALITY, encode_mp4

logger = logging.getLogger(__name__)


def files_of_kind(folders: Folders, kind: str) -> list[str]:
    """The files directly in the input folders whose names say `image` or `video`."""
    return [
        name
        for name in input_files(folders)
        if (mimetypes.guess_type(name, strict=False)[0] or "").startswith(f"{kind}/")
    ]


def saved_entry(path: Path, folders: Folders, kind: str) -> dict[str, str]:
    """How a `ui` payload names a file; `kind` is the host's "output" or "temp"."""
    subfolder = path.parent.relative_to(folders.out.resolve()).as_posix()
    return {
        "filename": path.name,
        "subfolder": "" if subfolder == "." else subfolder,
        "type": kind,
    }


def file_metadata(prompt: object, extra_pnginfo: Mapping[str, object] | None) -> dict[str, object]:
    """What the host stores in a file it saves, so that the workflow can be got back from it."""
    return {**(extra_pnginfo or {}), **({"prompt": prompt} if prompt is not None else {})}


class LoadVideo:
    """A video file of the input folders; nothing is decoded here."""

    folders: Folders
    RETURN_TYPES = ("VIDEO",)
    FUNCTION = "load"
    CATEGORY = "image/video"

    @classmethod
    def INPUT_TYPES(cls):
        options = {"options": files_of_kind(cls.folders, "video"), "video_upload": True}
        return {"required": {"file": ("COMBO", options)}}

    @classmethod
    def VALIDATE_INPUTS(cls, file):
        return input_verdict(file, cls.folders)

    def load(self, file: str) -> tuple[Video]:
        return (VideoFromFile(find_input(file, self.folders)),)


def input_verdict(file: object, folders: Folders) -> bool | str:
    """True, or the sentence why `file` cannot be read (None: it is linked and not known yet)."""
    if file is None:
        return True
    if not isinstance(file, str):
        return f"expected a file name, found {file!r}"
    try:
        find_input(file, folders)
    except ValueError as error:
        return str(error)
    return True


class GetVideoComponents:
    """Decodes a video: frames `[F, H, W, 3]` in 0..1, sound or None, frames a second."""

    RETURN_TYPES = ("IMAGE", "AUDIO", "FLOAT")
    LATER_RETURN_TYPES = ("INT", "COMBO")  # bit depth; colours, always mapped to BT.709 here
    RETURN_NAMES = ("images", "audio", "fps")
    FUNCTION = "split"
    CATEGORY = "image/video"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"video": ("VIDEO", {})}}

    def split(self, video: Video) -> tuple[Tensor, dict | None, FrameRate, int, str]:
        parts = video.get_components()
        rate = FrameRate(parts.frame_rate, parts.times)
        return parts.images, parts.audio, rate, parts.bit_depth, "sRGB"


class CreateVideo:
    """A video from frames and, optionally, sound."""

    RETURN_TYPES = ("VIDEO",)
    FUNCTION = "create"
    CATEGORY = "image/video"

    @classmethod
    def INPUT_TYPES(cls):
        fps = {"default": 30.0, "min": 1.0, "max": 120.0, "step": 1.0}
        return {
            "required": {"images": ("IMAGE", {}), "fps": ("FLOAT", fps)},
            "optional": {"audio": ("AUDIO", {})},
            "later": {"bit_depth": ("INT", {"default": 8, "min": 8, "max": 10, "step": 2})},
        }

    def create(
        self, images: Tensor, fps: float, audio: dict | None = None, bit_depth: int = 8
    ) -> tuple[Video]:
        height, width = images.shape[1:3]
        if height % 2 or width % 2:
            logger.warning(
                "ComfyUI's own Save Video refuses %d x %d from Create Video, for H.264 wants even "
                "sizes; what comes from Edited Video is saved everywhere.",
                *(width, height),
            )
        if bit_depth > 8:
            logger.warning("Videos are saved with 8 bits here, not with %d.", bit_depth)
        # 1001 turns 29.97... back into exactly 30000/1001; the wire carries a float.
        rate = Fraction(fps).limit_denominator(1001)
        times = fps.times if isinstance(fps, FrameRate) else None
        if times and len(times) != len(images):
            logger.warning(
                "The clip had %d frames at a variable rate and now has %d: they come evenly.",
                *(len(times), len(images)),
            )
            times = None
        return (VideoFromComponents(VideoComponents(images, rate, audio, times)),)


class SaveVideo:
    """Writes a video as mp4 to the output folder, numbered like the host's files.

    A video straight from a file is encoded anew, where the host copies its stream.
    """

    folders: Folders
    RETURN_TYPES = ()
    LATER_RETURN_TYPES = ("VIDEO",)
    FUNCTION = "save"
    OUTPUT_NODE = True
    CATEGORY = "image/video"

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "video": ("VIDEO", {}),
                "filename_prefix": ("STRING", {"default": "video/ComfyUI"}),
                "format": ("COMBO", {"options": ["auto", "mp4"], "default": "auto"}),
                "codec": ("COMBO", {"options": ["auto", "h264"], "default": "auto"}),
            },
            "hidden": {"prompt": "PROMPT", "extra_pnginfo": "EXTRA_PNGINFO"},
            "later": {
                "format": ("COMBO", {"options": ["auto", "mp4", "mkv", "webm"]}),
                **_codec_inputs("codec"),
                **_codec_inputs("format.codec"),
            },
        }

    @classmethod
    def VALIDATE_INPUTS(cls, filename_prefix):
        return prefix_verdict(filename_prefix, cls.folders)

    def save(
        self,
        video,
        filename_prefix,
        format="auto",
        codec="auto",
        prompt=None,
        extra_pnginfo=None,
        **later,
    ):
        name = "format.codec" if "format.codec" in later else "codec"
        colours = later.get(f"{name}.encoding.color_space", "auto")
        for wanted, written in (
            (format, "mp4"),
            (later.get(name, codec), "h264"),
            (colours, "sRGB"),
        ):
            if wanted not in ("auto", written):
                logger.warning("%s is not written here; saved as %s.", wanted, written)
        crf = min(later.get(f"{name}.encoding.crf", QUALITY), LARGEST_CRF)
        parts = video.get_components()
        height, width = parts.images.shape[1:3]
        folder, stem = output_place(filename_prefix, self.folders, width, height)
        data = encode_mp4(parts, file_metadata(prompt, extra_pnginfo), crf)
        path = publish(data, folder, stem, ".mp4", self.folders)
        entry = saved_entry(path, self.folders, "output")
        return {"ui": {"images": [entry], "animated": [True]}, "result": (video,)}


def _codec_inputs(name: str) -> dict[str, tuple]:
    """What later hosts ask for where the codec is chosen; each choice has inputs of its own."""
    return {
        name: ("COMBO", {"options": ["auto", "h264", "av1"]}),
        f"{name}.encoding": ("COMBO", {"options": ["auto", "re-encode"]}),
        f"{name}.encoding.crf": ("FLOAT", {"min": 0.0, "max": 63.0}),
        f"{name}.encoding.color_space": ("COMBO", {"options": ["auto", "sRGB", "HDR", "HDR PQ"]}),
    }


def prefix_verdict(prefix: object, folders: Folders) -> bool | str:
    """True, or the sentence why a save node may not use this prefix (None: linked, not known)."""
    if prefix is None:
        return True
    try:
        output_place(str(prefix), folders, 1, 1)
    except ValueError as error:
        return str(error)
    return True
