"""Real files written by PyAV, folders of one run, and a handful of small node classes."""

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import ClassVar

import av
import numpy as np
import pytest
import torch
from rescore.headless.paths import Folders


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    """An input folder and an output folder, both empty."""
    (tmp_path / "input").mkdir()
    (tmp_path / "out").mkdir()
    return Folders(tmp_path / "out", (tmp_path / "input",))


@pytest.fixture
def smooth_frames() -> Callable[[int, int, int], np.ndarray]:
    """`smooth_frames(count, height, width)`: drifting colour gradients, uint8 `[F, H, W, 3]`."""

    def make(count: int, height: int, width: int) -> np.ndarray:
        t, y, x = np.meshgrid(
            np.arange(count), np.linspace(0, 1, height), np.linspace(0, 1, width), indexing="ij"
        )
        planes = [0.2 + 0.6 * x, 0.2 + 0.6 * y, 0.2 + 0.6 * t / max(1, count - 1)]
        return np.round(255 * np.stack(planes, axis=-1)).astype(np.uint8)

    return make


@pytest.fixture
def tone() -> Callable[[float, int, int], np.ndarray]:
    """`tone(seconds, rate, channels)`: 440 Hz, each channel of another loudness, `[c, samples]`."""

    def make(seconds: float, rate: int, channels: int) -> np.ndarray:
        wave = np.sin(2 * np.pi * 440 * np.arange(round(seconds * rate)) / rate)
        return np.stack([wave / (2 + channel) for channel in range(channels)]).astype(np.float32)

    return make


@pytest.fixture
def write_clip() -> Callable[..., Path]:
    """`write_clip(path, frames=...)` encodes a clip and returns its path."""

    def write(
        path: Path,
        frames: np.ndarray,
        *,
        codec: str = "libx264",
        pix_fmt: str = "yuv420p",
        rate: Fraction = Fraction(24),
        ticks: Sequence[int] | None = None,
        sound: tuple[np.ndarray, int] | None = None,
        sound_codec: str = "aac",
        source_format: str = "rgb24",
        options: dict[str, str] | None = None,
        container: dict[str, str] | None = None,
        tags: dict[str, str] | None = None,
    ) -> Path:
        with av.open(str(path), "w", options=container or {}) as output:
            output.metadata.update(tags or {})
            stream = output.add_stream(codec, rate=rate, options=options or {})
            stream.height, stream.width = frames.shape[1:3]
            stream.pix_fmt = pix_fmt
            stream.codec_context.time_base = 1 / rate
            track = sound and output.add_stream(
                sound_codec, rate=sound[1], layout={1: "mono", 2: "stereo"}[len(sound[0])]
            )
            for index, array in enumerate(frames):
                frame = av.VideoFrame.from_ndarray(array, format=source_format)
                frame = frame.reformat(format=pix_fmt)
                frame.pts, frame.time_base = (ticks[index] if ticks else index), 1 / rate
                output.mux(stream.encode(frame))
            output.mux(stream.encode(None))
            if track:
                waveform, sample_rate = sound
                layout = track.layout.name
                piece = av.AudioFrame.from_ndarray(waveform, format="fltp", layout=layout)
                piece.sample_rate, piece.pts = sample_rate, 0
                output.mux(track.encode(piece))
                output.mux(track.encode(None))
        return path

    return write


class Number:
    """An integer."""

    RETURN_TYPES = ("INT",)
    FUNCTION = "run"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"value": ("INT", {"default": 1, "min": 0, "max": 100})}}

    def run(self, value):
        return (value,)


class Add:
    """A sum that notes the order in which it is asked for one."""

    RETURN_TYPES = ("INT",)
    FUNCTION = "run"

    @classmethod
    def INPUT_TYPES(cls):
        widget = {"default": 0, "min": -100, "max": 100}
        return {"required": {"a": ("INT", widget)}, "optional": {"b": ("INT", widget)}}

    def run(self, a, b=0):
        return (a + b,)


class Show:
    """An output node."""

    RETURN_TYPES = ()
    FUNCTION = "run"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"value": ("INT,FLOAT", {})}, "hidden": {"me": "UNIQUE_ID"}}

    def run(self, value, me):
        return {"ui": {"shown": [value], "by": [me]}}


class Widgets:
    """One widget of every kind."""

    RETURN_TYPES = ("LATENT", "INT")
    FUNCTION = "run"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "steps": ("INT", {"default": 20, "min": 1, "max": 100}),
                "cfg": ("FLOAT", {"default": 7.5, "min": 0.0, "max": 30.0}),
                "text": ("STRING", {"default": ""}),
                "flag": ("BOOLEAN", {"default": False}),
                "mode": (["mean", "sample"], {"default": "mean"}),
                "codec": ("COMBO", {"options": ["auto", "h264"]}),
            },
            "optional": {"latent": ("LATENT",), "anything": ("*", {})},
        }

    def run(self, **inputs):
        return ("latent", inputs["steps"])


class Fails:
    """Raises."""

    RETURN_TYPES = ("INT",)
    FUNCTION = "run"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"value": ("INT", {})}}

    def run(self, value):
        raise ValueError(f"the value {value} is unlucky; choose another")


class Choosy:
    """Checks its own inputs, as `VALIDATE_INPUTS` lets a node do."""

    RETURN_TYPES = ()
    FUNCTION = "run"
    OUTPUT_NODE = True
    asked: ClassVar[list[dict]] = []

    @classmethod
    def INPUT_TYPES(cls):
        widget = {"default": 0, "min": 0, "max": 3}
        return {"required": {"odd": ("INT", widget), "linked": ("INT", widget)}}

    @classmethod
    def VALIDATE_INPUTS(cls, odd, linked):
        cls.asked.append({"odd": odd, "linked": linked})
        return True if odd % 2 else f"{odd} is even; give an odd number."

    def run(self, odd, linked):
        return {"ui": {"odd": [odd]}}


class Switch:
    """Takes one of two branches and leaves the other alone."""

    RETURN_TYPES = ("INT",)
    FUNCTION = "run"

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "first": ("BOOLEAN", {"default": True}),
                "on_true": ("INT", {"lazy": True}),
                "on_false": ("INT", {"lazy": True}),
            }
        }

    def check_lazy_status(self, first, on_true, on_false):
        return ["on_true" if first else "on_false"]

    def run(self, first, on_true, on_false):
        return (on_true if first else on_false,)


class Spread:
    """One list output: its entries go on one by one."""

    RETURN_TYPES = ("INT",)
    OUTPUT_IS_LIST = (True,)
    FUNCTION = "run"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"count": ("INT", {"default": 3, "min": 0, "max": 9})}}

    def run(self, count):
        return (list(range(count)),)


class Gather:
    """Takes whole lists."""

    RETURN_TYPES = ("INT",)
    INPUT_IS_LIST = True
    FUNCTION = "run"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"values": ("INT", {})}}

    def run(self, values):
        return (sum(values),)


class Clip:
    """Frames of noise, made under the host's inference mode."""

    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "run"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"frames": ("INT", {"default": 3, "min": 0, "max": 100})}}

    def run(self, frames):
        return (torch.rand(frames, 6, 10, 3, generator=torch.Generator().manual_seed(0)),)


@pytest.fixture
def toy_nodes() -> dict[str, type]:
    """Small V1 classes that stand for a pack."""
    Choosy.asked.clear()
    classes = (Number, Add, Show, Widgets, Fails, Choosy, Switch, Spread, Gather, Clip)
    return {cls.__name__: cls for cls in classes}
