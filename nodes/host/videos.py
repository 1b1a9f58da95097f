"""The host's VIDEO: what is in it, and a new one that keeps what a host leaves out.

A host reads and writes a video with one frame rate. The pack's own reader and writer, which also
serve the headless runner, keep the time of each frame, turn frames upright and map colours.
"""

import logging
from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from ...headless.video import Video, VideoComponents, VideoFromComponents
from ...headless.video_read import read_video
from ...headless.video_write import LARGEST_CRF, QUALITY, encode_mp4
from . import _host

log = logging.getLogger("rescore")


def components_of(video: Any) -> VideoComponents:
    """The frames, the sound and the times of a VIDEO.

    A file that the host's Load Video names is read by the pack's own reader. A video that is cut
    (Video Slice) or comes from another node is what the host makes of it, with even times.

    Raises:
        ValueError: if the file is not a video that can be read.
    """
    if (path := _whole_file(video)) is not None:
        return read_video(path)
    parts = getattr(video, "rescore_components", None) or video.get_components()
    if isinstance(parts, VideoComponents):
        return parts
    return VideoComponents(parts.images, Fraction(parts.frame_rate), parts.audio)


def components_for_frames(video: Any) -> VideoComponents:
    """As `components_of`, with the frames that the host's own Get Video Components gives.

    An edit by single nodes begins with those. Where the host reads colours otherwise, or does not
    turn a clip upright, the clip's own pixels beside the edit must be read the same way.
    """
    parts = components_of(video)
    if _whole_file(video) is None:
        return parts
    images = video.get_components().images
    times = parts.times if parts.times and len(parts.times) == len(images) else None
    return replace(parts, images=images, times=times)


def video_of(components: VideoComponents) -> Video:
    """A VIDEO of these components, for Save Video and every other node of the host."""
    api = _host("comfy_api.latest")
    if api is None:
        return VideoFromComponents(components)
    parts = api.Types.VideoComponents(
        images=components.images, audio=components.audio, frame_rate=components.frame_rate
    )
    video = _edited_video(api)(parts)
    video.rescore_components = components
    return video


def _whole_file(video: Any) -> Path | None:
    """The file of a VIDEO that is all of one file; None of every other."""
    api = _host("comfy_api.latest")
    if api is None or not isinstance(video, api.InputImpl.VideoFromFile):
        return None
    window = getattr(video, "get_active_trim_window", tuple)()
    source = video.get_stream_source()
    return Path(source) if isinstance(source, str) and not any(window) else None


def _edited_video(api: Any) -> type:
    class EditedVideo(api.InputImpl.VideoFromComponents):
        """A VIDEO that is saved as mp4 with the times of its frames, and any size exactly."""

        rescore_components: VideoComponents

        def save_to(
            self, path, format="auto", codec="auto", metadata: Mapping[str, Any] | None = None,
            *given: Any, **options: Any,
        ) -> None:  # fmt: skip
            """Write the file; formats that the pack does not write are the host's to write."""
            colours, depth = options.get("color_space"), options.get("bit_depth")
            ours = _named(format) in ("auto", "mp4") and _named(codec) in ("auto", "h264")
            if given or not ours or colours not in (None, "auto", "sRGB") or (depth or 8) > 8:
                if self.rescore_components.times:
                    log.warning("The frames came unevenly, and come evenly in this format.")
                super().save_to(path, format, codec, metadata, *given, **options)
                return
            crf = options.get("crf")
            crf = QUALITY if crf is None else min(crf, LARGEST_CRF)
            data = encode_mp4(self.rescore_components, metadata, crf)
            if hasattr(path, "write"):
                path.write(data)
            else:
                Path(path).write_bytes(data)

    return EditedVideo


def _named(choice: Any) -> str:
    return str(getattr(choice, "value", choice))
