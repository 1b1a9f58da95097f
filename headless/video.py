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
        frame_rate: frames a second.
        audio: `{"waveform": [1, channels, samples], "sample_rate": int}`, or None without sound.
    """

    images: Tensor
    frame_rate: Fraction
    audio: dict[str, object] | None = None


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
