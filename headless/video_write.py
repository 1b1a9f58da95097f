"""Encoding frames and sound as an mp4 in memory: H.264 and AAC, exact size, count and timing.

Encoding happens in memory (a clip is small beside its float frames), so a run that is stopped has
written nothing. Frames of even size are stored as yuv420p, which plays everywhere. That format
cannot hold an odd width or height, so such frames are stored as yuv444p: every pixel is kept and
none invented, at the price that some hardware and browser players will not show the file.
"""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Mapping
from fractions import Fraction

import av
import torch
from torch import Tensor

from .pictures import Scaler
from .sound import sound_frame
from .video import VideoComponents

logger = logging.getLogger(__name__)

QUALITY = 17.0  # libx264's constant rate factor: no visible loss, so that edits can be judged
LARGEST_CRF = 51.0
LARGEST_SIDE = 16384
AAC_RATES = (96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000)
BT709, LIMITED = 1, 1  # the codes of H.273 for the colour matrix, and FFmpeg's for "tv" range
CLOCK = Fraction(1, 90000)  # the unit of time of clips whose frames come unevenly


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


def encode_mp4(
    components: VideoComponents,
    metadata: Mapping[str, object] | None = None,
    crf: float = QUALITY,
) -> bytes:
    """The mp4 file of a clip.

    Args:
        metadata: entries to store in the container; values become JSON.
        crf: the constant rate factor, 0 (lossless) to 51.

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
    times = components.times or [index / rate for index in range(len(pixels))]
    end = times[-1] + 1 / rate
    sound = components.audio and sound_frame(components.audio, end)
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4", options={"movflags": "use_metadata_tags"}) as output:
        for key, value in (metadata or {}).items():
            output.metadata[key] = json.dumps(value)
        # With its macroblock tree x264 gives, every now and then, other bits for the same frames.
        options = {"crf": str(crf), "x264-params": "mbtree=0"}
        video = output.add_stream("libx264", rate=rate, options=options)
        video.width, video.height = width, height
        video.pix_fmt = _pixel_format(width, height)
        context = video.codec_context
        context.colorspace = context.color_primaries = context.color_trc = BT709
        context.color_range = LIMITED
        context.time_base = CLOCK if components.times else 1 / rate
        track = sound and output.add_stream(
            "aac", rate=_aac_rate(sound.sample_rate), layout=sound.layout
        )
        convert = Scaler(("out_color_matrix=bt709:out_range=tv", video.pix_fmt))
        for frame, begin, stop in zip(pixels, times, [*times[1:], end], strict=True):
            picture = convert(av.VideoFrame.from_ndarray(frame.numpy(), format="rgb24"))
            picture.time_base = context.time_base
            picture.pts = round(begin / context.time_base)
            picture.duration = round((stop - begin) / context.time_base)
            output.mux(video.encode(picture))
        output.mux(video.encode(None))
        if track:
            output.mux(track.encode(sound))
            output.mux(track.encode(None))
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


def _aac_rate(rate: int) -> int:
    """The rate itself, or 48000 if AAC does not know it; PyAV's encoder resamples."""
    if rate in AAC_RATES:
        return rate
    logger.warning("AAC has no sample rate of %d Hz; saved at 48000.", rate)
    return 48000
