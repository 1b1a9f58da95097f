"""What a worker does with a line: Ray makes an actor of `Worker`, in a process of its own."""

from __future__ import annotations

import logging
import os
import platform
import shutil
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch

from ...nodes import host
from ..errors import NodeError, WorkflowError
from ..loaded import Loaded
from ..memory import peak_memory, reset_peak
from ..runner import run_workflow
from .cluster import Share
from .manifest import Line
from .pack import code, versions
from .windows import SplitWindows

TEMP = "temp"  # the folder in the output folder where previews go, which nobody keeps
MEASURES = "rescore_measures"  # under which a node shows its measures in its `ui`
MOST_WARNINGS = 100


@dataclass(frozen=True)
class Setup:
    """What all lines share.

    Attributes:
        batch: the id of the batch.
        code: the version of the pack that must run them, by its code.
        share: what a worker takes of a machine.
        cards: how many such shares a worker has in all, windows of long clips being split.
        classes: stand for the pack's own nodes, if given.
    """

    batch: str
    code: str
    share: Share = field(default_factory=Share)
    cards: int = 1
    classes: Mapping[str, type] | None = None


@dataclass(frozen=True)
class Job:
    """A line, the graph with its values in it, and the bytes of the input files it reads."""

    line: Line
    prompt: Mapping[str, object]
    files: dict[str, bytes]


@dataclass(frozen=True)
class Outcome:
    """What became of a line.

    Attributes:
        status: "done"; "failed", as it would anywhere; "refused", as this worker cannot run it but
            another may; "unfit", as this worker must not run any line of the batch.
        sentence: why it is not done.
        record: what is known of the run.
        files: what it wrote, by path below its folder.
    """

    status: Literal["done", "failed", "refused", "unfit"]
    sentence: str = ""
    record: dict[str, object] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)


class Worker:
    """Runs lines of one graph one after the other and keeps its models loaded in between.

    Ray starts it again when its process dies, with the same name: whatever the run before it left
    in the folder of that name is removed.
    """

    def __init__(self, setup: Setup, name: str) -> None:
        self.setup = setup
        self.place = Path(tempfile.gettempdir(), name)
        self.loaded = Loaded()
        self.spread = SplitWindows(setup.cards, setup.share) if setup.cards > 1 else None

    def run(self, job: Job) -> Outcome:
        """Run one line in a folder that is gone afterwards."""
        if self.setup.code != code():
            return Outcome(
                "unfit",
                f"{platform.node()} has another version of rescore (code {code()}, and the batch "
                f"was started with {self.setup.code}). Install the same version there.",
            )
        shutil.rmtree(self.place, ignore_errors=True)
        self.place.mkdir(mode=0o700)
        try:
            return self._run(job)
        finally:
            shutil.rmtree(self.place, ignore_errors=True)

    def _run(self, job: Job) -> Outcome:
        inputs, out = self.place / "input", self.place / "out"
        for name, data in job.files.items():
            (inputs / name).parent.mkdir(parents=True, exist_ok=True)
            (inputs / name).write_bytes(data)
        reset_peak()
        start = time.perf_counter()
        with _warnings() as warned, host.spreading(self.spread):
            try:
                result = run_workflow(
                    job.prompt,
                    out=out,
                    inputs=[inputs],
                    node_classes=self.setup.classes,
                    loaded=self.loaded,
                )
            except WorkflowError as error:
                return Outcome("refused", f"{platform.node()} cannot run it: {error.problems[0]}")
            except NodeError as error:
                return Outcome("failed", str(error), self._record(start, warned))
        record = self._record(start, warned)
        record["seconds"]["nodes"] = result.seconds
        record["measures"] = measures(result.ui)
        return Outcome("done", "", record, _written(out))

    def _record(self, start: float, warned: list[str]) -> dict[str, object]:
        device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
        return {
            "seconds": {"total": time.perf_counter() - start},
            "peak_memory": peak_memory(),
            "warnings": warned,
            "models": self.loaded.fingerprints(),
            "versions": versions(),
            "machine": {
                "name": platform.node(),
                "process": os.getpid(),
                "device": device,
                "threads": torch.get_num_threads(),
            },
        }


def measures(ui: Mapping[str, Mapping[str, list]]) -> dict[str, object]:
    """What measure nodes have shown: edit to measure to value, unit and direction."""
    found: dict[str, dict[str, object]] = {}
    for shown in ui.values():
        for table in shown.get(MEASURES, ()):
            for edit, values in table.items():
                found.setdefault(edit, {}).update(values)
    return found


def _written(out: Path) -> dict[str, bytes]:
    """All files under the output folder but previews, by path."""
    files = (file for file in sorted(out.rglob("*")) if file.is_file())
    names = ((file, file.relative_to(out)) for file in files)
    return {name.as_posix(): file.read_bytes() for file, name in names if name.parts[0] != TEMP}


@contextmanager
def _warnings() -> Iterator[list[str]]:
    """The warnings, of the log and of Python, that come in the meantime."""
    found: list[str] = []

    class Keeper(logging.Handler):
        def emit(self, entry: logging.LogRecord) -> None:
            if len(found) < MOST_WARNINGS:
                found.append(entry.getMessage())

    keeper = Keeper(logging.WARNING)
    logging.getLogger().addHandler(keeper)
    try:
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("default")
            yield found
    finally:
        logging.getLogger().removeHandler(keeper)
        found += [str(warning.message) for warning in seen[: MOST_WARNINGS - len(found)]]
