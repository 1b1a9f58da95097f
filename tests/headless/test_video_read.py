"""Decoding: exact frames, rate and sound of real files, and one sentence for what is no video."""

import logging
import os
import re
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
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
    with pytest.raises(ValueError, match=rf"'{name}' is not a video that can be read"):
        read_video(tmp_path / name)


def write_noise(path, write_clip, frames=40, **options) -> bytes:
    """A clip of noise, in which no packet is small; its bytes."""
    noise = np.random.default_rng(0).integers(0, 256, (frames, 48, 64, 3), dtype=np.uint8)
    return write_clip(path, noise, **options).read_bytes()


FASTSTART, FRAGMENTS = {"movflags": "faststart"}, {"movflags": "frag_keyframe+empty_moov"}
CUT = {
    "a.mp4": ({"container": FASTSTART}, "ends at .* its header says 1.67 s: it is cut off"),
    "b.mp4": ({"container": FRAGMENTS, "options": {"g": "5"}}, "damaged and skipped"),
    "a.mkv": ({}, r"ends at \d.\d\d s, its header says 1.67 s: it is cut off"),
    "a.webm": ({"codec": "libvpx"}, r"ends at \d.\d\d s, its header says 1.67 s: it is cut off"),
    "a.avi": ({"codec": "mpeg4"}, "ends at .* its header says .* cut off"),
    "a.flv": ({"codec": "libx264"}, "damaged and skipped"),
    "a.ts": ({}, "damaged and only guessed at"),
}


@pytest.mark.parametrize("name", CUT)
def test_what_a_cut_file_has_is_read_and_the_loss_is_said(tmp_path, write_clip, name, caplog):
    options, said = CUT[name]
    data = write_noise(tmp_path / name, write_clip, **options)
    whole = read_video(tmp_path / name).images
    assert len(whole) == 40 and caplog.text == ""
    (tmp_path / name).write_bytes(data[: len(data) * 6 // 10])
    images = read_video(tmp_path / name).images
    assert 15 <= len(images) < 40 and images[:15].equal(whole[:15])
    assert re.search(said, caplog.text)


SILENT = {
    "a.gif": ("gif", "rgb8"),
    "a.y4m": ("wrapped_avframe", "yuv420p"),
    "a.mjpeg": ("mjpeg", "yuvj444p"),
    "a.nut": ("mpeg4", "yuv420p"),
    "a.ogv": ("libvpx", "yuv420p"),
    "a.ts": ("mpeg2video", "yuv420p"),
}


@pytest.mark.parametrize("share", [0.5, 0.75, 0.97])
@pytest.mark.parametrize("name", SILENT)
def test_a_cut_is_told_by_the_end_that_is_missing(tmp_path, write_clip, name, share, caplog):
    codec, pix_fmt = SILENT[name]
    data = write_noise(tmp_path / name, write_clip, frames=20, codec=codec, pix_fmt=pix_fmt)
    said = "does not end as such files do: it may be cut off"
    read_video(tmp_path / name)
    assert said not in caplog.text
    (tmp_path / name).write_bytes(data[: round(len(data) * share) | 1])
    assert len(read_video(tmp_path / name).images) <= 20 and said in caplog.text


def test_damaged_packets_are_skipped_as_players_do(tmp_path, write_clip, caplog):
    path = tmp_path / "a.mp4"
    data = bytearray(write_noise(path, write_clip, options={"g": "1"}))
    whole = read_video(path).images
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    for packet in packets[7:9]:
        data[packet.pos : packet.pos + packet.size] = bytes(packet.size)
    path.write_bytes(data)
    video = read_video(path)
    kept = [k for k in range(40) if k not in (7, 8)]
    assert video.images.equal(whole[kept])
    assert [float(24 * time) for time in video.times] == pytest.approx(kept, abs=0.01)
    assert "2 packet(s) are damaged and skipped" in caplog.text


def test_a_file_of_nothing_but_damage(tmp_path, write_clip):
    path = tmp_path / "a.mp4"
    data = bytearray(write_noise(path, write_clip, container=FASTSTART))
    start = data.index(b"mdat") + 4
    data[start:] = bytes(len(data) - start)
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"'a\.mp4' holds no frames: all of it is damaged"):
        read_video(path)


def test_cut_before_its_index_is_no_video(tmp_path, write_clip, smooth_frames):
    path = write_clip(tmp_path / "clip.mp4", smooth_frames(9, 32, 32))
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(ValueError, match="is not a video that can be read"):
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


def song(path, *, codec="aac", cover=False, rate=44100):
    """A tone, with or without a cover picture."""
    packets = []
    with av.open(str(path), "w", format="mp4" if path.suffix == ".m4a" else None) as output:
        stream = output.add_stream(codec, rate=rate, layout="mono")
        if cover:
            picture = output.add_stream("png", rate=1)
            picture.width = picture.height = 32
            picture.pix_fmt = "rgb24"
            picture.disposition = av.stream.Disposition.attached_pic
            frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8))
            packets += [*picture.encode(frame), *picture.encode(None)]
        wave = np.sin(np.arange(rate // 2) / 9).astype(np.float32)[None]
        frame = av.AudioFrame.from_ndarray(wave, format="fltp", layout="mono")
        frame.sample_rate, frame.pts = rate, 0
        output.mux([*packets, *stream.encode(frame), *stream.encode(None)])
    return path


SONGS = {"a.m4a": "aac", "a.mp4": "aac", "a.mp3": "libmp3lame", "a.flac": "flac"}


@pytest.mark.parametrize("name", SONGS)
def test_a_song_with_a_cover(tmp_path, name):
    path = song(tmp_path / name, codec=SONGS[name], cover=True)
    with pytest.raises(ValueError, match=f"'{name}' has no video, only sound and a cover picture"):
        read_video(path)


@pytest.mark.parametrize(
    ("name", "codec"), [*SONGS.items(), ("a.wav", "pcm_s16le"), ("a.ogg", "flac"), ("a.aac", "aac")]
)
def test_sound_alone_is_no_video(tmp_path, name, codec):
    with pytest.raises(ValueError, match=f"'{name}' has no video stream, only audio"):
        read_video(song(tmp_path / name, codec=codec))


@pytest.mark.parametrize("opaque", [True, False])
def test_animated_webp_is_for_load_image(tmp_path, opaque):
    pages = [Image.new("RGB" if opaque else "RGBA", (16, 9), one) for one in ("red", "lime")]
    pages[0].save(tmp_path / "a.webp", save_all=True, append_images=pages[1:], duration=100)
    with pytest.raises(ValueError, match="is an animated WebP picture; Load Image reads it"):
        read_video(tmp_path / "a.webp")
    pages[0].save(tmp_path / "still.webp")
    assert read_video(tmp_path / "still.webp").images.shape == (1, 9, 16, 3)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp"])
def test_a_picture_is_a_clip_of_one_frame(tmp_path, name, monkeypatch):
    Image.new("RGB", (16, 8), (0, 0, 255)).save(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    video = read_video(Path(name))
    assert video.images.shape == (1, 8, 16, 3) and video.images[0, 0, 0].round().tolist() == [
        0,
        0,
        1,
    ]


NAMES = ["a:b.mp4", "file,x|y.mp4", "%d.mp4", "new\nline.mp4", "caf\u00e9.mp4"]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such names")
@pytest.mark.parametrize("name", [*NAMES, os.fsdecode(b"\xc4\xe3.mp4")])
def test_any_file_name(tmp_path, write_clip, smooth_frames, name, monkeypatch):
    write_clip(tmp_path / "a.mp4", smooth_frames(3, 16, 16)).rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert len(read_video(Path(name)).images) == 3


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_tags_that_are_not_utf_8_are_no_hindrance(tmp_path, write_clip, smooth_frames, name):
    path = write_clip(tmp_path / name, smooth_frames(5, 16, 16), tags={"title": "TITLE-TITLE"})
    data = path.read_bytes()
    assert b"TITLE-TITLE" in data
    path.write_bytes(data.replace(b"TITLE-TITLE", "\u5e8a\u524d\u660e\u6708!!!".encode("gbk")))
    assert len(read_video(path).images) == 5


def test_the_default_picture_comes_before_the_first(tmp_path):
    with av.open(str(tmp_path / "a.mkv"), "w") as output:
        streams = [output.add_stream("ffv1", rate=10) for _ in range(2)]
        for stream, mark in zip(streams, (0, 1), strict=True):
            stream.width, stream.height, stream.pix_fmt = 16, 16, "bgr0"
            stream.disposition = av.stream.Disposition(mark)
        for stream, level in zip(streams, (50, 200), strict=True):
            frame = av.VideoFrame.from_ndarray(np.full((16, 16, 3), level, np.uint8))
            output.mux(stream.encode(frame.reformat(format="bgr0")))
        for stream in streams:
            output.mux(stream.encode(None))
    assert read_video(tmp_path / "a.mkv").images.unique().tolist() == [pytest.approx(200 / 255)]


def test_a_clip_larger_than_memory_is_refused_before_it_is_decoded(
    tmp_path, write_clip, smooth_frames, monkeypatch
):
    path = write_clip(tmp_path / "clip.mp4", smooth_frames(40, 32, 48))
    one_frame = 32 * 48 * 3 * (1 + 4)  # uint8 as decoded, float32 as used
    monkeypatch.setattr(video_read, "available_memory", lambda: 39 * one_frame)
    with pytest.raises(ValueError, match=r"does not fit the memory: 40 frames of 48x32"):
        read_video(path)
    monkeypatch.setattr(video_read, "available_memory", lambda: 40 * one_frame)
    assert len(read_video(path).images) == 40


def test_gif(tmp_path, caplog):
    pages = [Image.new("RGB", (15, 9), colour) for colour in ("red", "lime", "blue")]
    pages[0].save(tmp_path / "a.gif", save_all=True, append_images=pages[1:], duration=100)
    caplog.set_level(logging.INFO)
    video = read_video(tmp_path / "a.gif")
    assert video.images[:, 4, 7].tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
    assert video.frame_rate == 10
