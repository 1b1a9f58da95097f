"""What travels on a VIDEO wire: frames, sound and frame rate, as a file or as tensors."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True)
class VideoComponents:
    """A decoded video.

    Attributes:
        images: frames `[F, H, W, 3]`, float32 in 0..1.
        frame_rate: frames a second; the mean where frames come unevenly.
        audio: `{"waveform": [1, channels, samples], "sample_rate": int}`, or None without sound. A
            file's own also has its `"layout"`, such as "quad", which a channel count does not tell.
        times: seconds from the first frame to each, if they come unevenly.
        bit_depth: bits of each channel in the file it comes from.
    """

    images: Tensor
    frame_rate: Fraction
    audio: dict[str, object] | None = None
    times: tuple[Fraction, ...] | None = None
    bit_depth: int = 8


class FrameRate(float):
    """Frames a second on a FLOAT wire, with the times of the frames where these come unevenly.

    A number alone cannot say that a clip has a variable rate. With the times beside it, a clip that
    is edited frame by frame is saved with the timing it had, and so stays with its sound.
    """

    times: tuple[Fraction, ...] | None

    def __new__(cls, rate: Fraction, times: tuple[Fraction, ...] | None = None) -> FrameRate:
        self = super().__new__(cls, rate)
        self.times = times
        return self


class Video(Protocol):
    """Anything on a VIDEO wire."""

    def get_components(self) -> VideoComponents:
        """Decode the whole video."""


@dataclass(frozen=True)
class VideoFromComponents:
    """A video made in the graph."""

    components: VideoComponents

    def get_components(self) -> VideoComponents:
        """The parts it was made of."""
        return self.components
