"""What a batch costs beside its runs, and what it survives; on two cores, one thread a worker.

python benchmarks/batch.py                  all parts
python benchmarks/batch.py --parts memory   one of throughput, start, kills, memory

Ray tells of its object store with the help of grpcio: pip install grpcio.
"""

import argparse
import json
import logging
import os
import random
import re
import shlex
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from statistics import fmean, median
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
# Ray's workers give way to other processes; the plain loop does not, and both are to be alike.
os.environ.setdefault("RAY_worker_niceness", "0")

import ray
import torch
from measuring import add_settings, made, markdown, settings_of, write_report
from ray._private.internal_api import memory_summary
from rescore.headless.batch.batch import Options, Summary, run_batch
from rescore.headless.batch.manifest import Line
from rescore.headless.loaded import Loaded
from rescore.headless.runner import run_workflow
from rescore.headless.workflow import read_workflow

ROOT = Path(__file__).resolve().parents[1]
INPUTS = [ROOT / "workflows" / "input"]
REPORT = ROOT / "benchmarks" / "batch_report"
# A grey picture of core nodes alone: what remains is the batch itself.
TINY = {
    "1": {
        "class_type": "SolidMask",
        "inputs": {"value": 0.5, "width": 64, "height": 64},
        "_meta": {"title": "Grey"},
    },
    "2": {"class_type": "MaskToImage", "inputs": {"mask": ["1", 0]}},
    "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "x"}},
}


@dataclass(frozen=True)
class Run:
    lines: int = 12  # of real edits, in each round
    steps: int = 40
    rounds: int = 3
    killed_lines: int = 200
    kill_share: float = 0.05
    tiny_lines: int = 1000
    seed: int = 0


def real_lines(run: Run) -> tuple[dict[str, Any], list[Line]]:
    """The graph delta_denoising, and lines of another seed each."""
    graph = read_workflow(ROOT / "workflows" / "api" / "delta_denoising.json")
    steps = {"Score Distillation.steps": run.steps}
    lines = [
        Line(i + 1, f"l{i}", "", {**steps, "Score Distillation.seed": i}) for i in range(run.lines)
    ]
    return graph, lines


def tiny_lines(count: int) -> list[Line]:
    return [Line(i + 1, f"t{i}", "", {"Grey.value": i / count}) for i in range(count)]


@contextmanager
def local_ray() -> Iterator[None]:
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    try:
        yield
    finally:
        ray.shutdown()


def published(out: Path) -> list[tuple[float, float]]:
    """When each line was there, and the seconds that its worker took, in the order of time."""
    found = []
    for file in (out / "results").glob("*/record.json"):
        seconds = json.loads(file.read_text("utf-8"))["seconds"]["total"]
        found.append((file.stat().st_mtime, seconds))
    return sorted(found)


# --- throughput and the cost of a line ------------------------------------------------------------


def loop(run: Run, out: Path) -> float:
    """Lines a second of a plain loop that keeps its models, from the end of the first line on."""
    graph, lines = real_lines(run)
    loaded, ends = Loaded(), []
    for line in lines:
        run_workflow(
            graph, out=out / line.id, inputs=INPUTS, overrides=line.settings, loaded=loaded
        )
        ends.append(time.monotonic())
    return (len(ends) - 1) / (ends[-1] - ends[0])


def batch(run: Run, out: Path, workers: int) -> tuple[float, list[float]]:
    """Lines a second of a batch, from the first line of each worker on; and what lay between them.

    What lies between two lines of one worker is the time beside the run itself.
    """
    graph, lines = real_lines(run)
    summary = run_batch(graph, lines, out=out, inputs=INPUTS, options=Options(workers=workers))
    assert summary.done == len(lines)
    times = published(out)
    rate = (len(times) - workers) / (times[-1][0] - times[workers - 1][0])
    gaps = [after - before - seconds for (before, _), (after, seconds) in pairwise(times)]
    return rate, gaps if workers == 1 else []


def throughput(run: Run) -> tuple[list[str], dict[str, Any]]:
    """Rounds of all three in turn, as other work on the machine comes and goes."""
    rates: dict[str, list[float]] = {"plain loop": [], "1 worker": [], "2 workers": []}
    gaps: list[float] = []
    with local_ray():
        for _ in range(run.rounds):
            with tempfile.TemporaryDirectory() as place:
                rates["plain loop"].append(loop(run, Path(place, "loop")))
                rate, between = batch(run, Path(place, "one"), 1)
                rates["1 worker"].append(rate)
                gaps += between
                rates["2 workers"].append(batch(run, Path(place, "two"), 2)[0])
    plain = rates["plain loop"]
    rows = [
        [
            name,
            f"{60 * median(found):.1f}",
            f"{median(mine / alone for mine, alone in zip(found, plain, strict=True)):.2f}",
        ]
        for name, found in rates.items()
    ]
    lines = [
        *markdown(["", "lines a minute", "times the plain loop"], rows),
        "",
        f"Between two lines of a worker {1000 * median(gaps):.0f} ms pass beside the runs "
        f"themselves (median of {len(gaps)}; the mean is {1000 * fmean(gaps):.0f}): "
        f"{median(gaps) / 10:.2%} of an edit of 10 s.",
    ]
    return lines, {"rates": rates, "gaps": gaps}


# --- the start ------------------------------------------------------------------------------------


def command_seconds(module: str, *arguments: object) -> float:
    """How long a command of the pack takes as a process."""
    start = time.monotonic()
    subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)], check=True, capture_output=True
    )
    return time.monotonic() - start


def start(run: Run) -> tuple[list[str], dict[str, Any]]:
    """One short edit by itself and as a batch of one."""
    found: dict[str, list[float]] = {"rescore.headless": [], "rescore.headless.batch": []}
    graph = ROOT / "workflows" / "api" / "delta_denoising.json"
    for _ in range(run.rounds):
        with tempfile.TemporaryDirectory() as place:
            manifest = Path(place, "one.jsonl")
            manifest.write_text('{"id": "a", "Score Distillation.steps": 1}\n', "utf-8")
            found["rescore.headless"].append(
                command_seconds(
                    "rescore.headless", graph, "--out", Path(place, "bare"),
                    "--set", "Score Distillation.steps=1",
                )
            )  # fmt: skip
            found["rescore.headless.batch"].append(
                command_seconds(
                    "rescore.headless.batch", graph, manifest, "--out", Path(place, "batch")
                )
            )
    more = median(b - a for a, b in zip(*found.values(), strict=True))
    rows = [[f"`{name}`", f"{median(seconds):.1f}"] for name, seconds in found.items()]
    lines = [
        *markdown(["one edit of one step", "s"], rows),
        "",
        f"A batch takes {more:.1f} s more, once: {more / (100 * 10):.2%} of 100 edits of 10 s.",
    ]
    return lines, {"seconds": found, "more": more}


# --- kills ----------------------------------------------------------------------------------------


def workers() -> list[int]:
    """The processes that run lines just now."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if (entry / "cmdline").read_bytes().startswith(b"ray::Worker.run"):
                found.append(int(entry.name))
        except OSError:  # it has ended meanwhile
            continue
    return found


def killing(run: Run, out: Path, over: threading.Event, killed: list[int]) -> None:
    """Kill a worker at random, for so large a share of the lines that are done."""
    chance = random.Random(run.seed)
    folder, seen = out / "results", 0
    while not over.wait(0.005):
        done = len(list(folder.iterdir())) if folder.exists() else 0
        for _ in range(done - seen):
            alive = workers()
            if chance.random() < run.kill_share and alive:
                killed.append(chance.choice(alive))
                os.kill(killed[-1], 9)
        seen = max(seen, done)


def kills(run: Run) -> tuple[list[str], dict[str, Any]]:
    killed: list[int] = []
    over = threading.Event()
    with local_ray(), tempfile.TemporaryDirectory() as place:
        out = Path(place, "out")
        thread = threading.Thread(target=killing, args=(run, out, over, killed))
        thread.start()
        try:
            # A line takes a moment, so that it can be killed in the middle.
            heavy = {
                **TINY,
                "1": {**TINY["1"], "inputs": {"value": 0, "width": 900, "height": 900}},
            }
            summary: Summary = run_batch(heavy, tiny_lines(run.killed_lines), out=out)
        finally:
            over.set()
            thread.join()
        records = list((out / "results").glob("*/record.json"))
    lines = [
        f"{len(killed)} times in {run.killed_lines} lines a worker was killed at a random moment: "
        f"{summary.done} lines are done, {len(records)} results are there, "
        f"{len(summary.failed)} failed.",
    ]
    return lines, {"killed": len(killed), "done": summary.done, "failed": len(summary.failed)}


# --- memory ---------------------------------------------------------------------------------------


def resident() -> float:
    """MiB of memory that this process holds."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def stored() -> tuple[float, int]:
    """MiB in Ray's object store, and how many objects."""
    told = memory_summary(stats_only=True)
    found = re.search(r"Plasma memory usage ([\d.]+) MiB, (\d+) objects", told)
    return float(found[1]), int(found[2])


def memory(run: Run) -> tuple[list[str], dict[str, Any]]:
    """Driver and store while many tiny lines go by."""
    samples: list[tuple[int, float, float, int]] = []
    over = threading.Event()
    with local_ray(), tempfile.TemporaryDirectory() as place:
        folder = Path(place, "out", "results")
        marks = [round(run.tiny_lines * share) for share in (0.1, 0.25, 0.5, 0.75, 0.99)]

        def watch() -> None:
            while marks and not over.wait(0.05):
                done = len(list(folder.iterdir())) if folder.exists() else 0
                if done >= marks[0]:
                    samples.append((done, resident(), *stored()))
                    marks.pop(0)

        thread = threading.Thread(target=watch)
        thread.start()
        try:
            run_batch(TINY, tiny_lines(run.tiny_lines), out=Path(place, "out"))
        finally:
            over.set()
            thread.join()
    if marks:
        raise RuntimeError(f"Memory was looked at {len(samples)} times only; is grpcio installed?")
    rows = [
        [str(done), f"{driver:.0f}", f"{store:.1f}", str(count)]
        for done, driver, store, count in samples
    ]
    head = ["lines done", "driver, MiB", "object store, MiB", "objects in it"]
    return markdown(head, rows), {"samples": samples}


PARTS: dict[str, tuple[str, Callable[[Run], tuple[list[str], dict[str, Any]]]]] = {
    "throughput": ("Throughput", throughput),
    "start": ("The start", start),
    "kills": ("Killed workers", kills),
    "memory": ("Memory over many lines", memory),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=list(PARTS))
    parser.add_argument("--report", action="store_true", help=f"write {REPORT.name}")
    add_settings(parser, Run)
    options = parser.parse_args()
    run = settings_of(options, Run)
    torch.set_num_threads(1)
    page = [
        "# What a batch costs",
        "",
        made(shlex.join(["python", "benchmarks/batch.py", *sys.argv[1:]])),
        f"The graph delta_denoising with the tiny model, {run.steps} steps, {run.lines} lines in "
        f"each of {run.rounds} rounds; two CPU cores, one thread a worker.",
    ]
    figures: dict[str, Any] = {"settings": asdict(run), "load": []}
    for name in options.parts:
        title, part = PARTS[name]
        figures["load"].append(os.getloadavg()[0])
        lines, figures[name] = part(run)
        print("\n".join([title, *lines, ""]), flush=True)
        page += ["", f"## {title}", "", *lines]
    if options.report:
        busy = max(figures["load"])
        page += [
            "",
            f"Other work ran on the machine meanwhile: the load was up to {busy:.1f} when a part "
            "began. What is compared ran in turns."
            if busy > 1
            else "Nothing else ran on the machine.",
        ]
        write_report(REPORT, page, figures)


if __name__ == "__main__":
    main()
