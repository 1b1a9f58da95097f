"""What the browser is given: the video of a comparison, and the numbers of a running loop."""

import json
import math
from fractions import Fraction
from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch
from rescore.headless.runner import run_workflow
from rescore.nodes import host, live
from rescore.nodes.running import picture_of
from rescore.nodes.view import ViewComparison
from torch.nn import functional


@pytest.fixture
def view(tmp_path, monkeypatch):
    """`view(source, edited, fps, ...)`: decoded frames, the file, what the browser is told."""

    def temp_file(stem, suffix):
        return tmp_path / f"{stem}{suffix}", {"filename": f"{stem}{suffix}", "type": "temp"}

    monkeypatch.setattr(host, "temp_file", temp_file)

    def call(source, edited, fps=7.0, **more):
        with torch.inference_mode():
            answer = ViewComparison().view(source, edited, fps, **more)
        assert answer["result"][0] is edited
        (told,) = json.loads(json.dumps(answer["ui"]))["rescore_comparison"]
        file = tmp_path / told["filename"]
        with av.open(str(file)) as video:
            frames = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
        return np.stack(frames) / 255, file, told

    return call


def soft(clip, frames, height, width):
    """A clip that coding changes little."""
    small = clip(frames, 3, 3).permute(0, 3, 1, 2)
    return functional.interpolate(small, (height, width), mode="bilinear").permute(0, 2, 3, 1)


@pytest.mark.parametrize(
    ("frames", "height", "width", "shown"),
    [
        (3, 21, 18, (252, 216)),  # small: each pixel becomes 12 x 12
        (5, 129, 255, (129, 255)),  # odd: an edge is repeated
        (2, 1000, 30, (768, 23)),  # large: reduced
        (1, 1, 5, (51, 255)),
    ],
)
@pytest.mark.parametrize("more", [(), ("third",), ("third", "fourth"), ("fourth",)])
def test_all_clips_lie_in_one_video(view, clip, frames, height, width, shown, more):
    source = soft(clip, frames, height, width)
    clips = [source, 1 - source, *(source * share for share in (0.3, 0.6)[: len(more)])]
    video, file, told = view(*clips[:2], **dict(zip(more, clips[2:], strict=True)))
    with av.open(str(file)) as container:
        (stream,) = container.streams
        assert stream.codec_context.name == "h264" and stream.pix_fmt == "yuv420p"
        assert stream.average_rate == 7
    assert len(video) == told["frames"] == frames
    assert (told["height"], told["width"], told["fps"]) == (*shown, 7)
    assert (told["names"], told["sound"]) == (["source", "edited", *more], False)
    assert video.shape[1:3] == (len(clips) * told["below"], shown[1] + shown[1] % 2)
    for number, images in enumerate(clips):
        found = video[:, number * told["below"] :][:, : shown[0], : shown[1]]
        expected = functional.interpolate(images.permute(0, 3, 1, 2), shown, mode="area")
        assert np.abs(found - expected.permute(0, 2, 3, 1).numpy()).mean() < 0.02


def tone(seconds: float, rate: int, *pitches: float) -> dict:
    """A sound of one pitch, in hertz, for each channel, as the host has it."""
    times = torch.arange(round(seconds * rate)) / rate
    channels = [0.5 * torch.sin(2 * math.pi * pitch * times) for pitch in pitches]
    return {"waveform": torch.stack(channels)[None], "sample_rate": rate}


def heard(file) -> tuple[np.ndarray, int]:
    """The sound of a file, `[channels, samples]`, and its sample rate."""
    with av.open(str(file)) as container:
        pieces = [frame.to_ndarray() for frame in container.decode(audio=0)]
        return np.concatenate(pieces, axis=1), container.streams.audio[0].rate


def pitch_of(samples: np.ndarray, rate: int) -> float:
    """The loudest pitch of a sound, in hertz."""
    spectrum = np.abs(np.fft.rfft(samples))
    return float(np.fft.rfftfreq(len(samples), 1 / rate)[spectrum.argmax()])


@pytest.mark.parametrize(
    ("rate", "pitches", "expected"),
    [(48000, (440,), [440]), (22050, (440, 660), [440, 660]), (7000, (500, 500, 500), [500])],
)
def test_the_sound_of_the_first_clip_is_kept_as_long_as_the_pictures(
    view, clip, rate, pitches, expected
):
    _, file, told = view(clip(11), clip(11), fps=7, audio=tone(5, rate, *pitches))
    assert told["sound"] is True
    samples, found = heard(file)
    assert found == 48000
    assert samples.shape[1] / found == pytest.approx(11 / 7, abs=0.05)
    assert [pitch_of(channel, found) for channel in samples] == pytest.approx(expected, abs=2)


def test_a_sound_of_nothing_is_no_sound(view, clip):
    _, file, told = view(clip(), clip(), audio=tone(0, 48000, 440))
    assert told["sound"] is False
    with av.open(str(file)) as container:
        assert not container.streams.audio


@pytest.mark.parametrize(
    ("audio", "message"),
    [
        ({"waveform": torch.zeros(2, 5), "sample_rate": 5}, r"found \[2, 5\] at 5"),
        ({"waveform": torch.zeros(1, 2, 5), "sample_rate": 0}, "with a sample rate above 0"),
        ({"waveform": torch.full((1, 1, 5), math.nan), "sample_rate": 5}, "NaN or infinity"),
    ],
)
def test_a_sound_that_is_none_is_refused_before_anything_is_written(
    view, clip, tmp_path, audio, message
):
    with pytest.raises(ValueError, match=message):
        view(clip(), clip(), audio=audio)
    assert list(tmp_path.iterdir()) == []


def test_the_rate_is_kept_where_it_is_no_whole_number(view, clip):
    _, file, _ = view(clip(), clip(), fps=24000 / 1001)
    with av.open(str(file)) as container:
        assert container.streams.video[0].average_rate == Fraction(24000, 1001)


def test_clips_that_cannot_be_compared(view, clip):
    with pytest.raises(ValueError, match="3 frames of 18 x 21 and 2 frames of 18 x 21"):
        view(clip(), clip(2))
    with pytest.raises(ValueError, match="3 frames of 18 x 21 and 3 frames of 5 x 21"):
        view(clip(), clip(), fourth=clip(3, 21, 5))
    with pytest.raises(ValueError, match="empty"):
        view(clip(0), clip(0))


def test_without_a_browser_nothing_is_written(tmp_path, monkeypatch, clip):
    monkeypatch.chdir(tmp_path)

    class Frames:
        RETURN_TYPES = ("IMAGE",)
        FUNCTION = "make"
        INPUT_TYPES = staticmethod(lambda: {"required": {}})
        make = staticmethod(lambda: (clip(),))

    workflow = {
        "1": {"class_type": "Frames", "inputs": {}},
        "2": {"class_type": "View", "inputs": {"source": ["1", 0], "edited": ["1", 0], "fps": 5}},
    }
    nodes = {"Frames": Frames, "View": ViewComparison}
    result = run_workflow(workflow, out=tmp_path / "out", node_classes=nodes)
    assert result.order == ["1", "2"] and result.ui == {}
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.fixture
def sent(monkeypatch):
    """The messages sent, while every look at the clock takes 0.03 seconds."""
    messages, ticks = [], iter(range(10**6))
    monkeypatch.setattr(host, "send", lambda event, data: messages.append((event, data)))
    monkeypatch.setattr(live, "time", SimpleNamespace(monotonic=lambda: 0.03 * next(ticks)))
    return messages


def test_every_number_arrives_in_few_messages(sent):
    numbers = live.Numbers(steps=11)
    for step in range(1, 12):
        numbers.add(step, {"delta": step**2} if step < 7 else {"delta": step**2, "late": step})
    assert [data["step"] for _, data in sent] == [1, 5, 9, 11]
    assert {event for event, _ in sent} == {"progress"} and {d["steps"] for _, d in sent} == {11}
    delta = [value for _, data in sent for value in data["values"]["delta"]]
    assert delta == [step**2 for step in range(1, 12)]
    assert sent[2][1]["values"]["late"] == [None, 7, 8, 9]


def test_numbers_that_are_none_do_not_break_the_message(sent):
    numbers = live.Numbers(steps=3)
    numbers.add(1, {"a": float("nan"), "b": torch.tensor(2.0)})
    assert json.dumps(sent[0][1]["values"], allow_nan=False) == '{"b": [2.0]}'


def test_previews_play_the_clip(load, monkeypatch):
    monkeypatch.setattr(host, "shows_previews", lambda: True)
    model, z = load("text-to-video"), torch.randn(1, 4, 3, 5, 7)
    with torch.inference_mode():
        picture = picture_of(model, z)
        first, second, third, again = (picture(z) for _ in range(4))
    assert first.shape == (5, 7, 3)
    assert torch.equal(first, again)
    assert not torch.equal(first, second) and not torch.equal(second, third)


def test_without_a_host_sending_is_nothing():
    host.send("progress", {"step": 1})
