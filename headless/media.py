"""Opening a media file, and which of its streams is meant."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
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

JOINABLE = ("mpegts", "mpeg")  # of which parts may be joined that have clocks of their own
FORWARDS, BACKWARDS = 10, Fraction(1, 10)  # seconds from which on ffmpeg, too, calls it a jump

Stream = TypeVar("Stream", av.VideoStream, av.AudioStream)


def open_media(path: Path, **options: str) -> av.container.InputContainer:
    """The file's container; tags in other encodings than UTF-8 are no reason to refuse it."""
    # Absolute, for FFmpeg takes "a:b.mp4" for an address.
    return av.open(str(path.absolute()), options=OPTIONS | options, metadata_errors="replace")


def best_first(streams: Sequence[Stream]) -> list[Stream]:
    """The streams without cover pictures: default before others, clips before single pictures."""
    real = [stream for stream in streams if not stream.disposition & Disposition.attached_pic]
    return sorted(
        real, key=lambda one: (not one.disposition & Disposition.default, one.frames == 1)
    )


def packets(container: av.container.InputContainer, name: str = "") -> Iterator[av.Packet]:
    """The packets of all streams as far as the file can be read, on a clock that does not jump.

    Empty packets, which ask for the last frame to be shown again, are left out: frames have times.

    Args:
        name: the file, for what is said in the log; nothing is said without it.
    """
    try:
        found = container.demux()
        if container.format.name in JOINABLE:
            found = _on_one_clock(found, name)
        yield from (packet for packet in found if packet.size or packet.dts is None)
    except av.error.FFmpegError as error:
        if name:
            logger.warning("%s cannot be read to its end: %s.", name, error.strerror)
    except IndexError:
        return  # PyAV's, once all is read, where a stream began on the way


def _on_one_clock(found: Iterable[av.Packet], name: str) -> Iterator[av.Packet]:
    """Where the clock jumps, what follows is moved to go on; all streams by the same time."""
    shift = before = Fraction(0)  # now, and before the last jump: streams do not jump together
    due: dict[int, Fraction] = {}
    for packet in found:
        steady = packet.stream.type in ("audio", "video")  # subtitles may come minutes apart
        if packet.dts is not None and steady:
            time, index = packet.dts * packet.time_base, packet.stream.index
            expected = due.get(index, time + shift)
            moved = min((shift, before), key=lambda by: abs(time + by - expected))
            if not -BACKWARDS <= time + moved - expected <= FORWARDS:
                before, shift = shift, expected - time
                moved = shift
                if name:
                    logger.warning(
                        "%s: its clock jumps at %.2f s, as where recordings are joined; what "
                        "follows is shown right after.",
                        name,
                        float(expected),
                    )
            due[index] = time + moved + (packet.duration or 0) * packet.time_base
            ticks = round(moved / packet.time_base)
            packet.dts += ticks
            if packet.pts is not None:
                packet.pts += ticks
        yield packet
