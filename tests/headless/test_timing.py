"""Speed: declared rates are held against timestamps, and a variable rate keeps its times."""

import struct
from fractions import Fraction

import av
import numpy as np
import pytest
from rescore.headless.core_nodes import core_nodes
from rescore.headless.video import VideoComponents
from rescore.headless.video_read import read_video
from rescore.headless.video_write import encode_mp4

NTSC = Fraction(30000, 1001)


def write(path, times, *, declared=25, codec="libx264", options=None, clock=90000, format=None):
    """A clip whose frame k, of the grey level 10 k + 20, is shown at `times[k]` seconds."""
    with av.open(str(path), "w", format=format) as output:
        stream = output.add_stream(codec, rate=declared, options=options or {})
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = Fraction(1, clock)
        for index, time in enumerate(times):
            level = 20 + 10 * index % 230
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), level, np.uint8))
            frame.pts, frame.time_base = round(time * clock), Fraction(1, clock)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path


def evenly(rate, count=20) -> list[Fraction]:
    return [index / Fraction(rate) for index in range(count)]


def levels_of(video) -> list[int]:
    """The grey level of each frame, to the nearest ten."""
    return [round(float(level) / 10) * 10 for level in 255 * video.images.mean((1, 2, 3))]


RISING = [20 + 10 * index for index in range(20)]


@pytest.mark.parametrize("suffix", ["mkv", "mp4", "ts", "flv"])
@pytest.mark.parametrize(
    ("declared", "true"),
    [(25, Fraction(25, 2)), (30, 24), (24, NTSC), (NTSC, 60), (60, Fraction(24000, 1001))],
)
def test_a_declared_rate_that_lies(tmp_path, suffix, declared, true, caplog):
    path = write(tmp_path / f"clip.{suffix}", evenly(true), declared=declared)
    video = read_video(path)
    assert video.frame_rate == true and video.times is None
    assert levels_of(video) == RISING and "variable" not in caplog.text


def stretch_the_last_frame(path, ticks):
    """Give the last sample of an mp4 a duration of its own, in its table of durations."""
    data = bytearray(path.read_bytes())
    place = data.index(b"stts")
    runs, count, duration = struct.unpack(">III", data[place + 8 : place + 20])
    assert runs == 1
    # The same size, two runs: the table is moved into the free box that is made room for.
    table = struct.pack(">IIIII", 2, count - 1, duration, 1, ticks)
    grown = data[: place + 8] + table + data[place + 20 :]
    for box in (b"stts", b"stbl", b"minf", b"mdia", b"trak", b"moov"):
        at = grown.index(box) - 4
        grown[at : at + 4] = struct.pack(">I", struct.unpack(">I", grown[at : at + 4])[0] + 8)
    path.write_bytes(grown)


@pytest.mark.parametrize("count", [2, 30])
def test_a_held_last_frame_does_not_slow_the_others(tmp_path, count, caplog):
    times = evenly(30, count)
    path = write(tmp_path / "clip.mp4", times, declared=30, clock=30, options={"bf": "0"})
    with av.open(str(path)) as container:
        tick = container.streams.video[0].time_base
    stretch_the_last_frame(path, round(4 / tick))
    video = read_video(path)
    assert (len(video.images), video.frame_rate) == (count, 30)
    assert "holds its last frame for 4.0" in caplog.text


RAW = [("h264", "libx264"), ("hevc", "libx265"), ("mpeg2video", "mpeg2video"), ("m4v", "mpeg4")]


@pytest.mark.parametrize("rate", [10, 12, 24, NTSC, 50])
@pytest.mark.parametrize(("format", "codec"), RAW)
def test_a_raw_stream_runs_at_the_rate_its_codec_names(tmp_path, format, codec, rate):
    if codec in ("mpeg2video", "mpeg4") and rate in (10, 12):
        pytest.skip("not a rate of this codec")
    options = {"x265-params": "log-level=none"} if codec == "libx265" else {"b": "2M"}
    clock = Fraction(rate)
    path = tmp_path / f"clip.{format}"
    with av.open(str(path), "w", format=format) as output:
        stream = output.add_stream(codec, rate=clock, options=options)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        for index in range(20):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), RISING[index], np.uint8))
            frame.pts, frame.time_base = index, 1 / clock
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    video = read_video(path)
    assert video.frame_rate == rate and levels_of(video) == RISING


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
@pytest.mark.parametrize("b_frames", [1, 2, 3])
def test_b_frames_in_avi(tmp_path, codec, b_frames, caplog):
    options = {"bf": str(b_frames), "b": "2M"}
    path = write(
        tmp_path / "clip.avi", evenly(10), declared=10, codec=codec, clock=10, options=options
    )
    video = read_video(path)
    assert video.frame_rate == 10 and video.times is None
    assert levels_of(video) == RISING and "variable" not in caplog.text


def test_a_stream_that_does_not_say_its_speed(tmp_path, caplog):
    path = tmp_path / "clip.mjpeg"
    with av.open(str(path), "w", format="mjpeg") as output:
        stream = output.add_stream("mjpeg", rate=15)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuvj420p"
        for index in range(5):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), RISING[index], np.uint8))
            frame.pts, frame.time_base = index, Fraction(1, 15)
            output.mux(stream.encode(frame))
    assert read_video(path).frame_rate == 25
    assert "does not say how fast it runs; 25 fps are assumed" in caplog.text


@pytest.mark.parametrize("rate", [NTSC, 2 * NTSC, Fraction(24000, 1001), 30, 60])
@pytest.mark.parametrize("count", [20, 60])
def test_milliseconds_do_not_blur_the_rate(tmp_path, rate, count):
    path = write(tmp_path / "clip.flv", evenly(rate, count), declared=rate)
    video = read_video(path)
    assert video.frame_rate == rate and video.times is None


def test_frames_that_are_shown_again_are_held(tmp_path, caplog):
    """An AVI whose frames come 3, 1, 1 and 4 ticks apart; the ticks between are empty."""
    times = [Fraction(n, 25) for n in (0, 3, 4, 5, 9)]
    path = write(tmp_path / "clip.avi", times, codec="mpeg4", clock=25)
    video = read_video(path)
    assert video.times == tuple(times) and "cut off" not in caplog.text


UNEVEN = [Fraction(n, 24) for n in (0, 1, 2, 10, 11, 30)]


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
def test_a_variable_rate_keeps_its_times(tmp_path, suffix, caplog):
    video = read_video(write(tmp_path / f"clip.{suffix}", UNEVEN, declared=24))
    assert video.frame_rate == 4  # five gaps in 30/24 of a second
    assert "variable frame rate, in the mean 4.000 fps" in caplog.text
    (tmp_path / "saved.mp4").write_bytes(encode_mp4(video))
    back = read_video(tmp_path / "saved.mp4")
    for one in (video, back):
        assert [float(time) for time in one.times] == pytest.approx(
            [float(time) for time in UNEVEN], abs=0.001
        )


def test_a_rate_that_only_trembles_is_constant(tmp_path, caplog):
    shake = np.random.default_rng(0).integers(-4, 5, 20)  # milliseconds
    times = [time + Fraction(int(s), 1000) for time, s in zip(evenly(25), shake, strict=True)]
    times[0], times[-1] = evenly(25)[0], evenly(25)[-1]
    video = read_video(write(tmp_path / "clip.mkv", times))
    assert (video.frame_rate, video.times) == (25, None) and "variable" not in caplog.text


def test_times_travel_with_the_rate_through_the_graph(folders, caplog):
    """Edited frame by frame, a clip is timed as it was; with other frames it comes evenly."""
    write(folders.inputs[0] / "clip.mp4", UNEVEN, declared=24)
    nodes = core_nodes(folders)
    (video,) = nodes["LoadVideo"]().load("clip.mp4")
    images, _, fps, *_ = nodes["GetVideoComponents"]().split(video)
    (made,) = nodes["CreateVideo"]().create(1 - images, fps)
    assert made.get_components().times == tuple(UNEVEN)
    (cut,) = nodes["CreateVideo"]().create(images[:3], fps)
    assert cut.get_components().times is None and cut.get_components().frame_rate == 4
    assert "had 6 frames at a variable rate and now has 3: they come evenly" in caplog.text


@pytest.mark.parametrize("times", [None, tuple(UNEVEN)])
def test_sound_lasts_as_long_as_the_frames(tmp_path, times):
    import torch

    audio = {"waveform": torch.rand(1, 1, 5 * 8000) - 0.5, "sample_rate": 8000}
    clip = VideoComponents(torch.zeros(6, 16, 16, 3), Fraction(4), audio, times)
    (tmp_path / "clip.mp4").write_bytes(encode_mp4(clip))
    sound = read_video(tmp_path / "clip.mp4").audio["waveform"]
    assert sound.shape[2] / 8000 == pytest.approx(1.5, abs=0.15)  # AAC ends with a whole block
