"""Decoding a video file with PyAV into float frames, sound and a frame rate.

Frames come in presentation order, each as it is stored (none is repeated or dropped to even out a
variable rate), turned upright when the file asks for it. What a file holds that frames cannot show
(alpha, uneven timing) is said in the log.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import torch
from torch import Tensor

from .errors import printable
from .memory import available_memory
from .video import VideoComponents

logger = logging.getLogger(__name__)

# Containers that hold their own data. Left out are playlists and scripts, which name other files or
# addresses to read, and plain text, which FFmpeg would render as frames.
OPEN_OPTIONS = {
    "protocol_whitelist": "file",
    "format_whitelist": (
        "mov,matroska,avi,gif,apng,mpegts,mpeg,ogg,flv,asf,mxf,nut,ivf,yuv4mpegpipe,h264,hevc,obu,"
        "m4v,mpegvideo,mjpeg,dv,png_pipe,jpeg_pipe,webp_pipe"
    ),
}
UNEVEN = 0.2  # gaps between frames that differ by more than this part of the mean: variable rate
FASTEST = 1000  # a "rate" above this is a container's clock, not frames a second


@dataclass(frozen=True)
class VideoFromFile:
    """A video file on a VIDEO wire; nothing is decoded until it is asked for."""

    path: Path

    def get_components(self) -> VideoComponents:
        """Decode the whole file."""
        return read_video(self.path)


@dataclass(frozen=True)
class _Frames:
    """Decoded frames: integer arrays `[H, W, 3]` of one size, and their times in seconds."""

    arrays: list[np.ndarray]
    times: list[Fraction]


def read_video(path: Path) -> VideoComponents:
    """Decode a whole video file.

    Video of more than 8 bits keeps its precision; alpha is dropped; grey becomes RGB.

    Raises:
        ValueError: not a video, no video stream, no frames, damaged, or larger than the free
            memory; the sentence says which and what to do.
    """
    name = f"'{printable(path.name)}'"
    try:
        with av.open(str(path), options=OPEN_OPTIONS) as container:
            stream = _video_stream(container, name)
            frames = _decode_frames(container, stream, name)
            rate = _frame_rate(stream, frames.times, name)
    except (av.error.FFmpegError, EOFError) as error:
        if isinstance(error, EOFError):
            raise ValueError(f"{name} holds no frames.") from error
        raise ValueError(
            f"{name} is not a video this runner can read ({printable(error.strerror)}). If it "
            "plays elsewhere, convert it: ffmpeg -i IN -c:v libx264 OUT.mp4"
        ) from error
    return VideoComponents(_to_images(frames.arrays), rate, _read_audio(path, name))


def _video_stream(container: av.container.InputContainer, name: str) -> av.VideoStream:
    """The first stream that is really video, not a cover picture of a sound file."""
    for stream in container.streams.video:
        if not stream.disposition & av.stream.Disposition.attached_pic:
            return stream
    kinds = sorted({stream.type for stream in container.streams})
    raise ValueError(f"{name} has no video stream, only {', '.join(kinds) or 'nothing'}.")


def _decode_frames(
    container: av.container.InputContainer, stream: av.VideoStream, name: str
) -> _Frames:
    """All frames of a stream, upright, in presentation order."""
    arrays: list[np.ndarray] = []
    times: list[Fraction] = []
    concealed = 0
    room = _Room(name, stream.frames)
    try:
        for frame in _intact_frames(container, stream):
            concealed += frame.is_corrupt
            if not arrays:
                _note_oddities(stream, frame, name)
            array = _to_array(frame)
            if arrays and array.shape != arrays[0].shape:
                raise ValueError(
                    f"{name} changes its frame size from {_size(arrays[0])} to {_size(array)} at "
                    f"frame {len(arrays)}; re-encode it at one size."
                )
            room.take(array)
            arrays.append(array)
            if frame.pts is not None:
                times.append(frame.pts * frame.time_base)
    except av.error.InvalidDataError as error:
        raise ValueError(
            f"{name} is damaged or cut off: it could be decoded up to frame {len(arrays)}"
            f"{f' of {stream.frames}' if stream.frames else ''}. Use a whole copy, or keep the "
            "readable part: ffmpeg -i IN -c:v libx264 OUT.mp4"
        ) from error
    if not arrays:
        raise ValueError(f"{name} holds no frames.")
    if concealed:
        logger.warning("%s: %d frames are damaged and only guessed at.", name, concealed)
    if stream.frames > len(arrays):
        logger.warning(
            "%s: its index lists %d frames, %d are shown (cut out by an edit list, or lost).",
            name,
            stream.frames,
            len(arrays),
        )
    return _Frames(arrays, times)


def _intact_frames(
    container: av.container.InputContainer, stream: av.VideoStream
) -> Iterator[av.VideoFrame]:
    """The frames of a stream; raises InvalidDataError at a packet that the file does not complete.

    Decoding stays with slice threads, PyAV's default: frame threads swallow such errors.
    """
    for packet in container.demux(stream):
        if packet.is_corrupt:
            raise av.error.InvalidDataError(0, "incomplete packet")
        yield from packet.decode()


def _note_oddities(stream: av.VideoStream, frame: av.VideoFrame, name: str) -> None:
    """Say once what the frames will not show."""
    if any(part.is_alpha for part in frame.format.components) or "alpha_mode" in stream.metadata:
        logger.warning("%s has an alpha channel, which is dropped.", name)
    if frame.rotation:
        logger.info("%s is stored turned; frames are rotated by %g degrees.", name, frame.rotation)


def _to_array(frame: av.VideoFrame) -> np.ndarray:
    """One frame as `[H, W, 3]`, uint8 or uint16, upright.

    YUV is decoded by planes, as in today's host: FFmpeg then interpolates the colours, which are
    stored at half the resolution, where it would repeat them for a packed format.
    """
    deep = max(part.bits for part in frame.format.components) > 8
    packed = "rgb48le" if deep else "rgb24"
    array = frame.to_ndarray(format=packed if frame.format.is_rgb else "gbrp16le")
    quarter_turns, remainder = divmod(round(frame.rotation), 90)
    return np.rot90(array, quarter_turns) if quarter_turns and not remainder else array


def _size(array: np.ndarray) -> str:
    return f"{array.shape[1]}x{array.shape[0]}"


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
            raise ValueError(
                f"{self.name} does not fit the memory: {self.declared or 'its'} frames of "
                f"{_size(array)} take {expected / 1e9:.1f} GB or more and {self.free / 1e9:.1f} GB "
                "are free. Cut or shrink it: ffmpeg -i IN -t 4 -vf scale=512:-2 OUT.mp4"
            )
        self.taken += size


def _to_images(arrays: list[np.ndarray]) -> Tensor:
    """Frames as one float32 tensor in 0..1; empties `arrays` on the way, to hold one copy only."""
    images = torch.empty(len(arrays), *arrays[0].shape)
    peak = float(np.iinfo(arrays[0].dtype).max)
    for index in range(len(arrays) - 1, -1, -1):
        images[index] = torch.from_numpy(arrays.pop().astype(np.float32)).div_(peak)
    return images


def _frame_rate(stream: av.VideoStream, times: Sequence[Fraction], name: str) -> Fraction:
    """The stream's own rate; the mean rate if frames come unevenly or the file does not say."""
    declared = stream.average_rate or stream.guessed_rate
    gaps = [later - earlier for earlier, later in pairwise(times)]
    if not gaps or sum(gaps) <= 0:
        return Fraction(declared) if declared else Fraction(1)
    mean = sum(gaps) / len(gaps)
    if max(gaps) - min(gaps) > max(UNEVEN * mean, 2 * stream.time_base):
        rate = (1 / mean).limit_denominator(1001)
        logger.warning(
            "%s has a variable frame rate; its frames are used one by one at the mean, %.3f fps.",
            name,
            float(rate),
        )
        return rate
    if declared and 0 < declared <= FASTEST:
        return Fraction(declared)
    return (1 / mean).limit_denominator(1001)


def _read_audio(path: Path, name: str) -> dict[str, object] | None:
    """The first sound track as `{"waveform": [1, channels, samples], "sample_rate": int}`."""
    with av.open(str(path), options=OPEN_OPTIONS) as container:
        if not container.streams.audio:
            return None
        stream = container.streams.audio[0]
        resampler = av.AudioResampler(format="fltp")
        pieces: list[np.ndarray] = []
        try:
            for frame in container.decode(stream):
                pieces.extend(piece.to_ndarray() for piece in resampler.resample(frame))
            if pieces:
                pieces.extend(piece.to_ndarray() for piece in resampler.resample(None))
        except av.error.FFmpegError as error:
            logger.warning("%s: its sound cannot be decoded (%s) and is left out.", name, error)
            return None
        rate = stream.rate
    if not pieces:
        return None
    waveform = torch.from_numpy(np.concatenate(pieces, axis=1))
    return {"waveform": waveform[None], "sample_rate": int(rate)}
