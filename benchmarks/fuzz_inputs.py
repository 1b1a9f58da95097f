"""Hostile inputs of four kinds, each drawn from a seed: what is sound, and how it is damaged.

A case is a workflow in a folder of its own, which reads one damaged file or is itself damaged.
"""

import io
import json
import os
import shutil
import struct
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from random import Random
from typing import Any, NamedTuple, TypeAlias

import av
import numpy as np
from PIL import Image
from tiny_clip import write_tiny_clip
from tiny_mask_models import write_tiny_grounding_dino, write_tiny_sam2
from tiny_models import (
    tiny_adapter,
    write_tiny_adapter,
    write_tiny_checkpoint,
    write_tiny_motion_file,
    write_tiny_sd,
    write_tiny_t2v,
)

from .fuzz_damage import Place, damaged_bytes, damaged_json

SHIPPED = Path(__file__).resolve().parent.parent / "workflows" / "api"
HEIGHT, WIDTH, FRAMES = 13, 17, 5
SOUND = "sound"  # the kind whose cases are what the others damage, as it is


Node: TypeAlias = tuple[str, dict[str, Any]]  # class and inputs; a wire is [number from 1, output]
Nodes: TypeAlias = Sequence[Node]


class Case(NamedTuple):
    """A workflow file, and in words what is wrong with it or with what it reads."""

    workflow: Path
    what: str
    only_checked: bool = False  # not run: it is a shipped graph, which would take minutes
    wanted: Sequence[str] = ()  # nodes that run though no output needs them


def make(kind: str, seed: int, place: Place) -> Case:
    """The case of one kind with this number; the same on every machine."""
    for folder in (place.input, place.out):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    if kind == SOUND:
        return _sound_case(seed % SOUND_CASES, place)
    return KINDS[kind](Random(f"{kind} {seed}"), place)


# --- workflows ----------------------------------------------------------------------------------


def workflow_case(random: Random, place: Place) -> Case:
    """A damaged workflow over sound files: a shipped one is checked, a small one also runs."""
    _write_inputs(place)
    small = random.random() < 0.5
    name, text = (
        ("a small graph", json.dumps(_graph(*_SMALL))) if small else random.choice(_shipped())
    )
    file = place.root / "workflow.json"
    if random.random() < 0.25:
        data, what = damaged_bytes(random, text.encode(), json.dumps(_graph(*_SMALL)).encode())
        file.write_bytes(data)
    else:
        tree, what = damaged_json(random, json.loads(text), place)
        file.write_text(json.dumps(tree), "utf-8")
    return Case(file, f"{name}: {what}", only_checked=not small)


def _write_inputs(place: Place) -> None:
    """What the small graph reads."""
    (place.input / "clip.mp4").write_bytes(sound_videos()[0][1])
    (place.input / "clip.png").write_bytes(sound_images()[0][1])


@cache
def _shipped() -> list[tuple[str, str]]:
    return [(path.stem, path.read_text("utf-8")) for path in sorted(SHIPPED.glob("*.json"))]


def _graph(*nodes: Node) -> dict[str, Any]:
    """A workflow of nodes numbered from 1."""
    return {
        str(number): {"class_type": kind, "inputs": inputs}
        for number, (kind, inputs) in enumerate(nodes, start=1)
    }


# The host's nodes and ours, without a model: fast.
_SMALL: Nodes = (
    ("LoadVideo", {"file": "clip.mp4"}),
    ("GetVideoComponents", {"video": ["1", 0]}),
    ("LoadImage", {"image": "clip.png"}),
    ("ReScoreBoxMask", {"images": ["2", 0], "left": 0.2, "top": 0.1, "right": 0.7, "bottom": 0.9,
                        "moves": False, "end_left": 0.0, "end_top": 0.0, "end_right": 1.0,
                        "end_bottom": 1.0}),
    ("ReScoreGrowFeatherMask", {"mask": ["4", 0], "grow": 1, "feather": 2}),
    ("ReScoreCompareClips", {"source": ["2", 0], "edited": ["2", 0], "layout": "side by side",
                             "gap": 4}),
    ("CreateVideo", {"images": ["6", 0], "fps": ["2", 2], "audio": ["2", 1]}),
    ("SaveVideo", {"video": ["7", 0], "filename_prefix": "video/a", "format": "auto",
                   "codec": "auto"}),
    ("SaveImage", {"images": ["3", 0], "filename_prefix": "b"}),
    ("MaskToImage", {"mask": ["5", 0]}),
    ("PreviewImage", {"images": ["10", 0]}),
    ("ReScorePSNR", {"source": ["2", 0], "edited": ["2", 0], "region": "everywhere",
                     "threshold": 0.5}),
)  # fmt: skip


def _read_by(nodes: Nodes, place: Place, what: str) -> Case:
    """The case of a sound workflow, whatever it reads: its last node runs."""
    file = place.root / "workflow.json"
    file.write_text(json.dumps(_graph(*nodes)), "utf-8")
    return Case(file, what, wanted=[str(len(nodes))])


def _reading(nodes: Nodes, place: Place, name: str, data: bytes, what: str) -> Case:
    """The case of a sound workflow that reads this input file."""
    (place.input / name).write_bytes(data)
    return _read_by(nodes, place, what)


# --- images and videos --------------------------------------------------------------------------


@cache
def sound_images() -> list[tuple[str, bytes]]:
    """(Suffix, bytes) of images in every format and mode that is read."""
    pixels = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 4), dtype=np.uint8)
    colour, clear = Image.fromarray(pixels[..., :3]), Image.fromarray(pixels)
    deep = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
    wanted = [
        ("png", colour, {}), ("png", clear, {}), ("png", deep, {}), ("png", colour.quantize(9), {}),
        ("jpg", colour, {}), ("jpg", colour.convert("L"), {}), ("jpg", colour.convert("CMYK"), {}),
        ("webp", clear, {}), ("bmp", colour, {}), ("tiff", clear, {}), ("ppm", colour, {}),
        ("gif", colour, {"save_all": True, "append_images": [colour.rotate(90)]}),
    ]  # fmt: skip
    found = []
    for suffix, picture, options in wanted:
        file = io.BytesIO()
        picture.save(file, {"jpg": "JPEG"}.get(suffix, suffix.upper()), **options)
        found.append((suffix, file.getvalue()))
    return found


@cache
def sound_videos() -> list[tuple[str, bytes]]:
    """(Suffix, bytes) of short clips with and without sound, in several containers."""
    return [
        ("mp4", _video("mp4", "libx264", "aac")), ("mp4", _video("mp4", "mpeg4", None)),
        ("mkv", _video("matroska", "libx264", "aac")), ("mov", _video("mov", "png", "pcm_s16le")),
        ("avi", _video("avi", "mpeg4", "mp3")), ("webm", _video("webm", "libvpx-vp9", "libopus")),
        ("ts", _video("mpegts", "libx264", "aac")), ("gif", _video("gif", "gif", None)),
    ]  # fmt: skip


def _video(container: str, codec: str, sound: str | None) -> bytes:
    pixels = np.random.default_rng(1).integers(0, 256, (FRAMES, 32, 48, 3), dtype=np.uint8)
    file = io.BytesIO()
    with av.open(file, "w", format=container) as output:
        video = output.add_stream(codec, rate=8)
        video.width, video.height = 48, 32
        video.pix_fmt = {"png": "rgb24", "gif": "rgb8"}.get(codec, "yuv420p")
        audio = output.add_stream(sound, rate=48000) if sound else None
        for picture in pixels:
            output.mux(
                video.encode(av.VideoFrame.from_ndarray(picture).reformat(format=video.pix_fmt))
            )
        output.mux(video.encode(None))
        if audio is not None:
            silence = np.zeros((1, 48000 * FRAMES // 8 * len(audio.layout.channels)), np.int16)
            frame = av.AudioFrame.from_ndarray(silence, layout=audio.layout.name)
            frame.rate = 48000
            output.mux(audio.encode(frame))
            output.mux(audio.encode(None))
    return file.getvalue()


def image_case(random: Random, place: Place) -> Case:
    """A damaged image, loaded as a picture or as a mask."""
    (suffix, data), (_, other) = random.choice(sound_images()), random.choice(sound_images())
    data, what = damaged_bytes(random, data, other)
    name = f"picture.{random.choice([suffix, suffix, 'png'])}"
    nodes = _image_nodes(name, as_mask=random.random() < 0.5)
    return _reading(nodes, place, name, data, f"{suffix} as {name} {what}")


def _image_nodes(name: str, as_mask: bool) -> Nodes:
    if as_mask:
        mask = ("ThresholdMask", {"mask": ["1", 1], "value": 0.5})
        return ("LoadImage", {"image": name}), mask
    save = ("SaveImage", {"images": ["1", 0], "filename_prefix": "a"})
    return ("LoadImage", {"image": name}), save


def video_case(random: Random, place: Place) -> Case:
    """A damaged video, or a text that sends its reader elsewhere, read or copied."""
    (suffix, data), (_, other) = random.choice(sound_videos()), random.choice(sound_videos())
    data, what = damaged_bytes(random, data, other)
    if random.random() < 0.1:
        data, what = random.choice(_elsewhere(place)), "that is a list of other files"
    name = f"clip.{random.choice([suffix, suffix, 'mp4'])}"
    nodes = _video_nodes(name, copied=random.random() < 0.2)
    return _reading(nodes, place, name, data, f"{suffix} as {name} {what}")


def _video_nodes(name: str, copied: bool) -> Nodes:
    load = ("LoadVideo", {"file": name})
    if copied:
        settings = {"filename_prefix": "a", "format": "auto", "codec": "auto"}
        return load, ("SaveVideo", {"video": ["1", 0], **settings})
    save = ("SaveImage", {"images": ["2", 0], "filename_prefix": "a"})
    return load, ("GetVideoComponents", {"video": ["1", 0]}), save


def _elsewhere(place: Place) -> list[bytes]:
    """Texts that FFmpeg would take for playlists, scripts and sessions."""
    address, file = f"http://127.0.0.1:{place.port}/x.ts", place.outside
    return [
        f"#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:3,\n{place_}\n".encode()
        for place_ in (address, file)
    ] + [
        f"ffconcat version 1.0\nfile '{file}'\n".encode(),
        f"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nm=video {place.port} RTP/AVP 96\n"
        "a=rtpmap:96 H264/90000\n".encode(),
        f'<?xml version="1.0"?><MPD><Period><BaseURL>{address}</BaseURL></Period></MPD>'.encode(),
    ]


# --- models -------------------------------------------------------------------------------------


def _sound_models(place: Place) -> Path:
    """A models folder with one of everything that is loaded, made once."""
    folder = place.root / "sound"
    if not folder.exists():
        write_tiny_t2v(folder / "diffusers" / "video")
        image = write_tiny_sd(folder / "diffusers" / "image")
        write_tiny_checkpoint(folder / "checkpoints" / "image.safetensors", image)
        write_tiny_adapter(folder / "animatediff_models" / "motion")
        for suffix in ("safetensors", "ckpt"):
            write_tiny_motion_file(folder / "animatediff_models" / f"mm.{suffix}", tiny_adapter())
        write_tiny_clip(folder / "clip_vision" / "clip")
        write_tiny_grounding_dino(folder / "grounding-dino" / "dino")
        write_tiny_sam2(folder / "sam2" / "sam")
    return folder


_PROMPTS = {"source_prompt": "a dog", "target_prompt": "a cat", "negative_prompt": ""}
_ENCODE = ("ReScoreEncodePromptPair", {"model": ["1", 0], **_PROMPTS})


def _image(name: str) -> Node:
    return "ReScoreLoadImageModel", {"model": name, "precision": "fp32", "prediction_type": "auto"}


def _motion(name: str) -> Node:
    return "ReScoreLoadAnimateDiffModel", {"image_model": ["1", 0], "motion_module": name}


_VIDEO = ("ReScoreLoadVideoModel", {"folder": "video", "precision": "fp32"})
# By the place in the models folder whose files are damaged: what loads them.
_LOADED: dict[str, Nodes] = {
    "diffusers/video": (_VIDEO, _ENCODE),
    "diffusers/image": (_image("image"), _ENCODE),
    "checkpoints": (_image("image.safetensors"), _ENCODE),
    "animatediff_models/motion": (_image("image"), _motion("motion")),
    "animatediff_models/mm.safetensors": (_image("image"), _motion("mm.safetensors")),
    "animatediff_models/mm.ckpt": (_image("image"), _motion("mm.ckpt")),
    "clip_vision/clip": (("ReScoreLoadClipScorer", {"folder": "clip"}),),
    "grounding-dino/dino": (("ReScoreLoadGroundingDino", {"folder": "dino"}),),
    "sam2/sam": (("ReScoreLoadSam2", {"folder": "sam"}),),
}


# Files are told apart by the sizes that published ones have: of tiny ones all is read but the end.
UNDERSIZED = (
    "checkpoints", "animatediff_models/mm.safetensors", "animatediff_models/mm.ckpt"
)  # fmt: skip


def model_case(random: Random, place: Place) -> Case:
    """A models folder one file of which is damaged, gone, or leads elsewhere."""
    what = random.choice(list(_LOADED))
    nodes = _model_nodes(what, place)
    target = place.models / what
    files = sorted(p for p in target.rglob("*") if p.is_file()) if target.is_dir() else [target]
    texts = [file for file in files if file.suffix == ".json"]
    file = random.choice(texts if texts and random.random() < 0.6 else files)
    told = random.choice(_FILE_DAMAGE)(random, file, place)
    return _read_by(nodes, place, f"{file.relative_to(place.models)} {told}")


def _model_nodes(what: str, place: Place) -> Nodes:
    """A workflow that loads a part of a fresh models folder."""
    shutil.rmtree(place.models, ignore_errors=True)
    shutil.copytree(_sound_models(place), place.models)
    return _LOADED[what]


def _damaged_content(random: Random, file: Path, place: Place) -> str:
    data = file.read_bytes()
    if file.suffix == ".json" and random.random() < 0.8:
        tree, told = damaged_json(random, json.loads(data), place)
        file.write_text(json.dumps(tree), "utf-8")
        return f"with {told}"
    if file.suffix == ".safetensors" and random.random() < 0.7:
        return _damaged_header(random, file, place)
    data, told = damaged_bytes(random, data or b"\0", file.name.encode())
    file.write_bytes(data)
    return told


def _damaged_header(random: Random, file: Path, place: Place) -> str:
    """A safetensors file whose header is no longer true, at the length that it says or another."""
    data = file.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    tree, told = damaged_json(random, json.loads(data[8 : 8 + length]), place)
    header = json.dumps(tree).encode()
    size = random.choice([len(header), len(header), len(header), 0, 2**40, 2**63, len(header) + 9])
    file.write_bytes(struct.pack("<Q", size) + header + data[8 + length :])
    return f"with {told} in its header of {size} bytes"


def _gone(random: Random, file: Path, place: Place) -> str:
    file.unlink()
    way = random.choice(["missing", "a folder", "a file of its name in a folder"])
    if way != "missing":
        file.mkdir()
    if way.startswith("a file"):
        (file / file.name).write_bytes(b"x")
    return way


def _linked(random: Random, file: Path, place: Place) -> str:
    """A link to what is no file. One to another file is that file, as in huggingface's cache."""
    file.unlink()
    target = random.choice(["/dev/zero", "/dev/random", file.name, "nowhere"])
    os.symlink(target, file)
    return f"a link to {target}"


_FILE_DAMAGE: tuple[Callable[[Random, Path, Place], str], ...] = (
    *(_damaged_content,) * 6, _gone, _linked,
)  # fmt: skip


def _sound_case(number: int, place: Place) -> Case:
    """One of the inputs that the other kinds damage, as it is."""
    _write_inputs(place)
    inputs = [(_image_nodes, *found) for found in sound_images()]
    inputs += [(_video_nodes, *found) for found in sound_videos()]
    if number == 0:
        return _read_by(_SMALL, place, "the small graph")
    if number <= len(inputs):
        nodes, suffix, data = inputs[number - 1]
        name = f"sound.{suffix}"
        return _reading(nodes(name, number % 2 == 0), place, name, data, f"{name} {number}")
    what = list(_LOADED)[number - len(inputs) - 1]
    return _read_by(_model_nodes(what, place), place, what)


SOUND_CASES = 1 + 12 + 8 + len(_LOADED)
KINDS: dict[str, Callable[[Random, Place], Case]] = {
    "workflow": workflow_case,
    "model": model_case,
    "image": image_case,
    "video": video_case,
}
