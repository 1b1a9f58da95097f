"""Encoding frames and sound as an mp4 in memory: H.264 and AAC, exact size, count and rate.

Encoding happens in memory (a clip is small beside its float frames), so a run that is stopped has
written nothing. Frames of even size are stored as yuv420p, which plays everywhere. That format
cannot hold an odd width or height, so such frames are stored as yuv444p: every pixel is kept and
none invented, at the price that some hardware and browser players will not show the file.
"""

from __future__ import annotations

import io
import json
import logging
import math
from collections.abc import Mapping
from fractions import Fraction

import av
import numpy as np
import torch
from torch import Tensor

from .errors import printable
from .video import VideoComponents

logger = logging.getLogger(__name__)

QUALITY = "17"  # libx264's constant rate factor: no visible loss, so that edits can be judged
LARGEST_SIDE = 16384
LAYOUTS = {1: "mono", 2: "stereo", 3: "3.0", 4: "4.0", 5: "5.0", 6: "5.1", 8: "7.1"}
AAC_RATES = (96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000)
BT709, LIMITED = 1, 1  # the codes of H.273 for the colour matrix, and FFmpeg's for "tv" range


def to_pixels(images: Tensor, what: str) -> Tensor:
    """Check an IMAGE and return it as contiguous uint8 RGB frames `[F, H, W, 3]`.

    Grey (one channel) is repeated, alpha (a fourth channel) is dropped, values outside 0..1 are
    clipped, and values in between are rounded.

    Raises:
        ValueError: not `[F, H, W, C]` with 1, 3 or 4 channels, no frames, or NaN or infinity in it.
    """
    if images.ndim != 4 or images.shape[-1] not in (1, 3, 4):
        raise ValueError(f"{what} must be frames [F, H, W, 3], found shape {tuple(images.shape)}.")
    if 0 in images.shape:
        raise ValueError(f"{what} has no frames or no pixels (shape {tuple(images.shape)}).")
    pixels = torch.empty(*images.shape[:3], 3, dtype=torch.uint8)
    for index, frame in enumerate(images):
        values = frame[..., :3].detach().float().cpu()
        if not torch.isfinite(values).all():
            raise ValueError(
                f"{what} holds NaN or infinity, first in frame {index}; look at the node before."
            )
        pixels[index] = values.mul(255).round().clamp(0, 255).byte().expand(*values.shape[:2], 3)
    return pixels


def encode_mp4(components: VideoComponents, metadata: Mapping[str, object] | None = None) -> bytes:
    """The mp4 file of a clip.

    Args:
        metadata: entries to store in the container; values become JSON.

    Raises:
        ValueError: frames, frame rate or sound that an mp4 cannot hold.
    """
    pixels = to_pixels(components.images, "the video")
    rate = Fraction(components.frame_rate)
    if not 0 < rate <= 1000:
        raise ValueError(f"The frame rate must lie in (0, 1000], found {float(rate):g}.")
    height, width = pixels.shape[1:3]
    if max(height, width) > LARGEST_SIDE:
        raise ValueError(
            f"H.264 frames have at most {LARGEST_SIDE} pixels a side: {width}x{height}"
        )
    waveform, sample_rate = _sound(components, len(pixels), rate)
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4", options={"movflags": "use_metadata_tags"}) as output:
        for key, value in (metadata or {}).items():
            output.metadata[key] = json.dumps(value)
        # With its macroblock tree x264 gives, every now and then, other bits for the same frames.
        options = {"crf": QUALITY, "x264-params": "mbtree=0"}
        video = output.add_stream("libx264", rate=rate, options=options)
        video.width, video.height = width, height
        video.pix_fmt = _pixel_format(width, height)
        context = video.codec_context
        context.colorspace = context.color_primaries = context.color_trc = BT709
        context.color_range = LIMITED
        sound = None
        if waveform is not None:
            layout = LAYOUTS[waveform.shape[0]]
            sound = output.add_stream("aac", rate=sample_rate, layout=layout)
        for index, frame in enumerate(pixels):
            output.mux(video.encode(_video_frame(frame.numpy(), video.pix_fmt, index, rate)))
        output.mux(video.encode(None))
        if sound is not None:
            frame = av.AudioFrame.from_ndarray(waveform, format="fltp", layout=layout)
            frame.sample_rate, frame.pts = sample_rate, 0
            output.mux(sound.encode(frame))
            output.mux(sound.encode(None))
    return buffer.getvalue()


def _pixel_format(width: int, height: int) -> str:
    if width % 2 == 0 and height % 2 == 0:
        return "yuv420p"
    logger.warning(
        "Frames of odd size %dx%d are saved as yuv444p, which keeps every pixel but which some "
        "players cannot show; use even sizes for yuv420p.",
        width,
        height,
    )
    return "yuv444p"


def _video_frame(array: np.ndarray, pixel_format: str, index: int, rate: Fraction) -> av.VideoFrame:
    """One RGB frame in the encoder's format, in BT.709 as the stream is tagged."""
    frame = av.VideoFrame.from_ndarray(array, format="rgb24")
    frame = frame.reformat(format=pixel_format, dst_colorspace=BT709, dst_color_range=LIMITED)
    frame.pts, frame.time_base = index, 1 / rate
    return frame


def _sound(
    components: VideoComponents, frames: int, rate: Fraction
) -> tuple[np.ndarray | None, int]:
    """The sound as float32 `[channels, samples]`, no longer than the video, and its sample rate."""
    if components.audio is None:
        return None, 0
    waveform = components.audio["waveform"]
    sample_rate = int(components.audio["sample_rate"])
    if waveform.ndim != 3 or waveform.shape[1] not in LAYOUTS:
        raise ValueError(
            "The sound must be [1, channels, samples] with 1 to 6 or 8 channels, found shape "
            f"{tuple(waveform.shape)}."
        )
    if not torch.isfinite(waveform[0]).all():
        raise ValueError("The sound holds NaN or infinity.")
    if sample_rate <= 0:
        raise ValueError(f"The sample rate must be positive, found {sample_rate}.")
    length = math.ceil(frames / rate * sample_rate)
    track = waveform[0, :, :length].detach().float().cpu().contiguous().numpy()
    if track.shape[1] == 0:
        return None, 0
    return _at_aac_rate(track, sample_rate)


def _at_aac_rate(track: np.ndarray, sample_rate: int) -> tuple[np.ndarray, int]:
    """The track resampled to 48 kHz if AAC does not know its rate."""
    if sample_rate in AAC_RATES:
        return track, sample_rate
    logger.warning("AAC has no sample rate of %s Hz; saved at 48000.", printable(sample_rate))
    layout = LAYOUTS[track.shape[0]]
    frame = av.AudioFrame.from_ndarray(track, format="fltp", layout=layout)
    frame.sample_rate = sample_rate
    resampler = av.AudioResampler(format="fltp", layout=layout, rate=48000)
    pieces = [piece.to_ndarray() for part in (frame, None) for piece in resampler.resample(part)]
    return np.concatenate(pieces, axis=1), 48000
