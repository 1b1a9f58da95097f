"""Sound: every layout, whatever damage, and as far from the picture as in the source."""

import logging
from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from flash_and_click import RATE, TOLERANCE, click, flash_and_click, packed, write_with_sound
from rescore.headless.media import packets
from rescore.headless.sound import sound_frame
from rescore.headless.video import VideoComponents
from rescore.headless.video_read import read_video
from rescore.headless.video_write import encode_mp4


def tones(layout: str, seconds: float = 0.5, rate: int = RATE) -> np.ndarray:
    """A tone of its own in each channel, `[channels, samples]`."""
    time = np.arange(round(seconds * rate)) / rate
    pitches = 220 + 40 * np.arange(av.AudioLayout(layout).nb_channels)
    return (0.3 * np.sin(2 * np.pi * pitches[:, None] * time)).astype(np.float32)


def channels_of(waveform: np.ndarray, rate: int = RATE) -> list[int | None]:
    """Which of `tones` each channel carries; None for one that is silent."""
    middle = waveform[:, rate // 10 : 4 * rate // 10]
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(middle.shape[1]), 16 * RATE, axis=1))
    pitches = spectrum.argmax(1) * rate / (16 * RATE)
    loud = np.abs(middle).max(1) > 0.05
    return [
        round((pitch - 220) / 40) if heard else None
        for pitch, heard in zip(pitches, loud, strict=True)
    ]


def saved_and_read(tmp_path, video: VideoComponents) -> VideoComponents:
    path = tmp_path / "saved.mp4"
    path.write_bytes(encode_mp4(video))
    return read_video(path)


LAYOUTS = [
    *("mono", "stereo", "2.1", "3.0", "4.0", "quad", "4.1", "5.0", "5.0(side)", "5.1", "5.1(side)"),
    *("6.0", "6.1", "7.0", "7.1", "7.1(wide)", "octagonal", "hexadecagonal"),
]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_channels_stay_in_their_order(tmp_path, layout):
    wave = tones(layout)
    sound = ("pcm_s16le", RATE, layout, [packed(wave, layout)])
    video = read_video(write_with_sound(tmp_path / "clip.mkv", [sound], frames=5))
    read = video.audio["waveform"][0].numpy()
    assert read.shape == wave.shape and np.abs(read - wave).max() < 1e-4
    back = saved_and_read(tmp_path, video).audio["waveform"][0].numpy()
    expected = list(range(len(wave)))
    if len(wave) in (6, 8):
        expected[3] = None  # of 5.1 and 7.1, the fourth is for deep tones only, and AAC makes it so
    assert channels_of(back) == expected


@pytest.mark.parametrize(
    ("codec", "layout"),
    [("flac", "2.1"), ("ac3", "quad(side)"), ("flac", "5.1(side)"), ("flac", "7.1")],
)
def test_a_layout_that_the_file_names_is_kept(tmp_path, codec, layout):
    sound = (codec, RATE, layout, [packed(tones(layout), layout)])
    video = read_video(write_with_sound(tmp_path / "clip.mkv", [sound], frames=5))
    assert video.audio["layout"] == layout
    saved_and_read(tmp_path, video)
    with av.open(str(tmp_path / "saved.mp4")) as container:
        saved = container.streams.audio[0].layout.name
    assert saved == layout.replace("(side)", "")  # the same speakers under AAC's own name


@pytest.mark.parametrize(
    ("channels", "heard", "words"), [(10, 10, "the last ones silent"), (24, 16, "the first ones")]
)
def test_channels_that_aac_has_no_layout_for(channels, heard, words, caplog):
    wave = torch.rand(1, channels, 4000) - 0.5
    frame = sound_frame({"waveform": wave, "sample_rate": 8000}, Fraction(1))
    assert frame.layout.nb_channels == 16 and words in caplog.text
    samples = frame.to_ndarray().reshape(4000, 16)
    assert np.array_equal(samples[:, :heard], wave[0, :heard].numpy().T)
    assert not samples[:, heard:].any()


def test_a_layout_of_another_number_of_channels_is_not_believed():
    audio = {"waveform": torch.zeros(1, 1, 99), "sample_rate": 8000, "layout": "quad"}
    assert sound_frame(audio, Fraction(1)).layout.name == "mono"


OFFSETS = {
    "sound later": (0.0, 0.5),
    "picture later": (0.5, 0.0),
    "a little": (0.0, 0.023),
    "together": (0.0, 0.0),
}


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts", "mov"])
@pytest.mark.parametrize("case", OFFSETS)
def test_flash_and_click_stay_together(tmp_path, case, suffix):
    picture_start, sound_start = OFFSETS[case]
    first = packed(click(2.0, at=1.2 - sound_start), "mono", start=round(sound_start * RATE))
    path = write_with_sound(
        tmp_path / f"clip.{suffix}",
        [("aac", RATE, "mono", [first])],
        frames=20,
        picture_start=picture_start,
        flash=9,
    )
    true = 1.2 - (picture_start + 0.9)
    video = read_video(path)
    for one in (video, saved_and_read(tmp_path, video)):
        flash, clicked = flash_and_click(one)
        assert clicked - flash == pytest.approx(true, abs=TOLERANCE)


@pytest.mark.parametrize("cut", [0.3, 0.31, 0.35, 0.399, 0.62])
@pytest.mark.parametrize("suffix", ["mp4", "mov", "mkv"])
def test_a_cut_without_encoding_keeps_them_together(tmp_path, suffix, cut):
    """Frames come each 0.1 s: where the cut falls between two, the first whole one comes late."""
    sound = "aac", RATE, "mono", [packed(click(2.0, at=1.2), "mono")]
    whole = write_with_sound(tmp_path / f"whole.{suffix}", [sound], frames=20, flash=12)
    with av.open(str(whole)) as source, av.open(str(tmp_path / f"cut.{suffix}"), "w") as output:
        streams = [output.add_stream_from_template(stream) for stream in source.streams]
        for packet in source.demux():
            if packet.dts is None:
                continue
            shift = round(Fraction(cut) / packet.time_base)
            if packet.stream.type == "audio" and packet.pts < shift:
                continue
            packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
            packet.stream = streams[packet.stream.index]
            output.mux(packet)
    flash, clicked = flash_and_click(read_video(tmp_path / f"cut.{suffix}"))
    assert clicked - flash == pytest.approx(0, abs=TOLERANCE)


@pytest.mark.parametrize("name", ["a.mp4 aac", "a.mkv aac", "a.mkv libmp3lame", "a.webm libopus"])
def test_the_priming_of_a_codec_is_no_delay(tmp_path, name):
    file, codec = name.split()
    with av.open(str(tmp_path / file), "w") as output:
        video = output.add_stream("libvpx" if file.endswith("webm") else "libx264", rate=10)
        video.width, video.height, video.pix_fmt = 32, 32, "yuv420p"
        track = output.add_stream(codec, rate=RATE, layout="mono")
        for index in range(20):
            level = 255 if index == 10 else 60
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), level, np.uint8))
            frame.pts, frame.time_base = index, Fraction(1, 10)
            output.mux(video.encode(frame))
        output.mux(video.encode(None))
        output.mux(track.encode(packed(click(2.0, at=1.0), "mono")))
        output.mux(track.encode(None))
    flash, clicked = flash_and_click(read_video(tmp_path / file))
    assert clicked - flash == pytest.approx(0, abs=TOLERANCE)


def test_a_gap_in_the_sound_is_silence(tmp_path):
    before, after = click(0.5, at=0.1), click(0.5, at=0.2)
    pieces = [packed(before, "mono"), packed(after, "mono", start=RATE)]
    sound = ("pcm_s16le", RATE, "mono", pieces)
    video = read_video(write_with_sound(tmp_path / "clip.mkv", [sound], frames=15))
    wave = video.audio["waveform"][0, 0].numpy()
    expected = np.concatenate([before[0], np.zeros(RATE // 2, np.float32), after[0]])
    assert wave.shape == expected.shape and np.abs(wave - expected).max() < 1e-4


def test_timestamps_that_tremble_do_not_chop_the_sound(tmp_path):
    wave = tones("mono", seconds=1.0)
    shake = np.random.default_rng(0).integers(-RATE // 250, RATE // 250, 50)  # up to 4 ms
    shake[0] = 0
    pieces = [
        packed(part, "mono", start=index * 960 + int(shake[index]))
        for index, part in enumerate(np.split(wave, 50, axis=1))
    ]
    sound = ("pcm_s16le", RATE, "mono", pieces)
    video = read_video(write_with_sound(tmp_path / "clip.mkv", [sound]))
    assert np.abs(video.audio["waveform"][0].numpy() - wave).max() < 1e-4


def test_a_timestamp_gone_mad_asks_for_no_years_of_silence(tmp_path):
    wave = tones("mono")
    pieces = [packed(wave, "mono"), packed(wave, "mono", start=10**6 * RATE)]
    sound = ("pcm_s16le", RATE, "mono", pieces)
    video = read_video(write_with_sound(tmp_path / "clip.mkv", [sound]))
    assert video.audio["waveform"].shape[2] == wave.shape[1]


def encoded(codec: str, layout: str, rate: int) -> list[bytes]:
    """Half a second of packets from an encoder of their own."""
    encoder = av.CodecContext.create(codec, "w")
    encoder.layout, encoder.sample_rate, encoder.format = layout, rate, "fltp"
    frames = [packed(tones(layout, rate=rate), layout, rate), None]
    return [bytes(packet) for frame in frames for packet in encoder.encode(frame)]


@pytest.mark.parametrize(
    ("first", "then"),
    [
        (("stereo", 48000), ("5.1(side)", 48000)),
        (("5.1(side)", 48000), ("stereo", 48000)),
        (("mono", 48000), ("stereo", 48000)),
        (("stereo", 48000), ("stereo", 32000)),
        (("stereo", 32000), ("mono", 48000)),
    ],
)
def test_a_layout_or_rate_that_changes_is_brought_to_the_first(tmp_path, caplog, first, then):
    path = tmp_path / "clip.mkv"
    seconds = Fraction(0)
    with av.open(str(path), "w") as output:
        video = output.add_stream("libx264", rate=10)
        video.width, video.height, video.pix_fmt = 32, 32, "yuv420p"
        track = output.add_stream("ac3", rate=first[1], layout=first[0])
        for index in range(10):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 60, np.uint8))
            frame.pts, frame.time_base = index, Fraction(1, 10)
            output.mux(video.encode(frame))
        output.mux(video.encode(None))
        for layout, rate in (first, then):
            for data in encoded("ac3", layout, rate):
                packet = av.Packet(data)
                packet.stream, packet.time_base = track, Fraction(1, 1000)
                packet.pts = packet.dts = round(1000 * seconds)
                packet.is_keyframe = True
                output.mux(packet)
                seconds += Fraction(1536, rate)
    video = read_video(path)
    waveform, channels = video.audio["waveform"], av.AudioLayout(first[0]).nb_channels
    assert len(video.images) == 10
    assert video.audio["sample_rate"] == first[1] and waveform.shape[1] == channels
    assert waveform.shape[2] / first[1] == pytest.approx(float(seconds), abs=TOLERANCE)
    second_half = waveform[..., round(0.6 * first[1]) : round(0.9 * first[1])]
    assert second_half.abs().max() > 0.1
    assert f"changes from {first[0]} at {first[1]} Hz to {then[0]} at {then[1]} Hz" in caplog.text


def two_tracks(path, **marks) -> dict[int, int]:
    """An mp4 with a quiet and a loud track, and marks put on them; index of each in the file."""
    with av.open(str(path), "w") as output:
        video = output.add_stream("libx264", rate=10)
        video.width, video.height, video.pix_fmt = 32, 32, "yuv420p"
        tracks = [output.add_stream("aac", rate=RATE, layout="mono") for _ in range(2)]
        for track, mark in zip(tracks, marks.get("dispositions", ()), strict=False):
            track.disposition = mark
        for index in range(5):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 60, np.uint8))
            frame.pts, frame.time_base = index, Fraction(1, 10)
            output.mux(video.encode(frame))
        output.mux(video.encode(None))
        for track, loudness in zip(tracks, (0.1, 1.0), strict=True):
            output.mux(track.encode(packed(loudness * tones("mono"), "mono")))
            output.mux(track.encode(None))
    return path


def rename_the_codec(path, tracks: int) -> None:
    """Make the first tracks of an mp4 say that they are of a codec FFmpeg knows only by name."""
    data = path.read_bytes()
    path.write_bytes(data.replace(b"mp4a", b"apac", tracks).replace(b"esds", b"free", tracks))


def test_the_next_track_serves_where_the_first_cannot_be_decoded(tmp_path, caplog):
    path = two_tracks(tmp_path / "clip.mp4")
    rename_the_codec(path, 1)
    video = read_video(path)
    assert len(video.images) == 5 and video.audio["waveform"].abs().max() > 0.2
    assert "sound track 1 cannot be decoded; the next is tried" in caplog.text


def test_no_track_that_can_be_decoded_is_no_sound(tmp_path, caplog):
    path = two_tracks(tmp_path / "clip.mp4")
    rename_the_codec(path, 2)
    assert read_video(path).audio is None
    assert "sound track 2 cannot be decoded; there is no sound" in caplog.text


def test_the_default_track_comes_before_the_first(tmp_path):
    none, default = av.stream.Disposition(0), av.stream.Disposition.default
    path = two_tracks(tmp_path / "clip.mkv", dispositions=(none, default))
    assert read_video(path).audio["waveform"].abs().max() > 0.2
    path = two_tracks(tmp_path / "clip.mkv", dispositions=(default, none))
    assert read_video(path).audio["waveform"].abs().max() < 0.05


@pytest.mark.parametrize("start", [0, 3, 500])
def test_joined_recordings_go_on_where_the_clock_jumps(tmp_path, start, caplog):
    """`cat a.ts b.ts`, after which each part begins at its own time: earlier, or much later."""
    parts = []
    for begin in (3, start):
        sound = packed(click(1.0, at=0.5), "mono", start=begin * RATE)
        parts.append(
            write_with_sound(
                tmp_path / f"{begin}.ts",
                [("aac", RATE, "mono", [sound])],
                picture_start=begin,
                flash=5,
            )
        )
    (tmp_path / "joined.ts").write_bytes(b"".join(part.read_bytes() for part in parts))
    video = read_video(tmp_path / "joined.ts")
    levels = video.images.mean((1, 2, 3))
    assert (levels > 0.9).nonzero().flatten().tolist() == [5, 15] and len(levels) == 20
    loud = video.audio["waveform"][0, 0].abs() > 0.3
    for begin, frame in ((0, 5), (1, 15)):
        clicked = begin + int(loud[begin * RATE :].nonzero()[0]) / RATE
        assert clicked == pytest.approx(float(video.times[frame]), abs=TOLERANCE)
    assert float(video.times[15]) == pytest.approx(1.5, abs=0.1)  # sound ends later than pictures
    assert caplog.text.count("its clock jumps") == 1


def test_a_track_that_begins_on_the_way(tmp_path):
    """PyAV then fails when all is read, if the bytes after a list of its own happen not to be 0."""
    sound = "aac", RATE, "mono", [packed(click(1.0, at=0.5), "mono")]
    with av.open(str(write_with_sound(tmp_path / "a.ts", [sound]))) as container:

        class Failing:
            format = container.format

            def demux(self):
                yield from container.demux()
                raise IndexError("list index out of range")

        pictures = [p for p in packets(Failing()) if p.stream.type == "video" and p.size]
        assert len(pictures) == 10


def test_damaged_packets_are_skipped_and_the_rest_stays_in_place(tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    wave = click(2.0, at=1.5)
    path = write_with_sound(
        tmp_path / "clip.mp4", [("aac", RATE, "mono", [packed(wave, "mono")])], frames=20, flash=15
    )
    with av.open(str(path)) as container:
        places = [p.pos for p in container.demux(audio=0) if p.pos is not None and p.size]
    data = bytearray(path.read_bytes())
    for place in places[20:26]:
        data[place : place + 4] = b"\xff\xff\xff\xff"
    path.write_bytes(data)
    flash, clicked = flash_and_click(read_video(path))
    assert clicked - flash == pytest.approx(0, abs=TOLERANCE)
    assert "packet(s) of its sound are damaged and skipped" in caplog.text
