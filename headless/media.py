"""Opening a media file, and which of its streams is meant."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import av
from av.stream import Disposition

logger = logging.getLogger(__name__)

# Containers that hold their own data. Left out are playlists and scripts, which name other files or
# addresses to read, and plain text, which FFmpeg would render as frames. Those of sound are here
# for the sake of the sentence: a song with a cover is not a damaged video.
OPTIONS = {
    "protocol_whitelist": "file",
    "format_whitelist": (
        "mov,matroska,avi,gif,apng,mpegts,mpeg,ogg,flv,asf,mxf,nut,ivf,yuv4mpegpipe,h264,hevc,obu,"
        "m4v,mpegvideo,mjpeg,dv,png_pipe,jpeg_pipe,webp_pipe,mp3,flac,wav,aac,aiff"
    ),
}

Stream = TypeVar("Stream", av.VideoStream, av.AudioStream)


def open_media(path: Path) -> av.container.InputContainer:
    """The file's container; tags in other encodings than UTF-8 are no reason to refuse it."""
    return av.open(str(path), options=OPTIONS, metadata_errors="replace")


def best_first(streams: Sequence[Stream]) -> list[Stream]:
    """The streams without cover pictures, those marked as default before the others."""
    real = [stream for stream in streams if not stream.disposition & Disposition.attached_pic]
    return sorted(real, key=lambda stream: not stream.disposition & Disposition.default)


def packets(
    container: av.container.InputContainer, name: str, *streams: av.stream.Stream
) -> Iterator[av.Packet]:
    """The packets of these streams, or of all, as far as the file can be read."""
    try:
        yield from container.demux(*streams)
    except av.error.FFmpegError as error:
        logger.warning("%s cannot be read to its end: %s.", name, error.strerror)
