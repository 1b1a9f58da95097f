"""What benchmarks are made of: a clip, what it shows and what it should show, perhaps a mask."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..batch.manifest import checked_id
from ..errors import WorkflowError


@dataclass(frozen=True)
class Pair:
    """One edit of a benchmark; files are relative to the folders that a batch is given."""

    id: str
    group: str
    clip: str
    source: str
    target: str
    mask: str | None = None


@dataclass(frozen=True)
class Inputs:
    """The inputs of the graph that take the parts of a pair, as `NODE.INPUT`, any number each.

    The defaults are those of the graphs that come with the pack.
    """

    clip: tuple[str, ...] = ("Clip to edit.file",)
    source: tuple[str, ...] = ("Encode Prompt Pair.source_prompt",)
    target: tuple[str, ...] = ("Encode Prompt Pair.target_prompt",)
    mask: tuple[str, ...] = ("Mask: white may change.file",)

    def line(self, pair: Pair) -> str:
        """The line of a manifest."""
        entry = {"id": checked_id(pair.id), "group": pair.group}
        for names, value in (
            (self.clip, pair.clip),
            (self.source, pair.source),
            (self.target, pair.target),
            (self.mask, pair.mask),
        ):
            entry |= {name: value for name in names if value is not None}
        return json.dumps(entry, ensure_ascii=False)


def write_manifest(file: Path, pairs: Sequence[Pair], inputs: Inputs) -> None:
    """Write the lines of all pairs, as a whole or not at all.

    Raises:
        WorkflowError: a pair has no plain name, or the file cannot be written.
    """
    try:
        text = "".join(inputs.line(pair) + "\n" for pair in pairs)
    except ValueError as error:
        raise WorkflowError(
            [f"The data folder holds a name that no result can have: {error}"]
        ) from error
    write_whole(file, lambda part: part.write_text(text, "utf-8"))


def write_whole(file: Path, write: Callable[[Path], object]) -> None:
    """Have a file written under another name, and give it its own when it is complete."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f".{file.stem}.{secrets.token_hex(4)}.part{file.suffix}")
    try:
        write(part)
        os.replace(part, file)
    finally:
        part.unlink(missing_ok=True)
