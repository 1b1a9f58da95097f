"""FiVE-Bench (Li et al., 2025, arXiv 2503.13684): 100 videos, 420 pairs of prompts, with masks.

As published on Hugging Face (LIMinghan/FiVE-Fine-Grained-Video-Editing-Benchmark), unpacked:

    edit_prompt/edit1_FiVE.json ... edit6_FiVE.json    lists of pairs, a file for each kind of edit
    videos/NAME.mp4
    bmasks/NAME/00001.jpg ...                          where the edit may act, a picture a frame
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

from ..errors import WorkflowError, printable
from ..paths import safe_parts
from ..workflow import strict_json
from .pairs import Pair, write_whole

FILES = re.compile(r"(edit\d+)_FiVE\.json")
PICTURES = (".jpg", ".jpeg", ".png")
RATE = Fraction(24)  # frames a second; masks are used one by one
MASKS = "masks"  # below the folder of the manifest


def read_pairs(folder: Path) -> list[Pair]:
    """All pairs of the benchmark, grouped by the kind of edit.

    Raises:
        WorkflowError: something is missing or is not as published; every fault is named.
    """
    prompts = folder / "edit_prompt"
    files = sorted(file for file in prompts.glob("*.json") if FILES.fullmatch(file.name))
    if not files:
        raise WorkflowError(
            [
                f"{folder} is no FiVE-Bench: it has no edit_prompt/edit1_FiVE.json and others like "
                "it. Name the folder that holds edit_prompt, videos and bmasks, unpacked."
            ]
        )
    pairs: list[Pair] = []
    problems: list[str] = []
    for file in files:
        for number, entry in enumerate(_entries(file, problems)):
            try:
                pairs.append(_pair(folder, file, number, entry))
            except ValueError as error:
                problems.append(f"{file.name}, entry {number}: {error}")
    if problems:
        raise WorkflowError(problems)
    return pairs


def _entries(file: Path, problems: list[str]) -> Iterator[object]:
    try:
        entries = strict_json(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        problems.append(f"{file} cannot be read: {printable(error, 200)}.")
        return
    if not isinstance(entries, list):
        problems.append(f"{file} holds no list of pairs.")
        return
    yield from entries


def _pair(folder: Path, file: Path, number: int, entry: object) -> Pair:
    if not isinstance(entry, dict):
        raise ValueError("it is no object.")
    video, source, target = (
        _text(entry, key) for key in ("video_name", "source_prompt", "target_prompt")
    )
    (name,) = safe_parts(video, "video_name")
    for place in (folder / "videos" / f"{name}.mp4", folder / "bmasks" / name):
        if not place.exists():
            raise ValueError(
                f"{place.relative_to(folder)} is missing; unpack it from its zip file."
            )
    kind = FILES.fullmatch(file.name)[1]
    return Pair(
        id=f"{kind}-{number:03}-{name}",
        group=kind,
        clip=f"videos/{name}.mp4",
        source=source,
        target=target,
        mask=f"{MASKS}/{name}.mp4",
    )


def _text(entry: dict, key: str) -> str:
    """A text of an entry; the words that differ stand in brackets, which the authors drop."""
    value = entry.get(key)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"'{key}' is missing or no text.")
    return value.replace("[", "").replace("]", "")


def write_masks(folder: Path, out: Path) -> None:
    """Write the masks of all videos as clips that a graph can load, white where the edit may act.

    A pixel is in the mask where its picture is not black, as in the authors' evaluation; the clips
    are without loss.
    """
    for place in sorted(entry for entry in (folder / "bmasks").iterdir() if entry.is_dir()):
        pictures = sorted(file for file in place.iterdir() if file.suffix.lower() in PICTURES)
        if not pictures:
            raise WorkflowError([f"{place} holds no pictures."])
        write_whole(out / MASKS / f"{place.name}.mp4", lambda part, p=pictures: write_mask(p, part))


def write_mask(pictures: list[Path], file: Path) -> None:
    """Write one clip from pictures of a mask."""
    with av.open(str(file), "w") as output:
        stream = output.add_stream("libx264", rate=RATE, options={"qp": "0"})
        stream.pix_fmt = "gray"
        for index, picture in enumerate(pictures):
            with Image.open(picture) as image:
                mask = np.array(image.convert("L"))
            pixels = np.where(mask > 0, 255, 0).astype(np.uint8)
            if index == 0:
                stream.height, stream.width = pixels.shape
            if pixels.shape != (stream.height, stream.width):
                raise WorkflowError([f"{picture} is of another size than the pictures before it."])
            frame = av.VideoFrame.from_ndarray(pixels, format="gray")
            frame.pts, frame.time_base = index, 1 / RATE
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
