"""Decoding: exact frames, rate and sound of real files, and one sentence for what is no video."""

import logging
import struct
from fractions import Fraction

import av
import numpy as np
import pytest
from rescore.headless import video_read
from rescore.headless.video_read import read_video

LOSSLESS = {"crf": "0"}  # with libx264 and yuv444p only the colour conversion rounds
ROUNDING = 2.5 / 255


def as_float(frames: np.ndarray) -> np.ndarray:
    """8-bit frames in 0..1."""
    return frames.astype(np.float32) / 255


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt", "options", "tolerance"),
    [
        ("clip.mp4", "libx264", "yuv444p", LOSSLESS, ROUNDING),
        ("clip.mkv", "ffv1", "bgr0", {}, 0),
        ("clip.mov", "qtrle", "rgb24", {}, 0),
        ("clip.mov", "png", "rgb24", {}, 0),
        # neighbouring frames differ by 13/255 in blue: a lossy codec must stay below that
        ("clip.avi", "mjpeg", "yuvj444p", {"qmin": "1", "qmax": "1"}, 8 / 255),
        ("clip.webm", "libvpx-vp9", "yuv444p", {"crf": "4", "b": "0"}, 8 / 255),
    ],
)
def test_frames_come_in_order_and_complete(
    tmp_path, write_clip, smooth_frames, name, codec, pix_fmt, options, tolerance
):
    frames = smooth_frames(13, 35, 53)
    path = write_clip(tmp_path / name, frames, codec=codec, pix_fmt=pix_fmt, options=options)
    images = read_video(path).images
    assert images.shape == (13, 35, 53, 3)
    assert np.abs(images.numpy() - as_float(frames)).max() <= tolerance


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov"])
@pytest.mark.parametrize(
    "rate", [Fraction(24), Fraction(30000, 1001), Fraction(25, 2), Fraction(24000, 1001)]
)
def test_the_frame_rate_is_an_exact_fraction(tmp_path, write_clip, smooth_frames, rate, suffix):
    path = write_clip(tmp_path / f"clip{suffix}", smooth_frames(7, 16, 16), rate=rate)
    assert read_video(path).frame_rate == rate


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_variable_rate_keeps_every_frame_and_says_the_mean(
    tmp_path, write_clip, smooth_frames, caplog, suffix
):
    frames = smooth_frames(6, 16, 16)
    ticks = [0, 1, 2, 10, 11, 30]
    path = write_clip(
        tmp_path / f"clip{suffix}", frames, ticks=ticks, pix_fmt="yuv444p", options=LOSSLESS
    )
    video = read_video(path)
    assert np.abs(video.images.numpy() - as_float(frames)).max() <= ROUNDING
    assert video.frame_rate == 4  # five gaps in 30/24 of a second
    assert "variable frame rate" in caplog.text and "4.000 fps" in caplog.text


def test_steady_clips_are_not_called_variable(tmp_path, write_clip, smooth_frames, caplog):
    # Matroska rounds times to milliseconds: gaps of 33 and 34 are still 29.97 fps
    read_video(
        write_clip(tmp_path / "a.mkv", smooth_frames(31, 16, 16), rate=Fraction(30000, 1001))
    )
    read_video(write_clip(tmp_path / "b.mkv", smooth_frames(31, 16, 16), rate=Fraction(120)))
    assert "variable" not in caplog.text


def test_one_frame(tmp_path, write_clip, smooth_frames):
    video = read_video(write_clip(tmp_path / "clip.mp4", smooth_frames(1, 16, 16)))
    assert video.images.shape == (1, 16, 16, 3) and video.frame_rate == 24


def test_ten_bits_keep_their_precision(tmp_path, write_clip):
    # a ramp of 64 levels between two neighbouring 8-bit values would collapse if read as 8 bits
    ramp = (32768 + np.arange(64, dtype=np.uint16) * 16)[None, None, :, None]
    frames = np.broadcast_to(ramp, (3, 8, 64, 3)).copy()
    path = write_clip(
        tmp_path / "clip.mkv", frames, codec="ffv1", pix_fmt="gbrp10le", source_format="rgb48le"
    )
    images = read_video(path).images.numpy()
    assert np.abs(images - frames / 65535).max() <= 1 / 1023
    assert len(np.unique(images)) == 16  # 1024 sixteen-bit steps are 16 ten-bit ones


@pytest.mark.parametrize("pix_fmt", ["yuv420p10le", "yuv422p10le"])
def test_ten_bit_yuv(tmp_path, write_clip, smooth_frames, pix_fmt):
    frames = smooth_frames(3, 16, 32)
    path = write_clip(tmp_path / "clip.mp4", frames, pix_fmt=pix_fmt, options=LOSSLESS)
    images = read_video(path).images.numpy()
    assert images.shape == (3, 16, 32, 3)
    assert np.abs(images - as_float(frames)).mean() < 3 / 255


@pytest.mark.parametrize("pix_fmt", ["gray", "gray10le"])
def test_grey_becomes_three_equal_channels(tmp_path, write_clip, smooth_frames, pix_fmt):
    path = write_clip(
        tmp_path / "clip.mkv", smooth_frames(3, 11, 17), codec="ffv1", pix_fmt=pix_fmt
    )
    images = read_video(path).images
    assert images.shape == (3, 11, 17, 3)
    assert (images[..., 0] - images[..., 1]).abs().max() <= 1 / 255
    assert images[..., 0].std() > 0.05


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt"),
    [("a.mov", "qtrle", "argb"), ("a.mov", "png", "rgba"), ("a.webm", "libvpx-vp9", "yuva420p")],
)
def test_alpha_is_dropped_and_said(
    tmp_path, write_clip, smooth_frames, caplog, name, codec, pix_fmt
):
    colour = smooth_frames(3, 18, 26)
    alpha = np.full((3, 18, 26, 1), 128, np.uint8)
    path = write_clip(
        tmp_path / name,
        np.concatenate([colour, alpha], axis=-1),
        codec=codec,
        pix_fmt=pix_fmt,
        source_format="rgba",
    )
    images = read_video(path).images.numpy()
    assert images.shape == (3, 18, 26, 3)
    assert np.abs(images - as_float(colour)).mean() <= (0.02 if "webm" in name else 0)
    assert "alpha channel, which is dropped" in caplog.text


def turn_upright_matrix(path, matrix):
    """Write a rotation into the track header of an mp4 by hand, as a phone does."""
    data = bytearray(path.read_bytes())
    start = data.index(b"tkhd") + 4
    assert data[start] == 0  # version 0: the matrix stands 40 bytes in
    data[start + 40 : start + 76] = struct.pack(">9i", *matrix)
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("matrix", "turn"),
    [
        # (x, y) -> (-y, x) with y downwards: a quarter turn clockwise
        ((0, 1, 0, -1, 0, 0, 0, 0, 0x4000), lambda a: np.rot90(a, -1, axes=(1, 2))),
        ((0, -1, 0, 1, 0, 0, 0, 0, 0x4000), lambda a: np.rot90(a, 1, axes=(1, 2))),
        ((-1, 0, 0, 0, -1, 0, 0, 0, 0x4000), lambda a: np.rot90(a, 2, axes=(1, 2))),
        ((1, 0, 0, 0, 1, 0, 0, 0, 0x4000), lambda a: a),
    ],
    ids=["clockwise", "anticlockwise", "upside-down", "upright"],
)
def test_rotation_metadata_is_applied(tmp_path, write_clip, smooth_frames, matrix, turn):
    frames = smooth_frames(3, 16, 26)
    path = write_clip(tmp_path / "clip.mp4", frames, pix_fmt="yuv444p", options=LOSSLESS)
    turn_upright_matrix(path, [value << 16 for value in matrix])
    images = read_video(path).images.numpy()
    expected = as_float(turn(frames))
    assert images.shape == expected.shape
    assert np.abs(images - expected).max() <= ROUNDING


def test_colour_tags_are_heeded(tmp_path):
    # the same red, stored by BT.709 and tagged so, must not come back as BT.601 orange
    path = tmp_path / "clip.mp4"
    red = np.broadcast_to(np.array([230, 40, 30], np.uint8), (16, 16, 3)).copy()
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=24, options=LOSSLESS)
        stream.width = stream.height = 16
        stream.pix_fmt = "yuv444p"
        stream.codec_context.colorspace = 1
        frame = av.VideoFrame.from_ndarray(red, format="rgb24")
        output.mux(stream.encode(frame.reformat(format="yuv444p", dst_colorspace="ITU709")))
        output.mux(stream.encode(None))
    image = read_video(path).images[0].numpy()
    assert np.abs(image - as_float(red)).max() <= ROUNDING


@pytest.mark.parametrize("channels", [1, 2])
def test_sound_keeps_channels_rate_and_samples(tmp_path, write_clip, smooth_frames, tone, channels):
    wave = tone(1.0, 22050, channels)
    path = write_clip(tmp_path / "clip.mp4", smooth_frames(24, 16, 16), sound=(wave, 22050))
    audio = read_video(path).audio
    assert audio["sample_rate"] == 22050
    waveform = audio["waveform"].numpy()
    assert waveform.dtype == np.float32 and waveform.shape[:2] == (1, channels)
    assert abs(waveform.shape[2] - 22050) <= 1024  # AAC works in blocks of 1024
    middle = slice(4096, 16384)
    for channel in range(channels):
        assert np.corrcoef(waveform[0, channel, middle], wave[channel, middle])[0, 1] > 0.99


def test_integer_sound_becomes_float(tmp_path, write_clip, smooth_frames, tone):
    wave = tone(0.5, 8000, 2)
    path = write_clip(
        tmp_path / "clip.mov", smooth_frames(5, 16, 16), sound=(wave, 8000), sound_codec="pcm_s16le"
    )
    waveform = read_video(path).audio["waveform"][0].numpy()
    assert waveform.shape == wave.shape
    assert np.abs(waveform - wave).max() <= 1 / 32768


def test_no_sound_is_none(tmp_path, write_clip, smooth_frames):
    assert read_video(write_clip(tmp_path / "clip.mp4", smooth_frames(2, 16, 16))).audio is None


HOSTILE = {
    "text.mp4": b"this is no film\n" * 50,
    "empty.mp4": b"",
    "noise.mp4": bytes(range(256)) * 40,
    "playlist.mp4": b"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\ngood.mp4\n#EXT-X-ENDLIST\n",
    "playlist.m3u8": b"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\ngood.mp4\n#EXT-X-ENDLIST\n",
    "list.ffconcat": b"ffconcat version 1.0\nfile good.mp4\n",
    "art.ans": b"\x1b[31mhello\n" * 50,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_no_video_is_refused(tmp_path, write_clip, smooth_frames, name):
    write_clip(tmp_path / "good.mp4", smooth_frames(3, 16, 16))
    (tmp_path / name).write_bytes(HOSTILE[name])
    with pytest.raises(ValueError, match=rf"'{name}' is not a video this runner can read"):
        read_video(tmp_path / name)


def test_damaged_and_cut_files_say_how_far_they_go(tmp_path, write_clip):
    noise = np.random.default_rng(0).integers(0, 256, (20, 48, 64, 3), dtype=np.uint8)
    path = write_clip(tmp_path / "clip.mp4", noise, container={"movflags": "faststart"})
    data = path.read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: len(data) * 6 // 10])
    with pytest.raises(ValueError, match=r"'cut\.mp4' is damaged or cut off: .* frame \d+ of 20"):
        read_video(tmp_path / "cut.mp4")


def test_cut_before_its_index_is_no_video(tmp_path, write_clip, smooth_frames):
    path = write_clip(tmp_path / "clip.mp4", smooth_frames(9, 32, 32))
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(ValueError, match="is not a video this runner can read"):
        read_video(path)


def test_no_frames(tmp_path):
    path = tmp_path / "clip.mkv"
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=24)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        output.start_encoding()
    with pytest.raises(ValueError, match=r"'clip\.mkv' holds no frames"):
        read_video(path)


def test_sound_alone_is_no_video(tmp_path, tone):
    path = tmp_path / "song.mp4"
    wave = tone(0.5, 44100, 1)
    with av.open(str(path), "w") as output:
        stream = output.add_stream("aac", rate=44100, layout="mono")
        frame = av.AudioFrame.from_ndarray(wave, format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 44100, 0
        output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    with pytest.raises(ValueError, match="has no video stream, only audio"):
        read_video(path)


def test_a_clip_larger_than_memory_is_refused_before_it_is_decoded(
    tmp_path, write_clip, smooth_frames, monkeypatch
):
    path = write_clip(tmp_path / "clip.mp4", smooth_frames(40, 32, 48))
    one_frame = 32 * 48 * 3 * (2 + 4)
    monkeypatch.setattr(video_read, "available_memory", lambda: 39 * one_frame)
    with pytest.raises(ValueError, match=r"does not fit the memory: 40 frames of 48x32"):
        read_video(path)
    monkeypatch.setattr(video_read, "available_memory", lambda: 40 * one_frame)
    assert len(read_video(path).images) == 40


def test_gif(tmp_path, caplog):
    from PIL import Image

    pages = [Image.new("RGB", (15, 9), colour) for colour in ("red", "lime", "blue")]
    pages[0].save(tmp_path / "a.gif", save_all=True, append_images=pages[1:], duration=100)
    caplog.set_level(logging.INFO)
    video = read_video(tmp_path / "a.gif")
    assert video.images[:, 4, 7].tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
    assert video.frame_rate == 10
