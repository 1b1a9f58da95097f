"""Figures that take long: each is computed once, kept on disk at once, and a command goes on."""

import argparse
import json
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from hashlib import blake2b
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

RUNS = Path(__file__).resolve().parents[1] / "runs"  # of what a command has made so far


class Kept:
    """Figures by row and clip, in a file that is whole after every one of them.

    Raises:
        ValueError: if the file was made with other settings.
    """

    def __init__(self, file: Path, settings: Mapping[str, Any]) -> None:
        self.file, self.settings = file, json.loads(json.dumps(settings))
        self.figures: dict[str, dict[str, Any]] = {}
        if file.exists():
            found = json.loads(file.read_text("utf-8"))
            if found["settings"] != self.settings:
                raise ValueError(
                    f"{file} holds figures of {found['settings']}, and {self.settings} were asked "
                    "for. Ask for the former to go on, or move the file away to begin anew."
                )
            self.figures = found["figures"]

    def missing(self, tasks: Iterable[tuple[str, int]]) -> list[tuple[str, int]]:
        """Those of these (row, clip) that are not there yet."""
        return [(row, clip) for row, clip in tasks if str(clip) not in self.figures.get(row, {})]

    def add(self, row: str, clip: int, figures: Any) -> None:
        # As the file gives them back, whose keys are texts.
        self.figures.setdefault(row, {})[str(clip)] = json.loads(json.dumps(figures))
        self.file.parent.mkdir(parents=True, exist_ok=True)
        whole = self.file.with_suffix(".part")
        text = json.dumps({"settings": self.settings, "figures": self.figures}, indent=0)
        whole.write_text(text + "\n", "utf-8")
        whole.replace(self.file)

    def shared(self, rows: Sequence[str]) -> list[str]:
        """The clips of which all these rows are there: what can be compared clip by clip."""
        found = [self.figures.get(row, {}) for row in rows]
        return sorted(set(found[0]).intersection(*found[1:]), key=int) if found else []


def processes(jobs: int) -> ProcessPoolExecutor:
    """Processes of one thread each; clips are spread over them, for a batch is no faster on a CPU.

    They start afresh, for a fork of a process that has already used torch may hang. They keep the
    memory that tensors give back: glibc would return it to the system and fault it in again at each
    tensor of a megabyte or more, which takes a fifth to a quarter of the time of delta denoising.
    """
    os.environ.setdefault("MALLOC_MMAP_THRESHOLD_", str(10**9))
    os.environ.setdefault("MALLOC_TRIM_THRESHOLD_", str(4 * 10**9))
    return ProcessPoolExecutor(jobs, get_context("spawn"), torch.set_num_threads, (1,))


def named(*told: object) -> str:
    """A short name, alike for what is told alike."""
    return blake2b(repr(told).encode(), digest_size=12).hexdigest()


def on_disk(file: Path, make: Callable[[], Any]) -> Any:
    """What `make` gives, from the file where it was made before; the file is whole or not there."""
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        begun = file.with_suffix(".part")
        torch.save(make(), begun)
        begun.replace(file)
    return torch.load(file, weights_only=False)


def asking(doc: str | None, *, clips: int, of: str = "") -> argparse.ArgumentParser:
    """The options that every table shares which goes on where it was stopped."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--clips", type=int, default=clips, help=of)
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    return parser


def compute(
    kept: Kept, work: Callable[[str, int], Any], tasks: Iterable[tuple[str, int]], *, jobs: int
) -> None:
    """Every (row, clip) that is missing, in order; what is done stays if the command is stopped.

    `work(row, clip)` runs in the `processes`.
    """
    missing, began = kept.missing(tasks), time.monotonic()
    with processes(jobs) as pool:
        results = pool.map(work, *zip(*missing, strict=True)) if missing else ()
        for number, ((row, clip), figures) in enumerate(zip(missing, results, strict=True), 1):
            kept.add(row, clip, figures)
            seconds = time.monotonic() - began
            print(f"{number}/{len(missing)} clip {clip}, {row}: {seconds:.0f} s", flush=True)
