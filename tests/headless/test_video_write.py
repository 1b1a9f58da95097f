"""Encoding: what is written is read back with the same size, count, rate, colours and sound."""

import io
import json
from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from rescore.headless.video import VideoComponents
from rescore.headless.video_read import read_video
from rescore.headless.video_write import encode_mp4, to_pixels


def images_of(frames: np.ndarray) -> torch.Tensor:
    """8-bit frames as an IMAGE."""
    return torch.from_numpy(frames).float() / 255


def round_trip(tmp_path, components: VideoComponents, **options) -> VideoComponents:
    """Encode, write, read."""
    path = tmp_path / "clip.mp4"
    path.write_bytes(encode_mp4(components, **options))
    return read_video(path)


@pytest.mark.parametrize(
    ("height", "width"), [(48, 64), (47, 64), (48, 63), (17, 33), (2, 2), (1, 1)]
)
def test_size_and_count_survive_whatever_their_parity(
    tmp_path, smooth_frames, height, width, caplog
):
    frames = images_of(smooth_frames(7, height, width))
    back = round_trip(tmp_path, VideoComponents(frames, Fraction(24)))
    assert back.images.shape == frames.shape
    if min(height, width) > 2:  # of 2x2 pixels, yuv420p keeps one colour
        assert (back.images - frames).abs().mean() < 0.02
    odd = bool(height % 2 or width % 2)
    assert ("yuv444p" in caplog.text) == odd
    with av.open(str(tmp_path / "clip.mp4")) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264"
        assert stream.codec_context.pix_fmt == ("yuv444p" if odd else "yuv420p")


@pytest.mark.parametrize(
    "rate",
    [Fraction(24), Fraction(30000, 1001), Fraction(24000, 1001), Fraction(25, 3), Fraction(1)],
)
def test_the_rate_survives_exactly(tmp_path, smooth_frames, rate):
    frames = images_of(smooth_frames(5, 16, 16))
    assert round_trip(tmp_path, VideoComponents(frames, rate)).frame_rate == rate


@pytest.mark.parametrize("colour", [(255, 0, 0), (0, 255, 0), (0, 0, 255), (13, 130, 200)])
def test_flat_colours_survive(tmp_path, colour):
    frames = torch.tensor(colour, dtype=torch.float32).div(255).expand(3, 16, 16, 3)
    back = round_trip(tmp_path, VideoComponents(frames, Fraction(24)))
    assert (back.images - frames).abs().max() <= 3 / 255


@pytest.mark.parametrize("channels", [1, 2, 6])
@pytest.mark.parametrize("rate", [16000, 44100])
def test_sound_survives(tmp_path, smooth_frames, tone, channels, rate):
    wave = tone(1.0, rate, channels)
    audio = {"waveform": torch.from_numpy(wave)[None], "sample_rate": rate}
    video = VideoComponents(images_of(smooth_frames(24, 16, 16)), Fraction(24), audio)
    back = round_trip(tmp_path, video).audio
    assert back["sample_rate"] == rate
    assert back["waveform"].shape[:2] == (1, channels)
    assert abs(back["waveform"].shape[2] - rate) <= 1024
    middle = slice(4096, 12288)
    read = back["waveform"][0, :, middle].numpy()
    for channel in range(channels):
        if channel != 3:  # the fourth of 5.1 is the bass channel: AAC cuts it off
            assert np.corrcoef(read[channel], wave[channel, middle])[0, 1] > 0.99


def test_sound_is_cut_to_the_video_and_resampled_where_aac_must(
    tmp_path, smooth_frames, tone, caplog
):
    audio = {"waveform": torch.from_numpy(tone(3.0, 10007, 1))[None], "sample_rate": 10007}
    video = VideoComponents(images_of(smooth_frames(12, 16, 16)), Fraction(24), audio)
    back = round_trip(tmp_path, video).audio
    assert back["sample_rate"] == 48000 and "10007" in caplog.text
    assert abs(back["waveform"].shape[2] - 24000) <= 2048


def test_an_empty_track_is_no_sound(tmp_path, smooth_frames):
    audio = {"waveform": torch.zeros(1, 2, 0), "sample_rate": 44100}
    video = VideoComponents(images_of(smooth_frames(2, 16, 16)), Fraction(24), audio)
    assert round_trip(tmp_path, video).audio is None


def test_metadata_is_json_in_the_container(smooth_frames):
    video = VideoComponents(images_of(smooth_frames(2, 16, 16)), Fraction(24))
    prompt = {"1": {"class_type": "LoadVideo", "inputs": {"file": "a.mp4"}}}
    with av.open(io.BytesIO(encode_mp4(video, {"prompt": prompt}))) as container:
        assert json.loads(container.metadata["prompt"]) == prompt


def test_encoding_is_deterministic(smooth_frames):
    video = VideoComponents(images_of(smooth_frames(5, 32, 32)), Fraction(24))
    assert encode_mp4(video) == encode_mp4(video)


def test_inference_tensors_are_taken(smooth_frames):
    with torch.inference_mode():
        images = images_of(smooth_frames(2, 16, 16)) * 1.0
    assert encode_mp4(VideoComponents(images, Fraction(24)))


def test_pixels_are_rounded_and_clipped():
    values = torch.tensor([-1.0, 0.0, 0.4 / 255, 0.6 / 255, 254.6 / 255, 1.0, 7.0])
    pixels = to_pixels(values.reshape(1, 1, 7, 1), "the image")
    assert pixels.shape == (1, 1, 7, 3) and pixels.dtype == torch.uint8
    assert pixels[0, 0, :, 0].tolist() == [0, 0, 0, 1, 255, 255, 255]
    assert pixels[0, 0, :, 0].equal(pixels[0, 0, :, 2])


def test_every_8_bit_value_survives_the_way_through_float():
    levels = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16, 1).expand(1, 16, 16, 3)
    assert to_pixels(levels.float() / 255, "the image").equal(levels)


def test_alpha_is_dropped():
    rgba = torch.rand(2, 3, 5, 4)
    assert to_pixels(rgba, "the image").equal(to_pixels(rgba[..., :3], "the image"))


@pytest.mark.parametrize(
    ("images", "sentence"),
    [
        (torch.zeros(0, 8, 8, 3), "no frames or no pixels"),
        (torch.zeros(1, 0, 8, 3), "no frames or no pixels"),
        (torch.zeros(8, 8, 3), r"must be frames \[F, H, W, 3\], found shape \(8, 8, 3\)"),
        (torch.zeros(1, 8, 8, 5), "must be frames"),
        (torch.full((3, 2, 2, 3), float("nan")), "NaN or infinity, first in frame 0"),
        (torch.full((3, 2, 2, 3), float("inf")), "NaN or infinity"),
    ],
)
def test_frames_that_cannot_be_saved(images, sentence):
    with pytest.raises(ValueError, match=sentence):
        encode_mp4(VideoComponents(images, Fraction(24)))


@pytest.mark.parametrize(
    ("rate", "audio", "sentence"),
    [
        (Fraction(0), None, "frame rate must lie in"),
        (Fraction(5000), None, "frame rate must lie in"),
        (Fraction(24), {"waveform": torch.zeros(1, 0, 99), "sample_rate": 44100}, "channels"),
        (Fraction(24), {"waveform": torch.zeros(2, 99), "sample_rate": 44100}, "channels"),
        (
            Fraction(24),
            {"waveform": torch.full((1, 1, 9), float("nan")), "sample_rate": 8000},
            "NaN",
        ),
        (Fraction(24), {"waveform": torch.zeros(1, 1, 99), "sample_rate": 0}, "sample rate"),
    ],
)
def test_rates_and_sounds_that_cannot_be_saved(rate, audio, sentence):
    with pytest.raises(ValueError, match=sentence):
        encode_mp4(VideoComponents(torch.zeros(2, 8, 8, 3), rate, audio))
