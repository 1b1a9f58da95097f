"""Write the video that the browser plays forwards, backwards and frame by frame, with sound."""

import math
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import torch

_BT709, _LIMITED = 1, 1  # codes of the colour matrix (H.273) and range that players expect
_SAMPLE_RATE = 48_000  # Hz
_LAYOUTS = {1: "mono", 2: "stereo"}  # by the count of channels


def write_preview(
    file: Path,
    pictures: Iterator["torch.Tensor"],
    size: tuple[int, int],
    frames: int,
    fps: float,
    audio: dict[str, Any] | None,
) -> bool:
    """Write `frames` pictures `[h, w, 3]` of even `size` as H.264, for fast steps to any frame.

    Args:
        audio: the host's AUDIO, or None; it is cut at the end of the pictures.

    Returns:
        Whether there is sound in the file.

    Raises:
        ValueError: if the sound has another shape, no sample rate, NaN or infinity.
    """
    import av

    rate = Fraction(fps).limit_denominator(1001)
    heard = _sound(audio, frames / fps)
    # No B-frames: no frame needs a later one.
    options = {"crf": "15", "preset": "veryfast", "g": "8", "bf": "0"}
    with av.open(str(file), "w", format="mp4") as output:
        video = output.add_stream("libx264", rate=rate, options=options)
        video.height, video.width = size
        video.pix_fmt = "yuv420p"
        context = video.codec_context
        context.colorspace = context.color_primaries = context.color_trc = _BT709
        context.color_range = _LIMITED
        sound = None
        if heard is not None:
            layout = _LAYOUTS[len(heard[0])]
            sound = output.add_stream("aac", rate=_SAMPLE_RATE, layout=layout)
        for index, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture.numpy(), format="rgb24")
            frame = frame.reformat(
                format="yuv420p", dst_colorspace=_BT709, dst_color_range=_LIMITED
            )
            frame.pts, frame.time_base = index, 1 / rate
            output.mux(video.encode(frame))
        output.mux(video.encode(None))
        if sound is not None:
            _encode(output, sound, *heard)
    return sound is not None


def _sound(audio: dict[str, Any] | None, seconds: float) -> tuple["np.ndarray", int] | None:
    """The first sound of a batch, `[channels, samples]`, and its sample rate.

    It has one or two channels; more are mixed to one.
    """
    if audio is None:
        return None
    waveform, sample_rate = audio["waveform"], int(audio["sample_rate"])
    if waveform.ndim != 3 or sample_rate <= 0:
        raise ValueError(
            "The sound must be [1, channels, samples] with a sample rate above 0, found "
            f"{list(waveform.shape)} at {sample_rate}; wire the audio of Get Video Components."
        )
    samples = waveform[0, :, : math.ceil(seconds * sample_rate)].float().cpu()
    if not samples.isfinite().all():
        raise ValueError("The sound holds NaN or infinity; look at the node that made it.")
    if samples.numel() == 0:
        return None
    if len(samples) not in _LAYOUTS:
        samples = samples.mean(0, keepdim=True)
    return samples.contiguous().numpy(), sample_rate


def _encode(output: Any, stream: Any, samples: "np.ndarray", sample_rate: int) -> None:
    import av

    layout = _LAYOUTS[len(samples)]
    frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout=layout)
    frame.sample_rate, frame.pts = sample_rate, 0
    resampler = av.AudioResampler(format="fltp", layout=layout, rate=_SAMPLE_RATE)
    for part in (frame, None):
        for piece in resampler.resample(part):
            output.mux(stream.encode(piece))
    output.mux(stream.encode(None))
