"""Containment: the only way a file name from a workflow becomes a path, and the only way out.

Names in a workflow come from strangers. Reading is confined to the run's input folders, writing to
its output folder: absolute paths, drive letters, `..`, network shares, control characters and
symbolic links that lead outside are refused with a sentence. Files appear whole or not at all.
"""

from __future__ import annotations

import difflib
import os
import re
import secrets
import time
from dataclasses import dataclass, field
from pathlib import Path

from .errors import listed, printable

LONGEST_NAME = 200  # bytes in one component; leaves room for the counter and the suffix in 255


@dataclass(frozen=True)
class Folders:
    """Where one run reads (`inputs`, in order) and writes (`out`); `saved` lists what it wrote."""

    out: Path
    inputs: tuple[Path, ...] = ()
    saved: list[Path] = field(default_factory=list)


def safe_parts(name: str, what: str) -> tuple[str, ...]:
    """Split a relative file name into its components, or raise.

    Both slashes separate on every system, so that a workflow means the same everywhere.

    Raises:
        ValueError: the name is empty, absolute, climbs out with `..`, or holds a colon (drive
            letters, streams), a control character or a component no file system takes.
    """
    shown = f"{what} '{printable(name)}'"
    if any(not letter.isprintable() for letter in name):
        raise ValueError(f"{shown} contains a control character; use plain letters.")
    if name.startswith(("/", "\\")):
        raise ValueError(f"{shown} is an absolute path; give a name relative to the folder.")
    if ":" in name:
        raise ValueError(f"{shown} contains ':' (a drive letter or stream); leave it out.")
    parts = tuple(part for part in re.split(r"[/\\]", name) if part not in ("", "."))
    if not parts:
        raise ValueError(f"{what} is empty; give a file name.")
    for part in parts:
        if not part.strip(". "):
            raise ValueError(f"{shown} leaves its folder through '{part}'; use plain names.")
        if len(os.fsencode(part)) > LONGEST_NAME:
            raise ValueError(f"{shown} is longer than {LONGEST_NAME} bytes; shorten it.")
    return parts


def _inside(path: Path, root: Path) -> Path | None:
    """`path` with every symbolic link followed, if that still lies in `root`; else None."""
    try:
        resolved = path.resolve()
    except (OSError, RuntimeError):  # a loop of links
        return None
    return resolved if resolved.is_relative_to(root.resolve()) else None


def find_input(name: str, folders: Folders) -> Path:
    """The existing regular file that `name` means in the run's input folders.

    The host's `name.mp4 [input]` annotation is understood; `[output]` and `[temp]`, which would
    read what other runs wrote, are refused.

    Raises:
        ValueError: the name is unsafe, leads out of the folders, or no such file is there.
    """
    annotation = re.search(r" ?\[(input|output|temp)\]$", name)
    if annotation and annotation[1] != "input":
        raise ValueError(
            f"file '{printable(name)}' asks for the {annotation[1]} folder; only input folders are "
            "read. Copy the file to an input folder and drop the suffix."
        )
    plain = name[: annotation.start()] if annotation else name
    parts = safe_parts(plain, "file")
    for root in folders.inputs:
        candidate = root.joinpath(*parts)
        if not os.path.lexists(candidate):
            continue
        resolved = _inside(candidate, root)
        if resolved is None:
            raise ValueError(
                f"file '{printable(plain)}' is a link that leads out of the input folder; copy the "
                "file itself there, or name its own folder with --input."
            )
        if resolved.is_file():
            return resolved
    raise ValueError(_not_found(plain, folders))


def _not_found(name: str, folders: Folders) -> str:
    """The sentence for a missing input file: where it was looked for and what is there instead."""
    if not folders.inputs:
        return f"file '{printable(name)}' cannot be found: no input folder; name one with --input."
    there = input_files(folders)
    close = difflib.get_close_matches(name, there, n=3)
    hint = f"Did you mean {listed(close)}?" if close else f"There are: {listed(there)}."
    return (
        f"file '{printable(name)}' is not in the input folder(s) "
        f"{', '.join(str(root) for root in folders.inputs)}. {hint}"
    )


def input_files(folders: Folders) -> list[str]:
    """Names of the regular files directly in the input folders, sorted, each once."""
    names: set[str] = set()
    for root in folders.inputs:
        if root.is_dir():
            names.update(entry.name for entry in root.iterdir() if entry.is_file())
    return sorted(names)


def output_place(prefix: str, folders: Folders, width: int, height: int) -> tuple[Path, str]:
    """The folder (inside `--out`) and the file stem that a save node's prefix means.

    Fills in the host's placeholders `%width%`, `%height%`, `%year%` ... `%second%`.

    Raises:
        ValueError: the prefix is unsafe or leads out of the output folder through a link.
    """
    now = time.localtime()
    known = {
        "width": str(width),
        "height": str(height),
        "year": str(now.tm_year),
        "month": f"{now.tm_mon:02}",
        "day": f"{now.tm_mday:02}",
        "hour": f"{now.tm_hour:02}",
        "minute": f"{now.tm_min:02}",
        "second": f"{now.tm_sec:02}",
    }
    filled = re.sub(r"%([a-z]+)%", lambda found: known.get(found[1], found[0]), prefix)
    *subfolders, stem = safe_parts(filled, "filename_prefix")
    folder = _inside(folders.out.joinpath(*subfolders), folders.out)
    if folder is None:
        raise ValueError(
            f"filename_prefix '{printable(prefix)}' leads out of the output folder through a link; "
            "choose another prefix."
        )
    return folder, stem


def next_number(folder: Path, stem: str) -> int:
    """One more than the highest number among `stem_NUMBER_*` in `folder` (the host's counting)."""
    opening = os.path.normcase(stem + "_")
    highest = 0
    for name in os.listdir(folder):
        if os.path.normcase(name[: len(opening)]) == opening:
            digits = re.match(r"[0-9]{1,18}(?![0-9])", name[len(opening) :])
            highest = max(highest, int(digits[0]) if digits else 0)
    return highest + 1


def publish(data: bytes, folder: Path, stem: str, suffix: str, folders: Folders) -> Path:
    """Write `data` as `folder/stem_00001_suffix` with the next free number, and return the path.

    The bytes go to a hidden `.part` file first and get their name when complete; an existing file
    is never replaced, even when two runs write to one folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f".{stem}.{secrets.token_hex(4)}.part"
    try:
        with open(part, "xb") as file:
            file.write(data)
        number = next_number(folder, stem)
        while True:
            target = folder / f"{stem}_{number:05}_{suffix}"
            try:
                os.link(part, target)
            except FileExistsError:
                number += 1
                continue
            except OSError:  # a file system without hard links
                os.replace(part, target)
            break
    finally:
        part.unlink(missing_ok=True)
    folders.saved.append(target)
    return target
