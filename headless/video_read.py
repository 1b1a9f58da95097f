"""Decoding a video file with PyAV into float frames, sound and a frame rate.

Frames come in presentation order, each as it is stored (none is repeated or dropped to even out a
variable rate), turned upright when the file asks for it. As players do, it goes on after packets
that are damaged. What a file holds that frames cannot show (alpha, HDR, oblong pixels, uneven
timing), and what is lost, is said in the log.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from torch import Tensor

from .endings import ends_early
from .errors import printable
from .media import JOINABLE, best_first, open_media, packets
from .memory import available_memory
from .pictures import Developer
from .sound import read_sound
from .timing import Stamps, timing_of
from .video import VideoComponents

logger = logging.getLogger(__name__)

EARLY = Fraction(1, 10)  # a file that ends this many seconds before its header says is cut off


@dataclass(frozen=True)
class VideoFromFile:
    """A video file on a VIDEO wire; nothing is decoded until it is asked for."""

    path: Path

    def get_components(self) -> VideoComponents:
        """Decode the whole file."""
        return read_video(self.path)


def read_video(path: Path) -> VideoComponents:
    """Decode a whole video file.

    Video of more than 8 bits keeps its precision; alpha is dropped; grey becomes RGB; HDR is mapped
    to BT.709. Sound starts with the first frame.

    Raises:
        ValueError: not a video, no video stream, no frames that can be decoded, or larger than the
            free memory; the sentence says which and what to do.
    """
    name = f"'{printable(path.name)}'"
    try:
        with open_media(path) as container:
            stream = _video_stream(container, name)
            clip = _decode(container, stream, name)
            timing = timing_of(stream, clip.stamps, name)
        late = _cut_within_a_frame(path, clip)
        timing = replace(timing, start=timing.start + late, end=timing.end + late)
        sound = read_sound(path, name, timing)
    except (av.error.FFmpegError, EOFError) as error:
        if isinstance(error, EOFError):
            raise ValueError(f"{name} holds no frames.") from error
        raise ValueError(_unreadable(name, printable(error.strerror))) from error
    images = _to_images(clip.arrays)
    return VideoComponents(images, timing.rate, sound, timing.times, clip.bits)


def _unreadable(name: str, reason: str) -> str:
    return (
        f"{name} is not a video that can be read ({reason}). If it plays elsewhere, convert "
        "it: ffmpeg -i IN -c:v libx264 OUT.mp4"
    )


def _video_stream(container: av.container.InputContainer, name: str) -> av.VideoStream:
    """The stream that players show: the default one, and no cover picture of a sound file."""
    streams = best_first(container.streams.video)
    for stream in streams:
        if stream.codec_context is not None:
            return stream
    if streams:
        raise ValueError(_unreadable(name, "its codec is not known, or the file is cut off"))
    if container.streams.video and container.streams.audio:
        raise ValueError(f"{name} has no video, only sound and a cover picture.")
    kinds = sorted({stream.type for stream in container.streams})
    raise ValueError(f"{name} has no video stream, only {', '.join(kinds) or 'nothing'}.")


@dataclass
class _Clip:
    """Decoded frames: integer arrays `[H, W, 3]` of one size, and their timestamps."""

    arrays: list[np.ndarray] = field(default_factory=list)
    stamps: Stamps = field(default_factory=Stamps)
    bits: int = 8
    packet: int = 0  # bytes of the last one
    broken: int = 0
    guessed: int = 0
    end: Fraction = Fraction(0)  # seconds at which the last packet of any stream ends
    first: tuple[int, int, int] | None = None  # pts, stream and place of what is shown first
    hidden: bool = False  # whether an edit list hides some


def _decode(container: av.container.InputContainer, stream: av.VideoStream, name: str) -> _Clip:
    """All frames of a stream, upright, in presentation order.

    Decoding stays with slice threads, PyAV's default: frame threads swallow errors.
    """
    clip, develop, room = _Clip(), Developer(name), _Room(name, stream.frames)
    for packet in packets(container, name):
        if packet.pts is not None:
            clip.end = max(clip.end, (packet.pts + (packet.duration or 0)) * packet.time_base)
        if packet.stream.index != stream.index:
            continue
        if packet.size:
            clip.stamps.dts.append(packet.dts)
            clip.packet = packet.size
        clip.hidden |= packet.is_discard
        if packet.pts is not None and not packet.is_discard:
            this = packet.pts, packet.stream_index, packet.pos or 0
            clip.first = min(clip.first or this, this)
        try:
            frames = packet.decode()
        except av.error.FFmpegError:
            clip.broken += 1
            continue
        for frame in frames:
            array = develop(frame)
            if not clip.arrays:
                _note_oddities(stream, frame, develop.crossed, name)
                clip.stamps.released = frame.dts
            room.take(array)
            clip.arrays.append(array)
            clip.stamps.pts.append(frame.pts)
            clip.stamps.last_duration = frame.duration or 0
            clip.guessed += frame.is_corrupt
    clip.bits = develop.bits
    if not clip.arrays:
        raise ValueError(_nothing_shown(container, clip, name))
    _note_losses(container, stream, clip, name)
    return clip


def _cut_within_a_frame(path: Path, clip: _Clip) -> Fraction:
    """Seconds after the cut of an edit list at which the first whole frame is shown.

    FFmpeg moves that frame to the cut, and leaves the sound where it is. Without its care for edit
    lists it tells the frame's own time.
    """
    if not clip.hidden or clip.first is None:
        return Fraction(0)
    pts, stream, place = clip.first
    with open_media(path, advanced_editlist="0") as container:
        for packet in packets(container):
            if packet.pts is not None and (packet.stream_index, packet.pos) == (stream, place):
                late = packet.pts - pts
                within = 0 <= late <= (packet.duration or 0)  # or else there are further edits
                return late * packet.time_base if within else Fraction(0)
    return Fraction(0)


def _nothing_shown(container: av.container.InputContainer, clip: _Clip, name: str) -> str:
    if container.format.name == "webp_pipe":
        return f"{name} is an animated WebP picture; Load Image reads it, Load Video does not."
    damaged = ": all of it is damaged or cut off. Use a whole copy" if clip.broken else ""
    return f"{name} holds no frames{damaged}."


def _note_oddities(stream: av.VideoStream, frame: av.VideoFrame, crossed: bool, name: str) -> None:
    """Say once what the frames will not show; `crossed` if width and height changed places."""
    if any(part.is_alpha for part in frame.format.components) or "alpha_mode" in stream.metadata:
        logger.warning("%s has an alpha channel, which is dropped.", name)
    aspect = stream.sample_aspect_ratio
    if aspect and aspect != 1:
        turn = -1 if crossed else 1
        logger.warning(
            "%s has pixels of %d:%d; its frames are used as they are, %dx%d, and look right at "
            "%dx%d.",
            *(name, *(aspect.numerator, aspect.denominator)[::turn]),
            *(frame.width, frame.height)[::turn],
            *(round(frame.width * aspect), frame.height)[::turn],
        )


def _note_losses(
    container: av.container.InputContainer, stream: av.VideoStream, clip: _Clip, name: str
) -> None:
    """Say what is missing or damaged."""
    if clip.broken:
        logger.warning("%s: %d packet(s) are damaged and skipped.", name, clip.broken)
    if clip.guessed:
        logger.warning("%s: %d frame(s) are damaged and only guessed at.", name, clip.guessed)
    declared = _declared_end(container, stream)
    if clip.end + EARLY < declared:
        logger.warning(
            "%s ends at %.2f s, its header says %.2f s: it is cut off.",
            *(name, float(clip.end), float(declared)),
        )
    elif container.format.name != "avi" and stream.frames > len(clip.stamps.dts):
        logger.warning(
            "%s: its index lists %d frames, %d are there: it is cut off or damaged.",
            *(name, stream.frames, len(clip.stamps.dts)),
        )
    elif ends_early(Path(container.name), container.format.name, clip.packet):
        logger.warning("%s does not end as such files do: it may be cut off.", name)


def _declared_end(container: av.container.InputContainer, stream: av.VideoStream) -> Fraction:
    """Seconds at which a file ends by its header; 0 where it does not say."""
    if container.format.name == "avi":  # counts the times at which a frame is shown again, too
        return stream.frames * stream.time_base
    if container.format.name in JOINABLE:
        return Fraction(0)
    early = min(container.start_time or 0, 0)
    return Fraction(early + (container.duration or 0), av.time_base)


class _Room:
    """Watches that the decoded clip fits the free memory, where that is known."""

    def __init__(self, name: str, declared: int):
        self.name = name
        self.declared = declared
        self.free = available_memory()
        self.taken = 0

    def take(self, array: np.ndarray) -> None:
        """Count one more frame: as decoded, and as the float32 it will become."""
        size = array.nbytes + 4 * array.size
        expected = max(self.declared * size, self.taken + size)
        if self.free is not None and expected > self.free:
            height, width = array.shape[:2]
            raise ValueError(
                f"{self.name} does not fit the memory: {self.declared or 'its'} frames of "
                f"{width}x{height} take {expected / 1e9:.1f} GB or more and {self.free / 1e9:.1f} "
                "GB are free. Cut or shrink it: ffmpeg -i IN -t 4 -vf scale=512:-2 OUT.mp4"
            )
        self.taken += size


def _to_images(arrays: list[np.ndarray]) -> Tensor:
    """Frames as one float32 tensor in 0..1; empties `arrays` on the way, to hold one copy only."""
    images = torch.empty(len(arrays), *arrays[0].shape)
    pixels = images.numpy()
    for index in range(len(arrays) - 1, -1, -1):
        array = arrays.pop()
        np.divide(array, np.float32(np.iinfo(array.dtype).max), out=pixels[index])
    return images
