"""Sound stays with the picture where containers do not say how they belong together."""

from fractions import Fraction
from pathlib import Path

import av
import pytest
from flash_and_click import RATE, TOLERANCE, click, flash_and_click, packed, write_with_sound
from rescore.headless.video_read import read_video

PACKET = 0.025  # seconds of sound at most
DATA = Path(__file__).with_name("data")


def flashing(path, codec, *, rate=RATE, fps=25, at=1, **options):
    """Two seconds with a flash and a click `at` one of them."""
    sound = codec, rate, "mono", [packed(click(2.0, at=at, rate=rate), "mono", rate)]
    return write_with_sound(
        path, [sound], frames=2 * fps, fps=fps, flash=round(at * fps), **options
    )


def copied(source, path, cut=Fraction(0), **options):
    """A copy of the packets from the key frame before `cut` on, the times moved to begin there."""
    with av.open(str(source)) as read, av.open(str(path), "w", options=options) as output:
        streams = [output.add_stream_from_template(stream) for stream in read.streams]
        packets = [packet for packet in read.demux() if packet.dts is not None]
        keys = [one for one in packets if one.stream.type == "video" and one.is_keyframe]
        key = [one for one in keys if one is keys[0] or one.pts * one.time_base <= cut][-1]
        first = key.pts * key.time_base
        for packet in packets:
            sound = packet.stream.type == "audio"
            if packet.pts * packet.time_base < first - PACKET if sound else packet.dts < key.dts:
                continue
            by = round(cut / packet.time_base)
            packet.pts, packet.dts = packet.pts - by, packet.dts - by
            packet.stream = streams[packet.stream.index]
            output.mux(packet)
    return path


def apart(path) -> float:
    flash, clicked = flash_and_click(read_video(path))
    return clicked - flash


BURSTS = (("bf", "2"), ("g", "10"))  # frames that are stored in another order, ten to a key frame
PRIMED = ["libmp3lame", "aac", "ac3", "mp2", "pcm_s16le", "flac"]


@pytest.mark.parametrize("fps", [10, 25, 30])
@pytest.mark.parametrize("codec", PRIMED)
def test_the_priming_that_an_avi_does_not_tell(tmp_path, codec, fps, caplog):
    path = flashing(tmp_path / "a.avi", codec, fps=fps, pictures="mpeg4", clock=fps)
    assert apart(path) == pytest.approx(0, abs=0.001)
    assert read_video(path).frame_rate == fps and caplog.text == ""


@pytest.mark.parametrize("name", ["dts.mkv", "dts.avi"])
def test_the_priming_of_dts_that_nothing_tells(name):
    """PyAV cannot write DTS. At 8000 Hz its 512 samples last 64 ms."""
    assert apart(DATA / name) == pytest.approx(0, abs=0.001)


COPIES = {
    "h264, ac3": ("whole.ts", "ac3", "libx264"),
    "mpeg-2, mp2": ("whole.ts", "mp2", "mpeg2video"),
    "mpeg-4, mp3": ("whole.mp4", "libmp3lame", "mpeg4"),
    "mpeg-4, aac": ("whole.mkv", "aac", "mpeg4"),
}


@pytest.mark.parametrize("cut", [0, Fraction("0.31"), Fraction("0.52"), Fraction("0.77")])
@pytest.mark.parametrize("case", COPIES)
def test_copies_into_avi(tmp_path, case, cut, caplog):
    name, codec, pictures = COPIES[case]
    whole = flashing(tmp_path / name, codec, at=1.2, pictures=pictures, clock=25, options=BURSTS)
    path = copied(whole, tmp_path / "a.avi", cut)
    video = read_video(path)
    assert video.frame_rate == 25 and "variable" not in caplog.text
    flash, clicked = flash_and_click(video)
    rough = "tells only roughly when its sound begins" in caplog.text
    half = 0.016 if codec == "ac3" else 0.011  # of a packet: their times are rounded to whole ones
    assert clicked - flash == pytest.approx(0, abs=half + 0.001 if rough else half)


@pytest.mark.parametrize("cut", [Fraction("0.52"), Fraction("0.77"), 1])
@pytest.mark.parametrize("codec", ["libmp3lame", "aac"])
def test_a_copy_with_times_below_zero(tmp_path, codec, cut, caplog):
    """FFmpeg then reads Matroska's first frames without any times."""
    whole = flashing(tmp_path / "whole.mp4", codec, at=1.2, options=BURSTS, clock=25)
    path = copied(whole, tmp_path / "a.mkv", cut, avoid_negative_ts="disabled")
    with av.open(str(path)) as container:
        assert next(container.decode(video=0)).pts is None
    assert apart(path) == pytest.approx(0, abs=TOLERANCE)
    assert read_video(path).frame_rate == 25 and "variable" not in caplog.text
