"""Damaged workflows, model folders, images and videos, thousands of them: each is read, or told of.

    python benchmarks/fuzz.py --cases 1000                  # of each kind; prints the counts
    python benchmarks/fuzz.py --kinds video --first 5000    # others
    python benchmarks/fuzz.py --kinds image --first 17 --cases 1    # one of them again

A case ends well if it is "done" (the damage did no harm) or "told": a sentence of this pack, within
seconds. It also says so where the limit on memory is met ("memory"). Everything else is a fault:
"untold" (an error of a library, or none of ours), "reached" (a file outside of the case's folders
was opened, an address called, a process started), "left" (something half-written), "slow" and
"died". Faults are listed with the number that makes them again.
"""

import argparse
import json
import selectors
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
KINDS = ("sound", "workflow", "model", "image", "video")  # sound: nothing is damaged
WELL = ("done", "told", "memory")
FAULTS = ("untold", "reached", "left", "slow", "died")
_START = """
import runpy, sys
from pathlib import Path
root, place = sys.argv[1:]
runpy.run_path(root + "/tests/importable.py")
sys.path.append(root + "/tests")
from rescore.benchmarks.fuzz_worker import work
print("ready", flush=True)
work(Path(place))
"""


class Verdict(NamedTuple):
    """How a case ended."""

    kind: str
    seed: int
    outcome: str  # one of WELL or FAULTS
    what: str  # was damaged
    message: str
    seconds: float

    def __str__(self) -> str:
        return f"{self.kind} {self.seed}, {self.what}: {self.outcome}\n    {self.message}"


class Worker:
    """A process that runs cases, and is started anew after one that ended or stopped it."""

    def __init__(self, folder: Path, seconds: float) -> None:
        self.folder, self.seconds = folder, seconds
        self._process: subprocess.Popen | None = None

    def run(self, kind: str, seed: int) -> Verdict:
        """One case."""
        if self._process is None:
            self._start()
        self._process.stdin.write(f"{kind} {seed}\n")
        self._process.stdin.flush()
        line = self._line(self.seconds)
        if line is None:
            self.stop()
            return Verdict(kind, seed, "slow", "?", "stopped", self.seconds)
        if not line:
            code = self._process.wait()
            self.stop()
            last = (self.folder / "errors.txt").read_text("utf-8", "replace")[-2000:]
            return Verdict(kind, seed, "died", "?", f"the process ended with {code}\n{last}", 0.0)
        return Verdict(kind, seed, **json.loads(line))

    def _start(self) -> None:
        with open(self.folder / "errors.txt", "wb") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _START, str(ROOT), str(self.folder)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        if self._line(600) != "ready\n":
            raise RuntimeError("The worker does not start; run benchmarks/fuzz_worker.py by hand.")

    def _line(self, seconds: float) -> str | None:
        """The next line of the worker, "" at its end, None if there is none in time."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            return self._process.stdout.readline() if selector.select(seconds) else None

    def stop(self) -> None:
        """End the process, if it runs."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


def campaign(cases: Iterable[tuple[str, int]], seconds: float) -> Iterator[Verdict]:
    """The verdicts of cases, (kind, seed), each stopped after so many seconds."""
    with tempfile.TemporaryDirectory(prefix="rescore-fuzz-") as folder:
        worker = Worker(Path(folder), seconds)
        try:
            for kind, seed in cases:
                yield worker.run(kind, seed)
        finally:
            worker.stop()


def main() -> int:
    """Run the command line: the counts, and 1 if there was a fault."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS[1:])
    parser.add_argument("--cases", type=int, default=1000, help="of each kind")
    parser.add_argument("--first", type=int, default=0, help="the number of the first case")
    parser.add_argument("--seconds", type=float, default=30.0, help="that a case may take")
    options = parser.parse_args()
    seeds = range(options.first, options.first + options.cases)
    counts: dict[str, Counter] = {kind: Counter() for kind in options.kinds}
    for verdict in campaign(((k, s) for k in options.kinds for s in seeds), options.seconds):
        counts[verdict.kind][verdict.outcome] += 1
        if verdict.outcome in FAULTS:
            print(verdict, flush=True)
    print(f"| kind | {' | '.join((*WELL, *FAULTS))} |")
    for kind, count in counts.items():
        print(f"| {kind} | {' | '.join(str(count[o]) for o in (*WELL, *FAULTS))} |")
    return int(any(count[fault] for count in counts.values() for fault in FAULTS))


if __name__ == "__main__":
    sys.exit(main())
