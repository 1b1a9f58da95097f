"""When each frame is shown: the frame rate that a file declares, held against its timestamps."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import pairwise
from statistics import median_low

import av

logger = logging.getLogger(__name__)

SHIFTED = Fraction(1, 100)  # seconds off an even rate from which on a frame's own time is kept
ROUNDED = Fraction(1, 1000)  # the unit in which many containers write times
FASTEST = 1000  # a "rate" above this is a container's clock, not frames a second
NO_TIMESTAMPS = 0x0080  # FFmpeg's mark of such formats
ASSUMED = Fraction(25)  # FFmpeg's own choice
HELD = 2  # a last frame that stays this many times as long as the others is worth a word


@dataclass
class Stamps:
    """What a file says of times, in units of the stream's time base.

    Attributes:
        pts: when each frame is shown.
        dts: when each packet is decoded.
        released: `dts` of the packet that the first frame came out of the decoder with.
        last_duration: how long the last frame stays; 0 if it does not say.
    """

    pts: list[int | None] = field(default_factory=list)
    dts: list[int | None] = field(default_factory=list)
    released: int | None = None
    last_duration: int = 0


@dataclass(frozen=True)
class Timing:
    """The timing of a clip.

    Attributes:
        rate: frames a second; the mean where frames come unevenly.
        times: seconds from the first frame to each, if they come unevenly.
        start, end: when the first frame appears and the last one goes, on the file's clock.
        step: seconds to which `start` is rounded up, in an AVI; or else 0.
        first: whether the pictures may begin before the sound, which an AVI cannot tell.
    """

    rate: Fraction
    times: tuple[Fraction, ...] | None
    start: Fraction
    end: Fraction
    step: Fraction = Fraction(0)
    first: bool = False


def timing_of(stream: av.VideoStream, stamps: Stamps, name: str) -> Timing:
    """The timing of the frames of a stream.

    Where timestamps are missing or run backwards, as in raw streams and in AVI files with B-frames,
    the container has none worth the name, and the declared rate counts.
    """
    if stream.container.format.name == "avi":
        return _in_avi(stream, stamps, name)
    return _timing(stream, _counted_back(stamps.pts), stamps.last_duration, name)


def _in_avi(stream: av.VideoStream, stamps: Stamps, name: str) -> Timing:
    """The timing of an AVI, which gives no times but counts: the first packet is 0 in any case.

    Pictures that begin later than the sound are told by a first step longer than the others.
    """
    pts, dts, tick = list(stamps.pts), list(stamps.dts), stream.time_base
    steps = [b - a for a, b in pairwise(dts)]
    usual = median_low(steps[1:] or [0])
    alike = len(steps) > 1 and max(steps[1:]) <= usual + 1  # else that frame is held, as others are
    late = steps[0] - usual if alike else 0
    delay = (stamps.released or dts[0]) - dts[0]  # of frames that are stored in another order
    dts[0] += late
    if len(pts) == len(dts):
        pts = dts
    elif len(pts) > 1 and None not in pts and pts[-1] - pts[-2] < usual:
        pts[-1] = pts[-2] + usual  # FFmpeg's guesses from the counts want the packet after
    timing = _timing(stream, pts, stamps.last_duration, name)
    start = (max(late, delay) if late > 0 else 0) * tick
    end = start + timing.end - timing.start
    return replace(timing, start=start, end=end, step=tick, first=late <= 0 < delay)


def _counted_back(pts: Sequence[int | None]) -> list[int | None]:
    """Times for the first frames where only later ones have any: Matroska's below 0 are dropped."""
    known = [one for one in pts if one is not None]
    missing = len(pts) - len(known)
    if len(known) < 2 or None in pts[missing:]:
        return list(pts)
    step = median_low(b - a for a, b in pairwise(known))
    return [known[0] - step * before for before in range(missing, 0, -1)] + known


def _timing(
    stream: av.VideoStream, pts: Sequence[int | None], last_duration: int, name: str
) -> Timing:
    """The timing of frames shown at these times."""
    tick = stream.time_base
    if _untimed(stream) or None in pts or any(b <= a for a, b in pairwise(pts)):
        first = (stream.start_time or 0) * tick
        return _even(_declared_rate(stream, name), first, len(pts))
    times = [one * tick for one in pts]
    start = times[0]
    if len(times) == 1:
        return _even(_declared_rate(stream, name), start, 1)
    times = [time - times[0] for time in times]
    rate = _rate(stream, times)
    mean = times[-1] / (len(times) - 1)
    if last_duration * tick > HELD * mean:
        logger.warning(
            "%s holds its last frame for %.2f s; it is used as one frame like the others.",
            name,
            float(last_duration * tick),
        )
    if all(abs(time - i / rate) <= max(SHIFTED, tick) for i, time in enumerate(times)):
        return _even(rate, start, len(times))
    logger.warning(
        "%s has a variable frame rate, in the mean %.3f fps. Its frames keep their times if the "
        "clip is saved with as many, and with this fps; otherwise they come evenly.",
        name,
        float(rate),
    )
    return Timing(rate, tuple(times), start, start + times[-1] + mean)


def _untimed(stream: av.VideoStream) -> bool:
    """Whether there is no container that could give the frames times, but the bare stream."""
    form = stream.container.format
    return bool(form.flags & NO_TIMESTAMPS) or form.name.endswith("_pipe")


def _even(rate: Fraction, start: Fraction, frames: int) -> Timing:
    return Timing(rate, None, start, start + frames / rate)


def _declared_rate(stream: av.VideoStream, name: str) -> Fraction:
    """The rate where timestamps do not tell; of a raw stream, what the codec says about timing."""
    named = stream.codec_context.framerate if _untimed(stream) else stream.guessed_rate
    if not named:
        logger.warning("%s does not say how fast it runs; %d fps are assumed.", name, ASSUMED)
    rates = (named, stream.guessed_rate, ASSUMED)
    return next(Fraction(rate) for rate in rates if rate and rate <= FASTEST)


def _rate(stream: av.VideoStream, times: Sequence[Fraction]) -> Fraction:
    """A rate at which as many frames take as long as these: a declared or a usual one, if it can.

    Usual are whole numbers, and NTSC's parts of 1001.
    """
    intervals, span = len(times) - 1, times[-1]
    mean = intervals / span

    def furthest(rate: Fraction) -> Fraction:
        return max(abs(time - index / rate) for index, time in enumerate(times))

    declared = [Fraction(rate) for rate in (stream.guessed_rate, stream.average_rate) if rate]
    usual = [Fraction(round(mean) * 1000, part) for part in (1000, 1001) if round(mean)]
    for rate in (*declared, *sorted(usual, key=furthest)):
        if abs(intervals / rate - span) <= max(stream.time_base, ROUNDED):
            return rate
    return mean.limit_denominator(1001)
