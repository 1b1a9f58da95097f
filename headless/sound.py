"""Sound between files and tensors, laid on the clock of the frames.

Samples travel interleaved (`flt`): PyAV reads past the end of its list of planes where a frame has
eight or more of them, which kills the process.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import chain
from pathlib import Path

import av
import numpy as np
import torch

from .media import best_first, open_media, packets
from .timing import Timing

logger = logging.getLogger(__name__)

SLACK = Fraction(8, 1000)  # seconds a timestamp may be off before silence is put in or sound cut
# How AAC is told what a number of channels means, and the layouts it can hold beside these.
AAC_LAYOUTS = {
    1: "mono",
    2: "stereo",
    3: "3.0",
    4: "4.0",
    5: "5.0",
    6: "5.1",
    7: "6.1",
    8: "7.1",
    16: "hexadecagonal",
}
OTHER_AAC_LAYOUTS = {"2.1": 3, "3.0(back)": 3, "quad": 4}
MOST_CHANNELS = max(AAC_LAYOUTS)
# Samples that a decoder gives before the sound proper, by FFmpeg's encoders and LAME's tables.
# Most containers put them before 0, or say how many they are; AVI does not.
PRIMING = {"mp3": 1105, "mp3float": 1105, "aac": 1024, "mp2": 481, "mp2float": 481}
PRIMING |= {"ac3": 256, "eac3": 256, "wmav1": 2048, "wmav2": 2048}
# Those of DTS, whose filters are 512 samples long, no container tells.
UNTOLD = {"dca": 512}


def read_sound(path: Path, name: str, timing: Timing) -> dict[str, object] | None:
    """The first sound track that can be decoded, from the first frame on; None if there is none.

    Args:
        timing: that of the frames. What sounds before the first one is cut off, and gaps before the
            last one goes are filled with silence.
    """
    with open_media(path) as container:
        tracks = [stream.index for stream in best_first(container.streams.audio)]
    for number, index in enumerate(tracks, 1):
        with open_media(path) as container:  # decoding a track has read the file to its end
            sound = _read_track(container.streams[index], name, timing)
        if sound is not None:
            return sound
        rest = "the next is tried" if number < len(tracks) else "there is no sound"
        logger.warning("%s: sound track %d cannot be decoded; %s.", name, number, rest)
    return None


def _read_track(stream: av.AudioStream, name: str, timing: Timing) -> dict[str, object] | None:
    """One track; None if nothing of it can be decoded."""
    if stream.codec_context is None:  # FFmpeg has no decoder for it
        return None
    frames = _decoded(stream, name)
    try:
        first = next(frames, None)
        if first is None:
            return None
        layout, rate = first.layout, first.sample_rate
        start = _first_frame_within(stream, rate, timing, name)
        track = _Track(layout.nb_channels, rate, start, start + timing.end - timing.start)
        for piece in _converted(chain([first], frames), layout, rate, name):
            track.lay(piece)
    except (av.error.FFmpegError, ValueError):
        return None
    return {"waveform": track.waveform()[None], "sample_rate": rate, "layout": layout.name}


def _first_frame_within(stream: av.AudioStream, rate: int, timing: Timing, name: str) -> Fraction:
    """Seconds on the clock of the sound at which the first frame is shown.

    An AVI tells it in whole steps only, and not at all if the pictures begin before the sound. It
    then is the priming, where muxers would have written the same for that.
    """
    codec = stream.codec_context.name
    untold = Fraction(UNTOLD.get(codec, 0), rate)
    if not timing.step:
        return timing.start + untold
    primed = Fraction(PRIMING.get(codec, 0), rate)
    shift = round(primed / stream.time_base) * stream.time_base
    as_primed = timing.start in (0, math.ceil(shift / timing.step) * timing.step)
    if timing.first or not as_primed:
        logger.warning(
            "%s: an AVI tells only roughly when its sound begins. It may be %d ms off or more; if "
            "that matters, load what this AVI was made of.",
            *(name, math.ceil(500 * max(timing.step, stream.time_base))),
        )
    return (primed if as_primed else timing.start) + untold


def _decoded(stream: av.AudioStream, name: str) -> Iterator[av.AudioFrame]:
    """The frames of a stream; packets that cannot be decoded are left out and counted.

    The times of an AVI are counts, of what is not always certain: they are used after a loss only.
    """
    timed, broken, lost = stream.container.format.name != "avi", 0, True
    for packet in packets(stream.container):
        if packet.stream.index != stream.index:
            continue
        try:
            frames = packet.decode()
        except av.error.FFmpegError:
            broken, lost = broken + 1, True
            continue
        for frame in frames:
            if not timed and not lost:
                frame.pts = None
            lost = False
            yield frame
    if broken:
        logger.warning("%s: %d packet(s) of its sound are damaged and skipped.", name, broken)


def _converted(
    frames: Iterable[av.AudioFrame], layout: av.AudioLayout, rate: int, name: str
) -> Iterator[av.AudioFrame]:
    """The frames as interleaved floats in one layout and at one rate."""
    kind, resampler = None, None
    for frame in chain(frames, [None]):
        now = frame and (frame.format.name, frame.layout.name, frame.sample_rate)
        if now != kind:
            if resampler:
                yield from resampler.resample(None)
            if kind and now and kind[1:] != now[1:]:
                logger.warning(
                    "%s: its sound changes from %s at %d Hz to %s at %d Hz; all of it is brought "
                    "to %s at %d Hz.",
                    *(name, *kind[1:], *now[1:], layout.name, rate),
                )
            kind, resampler = now, av.AudioResampler("flt", layout, rate)
        if frame:
            yield from resampler.resample(frame)


class _Track:
    """Pieces of sound, each where its timestamp says, in samples from the first frame on."""

    def __init__(self, channels: int, rate: int, start: Fraction, end: Fraction):
        self.channels, self.rate, self.start = channels, rate, start
        self.last = round((end - start) * rate)
        self.due: int | None = None  # where the next piece belongs if it follows the one before
        self.length = 0
        self.pieces: list[np.ndarray] = []

    def lay(self, piece: av.AudioFrame) -> None:
        """Add a piece: after silence if it comes late, without its beginning if it comes early."""
        samples = piece.to_ndarray().reshape(-1, self.channels)
        place = self.due
        if piece.pts is not None:
            place = round((piece.pts * piece.time_base - self.start) * self.rate)
        elif place is None:
            place = 0
        if self.due is not None and abs(place - self.due) <= SLACK * self.rate:
            place = self.due
        self.due = place + len(samples)
        if place > max(self.length, self.last):
            return  # no silence after the last frame: a timestamp gone mad could ask for years
        if place > self.length:
            self._append(np.zeros((place - self.length, self.channels), np.float32))
        self._append(samples[self.length - place :])

    def _append(self, samples: np.ndarray) -> None:
        if len(samples):
            self.pieces.append(samples)
            self.length += len(samples)

    def waveform(self) -> torch.Tensor:
        """All of it as `[channels, samples]`."""
        samples = np.concatenate(self.pieces or [np.zeros((0, self.channels), np.float32)])
        return torch.from_numpy(np.ascontiguousarray(samples.T))


def sound_frame(audio: dict[str, object], seconds: Fraction) -> av.AudioFrame | None:
    """The first `seconds` of an AUDIO as one frame that AAC can hold; None if it is empty.

    Raises:
        ValueError: not a waveform `[1, channels, samples]`, not finite, or no sample rate.
    """
    waveform, rate = audio["waveform"], int(audio["sample_rate"])
    if waveform.ndim != 3 or waveform.shape[1] == 0:
        raise ValueError(
            f"The sound must be [1, channels, samples], found shape {tuple(waveform.shape)}."
        )
    if not torch.isfinite(waveform[0]).all():
        raise ValueError("The sound holds NaN or infinity.")
    if rate <= 0:
        raise ValueError(f"The sample rate must be positive, found {rate}.")
    samples = waveform[0, :, : math.ceil(seconds * rate)].detach().float().cpu().numpy()
    if samples.shape[1] == 0:
        return None
    channels = len(samples)
    if channels not in AAC_LAYOUTS:
        logger.warning(
            "AAC has no layout of %d channels; saved as %d, %s.",
            channels,
            MOST_CHANNELS,
            "the first ones" if channels > MOST_CHANNELS else "the last ones silent",
        )
        samples = np.pad(samples[:MOST_CHANNELS], ((0, max(0, MOST_CHANNELS - channels)), (0, 0)))
    named = str(audio.get("layout")).replace("(side)", "")
    known = OTHER_AAC_LAYOUTS.get(named) == len(samples)
    layout = named if known else AAC_LAYOUTS[len(samples)]
    frame = av.AudioFrame.from_ndarray(
        np.ascontiguousarray(samples.T).reshape(1, -1), format="flt", layout=layout
    )
    frame.sample_rate, frame.pts = rate, 0
    return frame
