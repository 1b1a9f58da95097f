"""Clips with a flash and a click, and how far these are apart."""

from fractions import Fraction

import av
import numpy as np
from rescore.headless.video import VideoComponents

RATE = 48000
TOLERANCE = 0.010  # seconds


def packed(waveform: np.ndarray, layout: str, rate: int = RATE, start: int = 0) -> av.AudioFrame:
    """An interleaved frame; planes of eight channels or more would end the process."""
    array = np.ascontiguousarray(waveform.T).reshape(1, -1)
    frame = av.AudioFrame.from_ndarray(array, format="flt", layout=layout)
    frame.sample_rate, frame.pts = rate, start
    frame.time_base = Fraction(1, rate)
    return frame


def write_with_sound(
    path,
    sounds,
    *,
    frames=10,
    fps=10,
    picture_start=0.0,
    flash=None,
    pictures="libx264",
    options=(("bf", "0"),),
    clock=1000,
):
    """Frames of grey, one of them white, and one or more tracks `(codec, rate, layout, frames)`."""
    with av.open(str(path), "w") as output:
        video = output.add_stream(pictures, rate=fps, options=dict(options))
        video.width = video.height = 32
        video.pix_fmt = "yuv420p"
        video.codec_context.time_base = Fraction(1, clock)
        tracks = [
            (output.add_stream(codec, rate=rate, layout=layout, options={"strict": "-2"}), pieces)
            for codec, rate, layout, pieces in sounds
        ]
        for index in range(frames):
            level = 255 if index == flash else 60
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), level, np.uint8))
            frame.pts = round(clock * (picture_start + index / fps))
            frame.time_base = Fraction(1, clock)
            output.mux(video.encode(frame))
        output.mux(video.encode(None))
        for track, pieces in tracks:
            for piece in pieces:
                output.mux(track.encode(piece))
            output.mux(track.encode(None))
    return path


def click(seconds: float, at: float, rate: int = RATE) -> np.ndarray:
    """Silence with a burst of 20 ms in it, mono."""
    wave = np.zeros((1, round(seconds * rate)), np.float32)
    begin = round(at * rate)
    wave[0, begin : begin + rate // 50] = 0.8 * np.sin(np.arange(rate // 50))
    return wave


def flash_and_click(video: VideoComponents) -> tuple[float, float]:
    """Seconds at which the picture turns white and at which the burst begins."""
    levels = video.images.mean((1, 2, 3))
    times = video.times or [i / video.frame_rate for i in range(len(levels))]
    loud = video.audio["waveform"][0].abs().amax(0)
    first = int((loud > 0.4 * loud.max()).nonzero()[0])
    return float(times[int(levels.argmax())]), first / video.audio["sample_rate"]
