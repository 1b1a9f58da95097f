"""Runs hostile inputs one after the other, watched: what is opened, asked for, started and told.

A process of its own, for the watch cannot be taken off again, and an input may end it. It reads a
line for each case, `KIND SEED`, and answers with a line of JSON.
"""

import json
import mimetypes
import os
import re
import resource
import shutil
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Iterable
from pathlib import Path

from rescore.headless.errors import NodeError, WorkflowError
from rescore.headless.paths import Folders
from rescore.headless.runner import all_nodes, run_workflow
from rescore.headless.validate import make_plan
from rescore.headless.workflow import read_workflow

from .fuzz_damage import Place
from .fuzz_inputs import Case, make

ROOT = Path(__file__).resolve().parent.parent
MEMORY = 6 * 2**30  # bytes that a case may ask for beside what is there
# What reaches out of the process, whatever it is given.
FORBIDDEN = (
    "socket.bind", "socket.connect", "socket.getaddrinfo", "socket.sendto", "subprocess.Popen",
    "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.system", "pty.spawn",
    "urllib.Request", "webbrowser.open",
)  # fmt: skip
# Events that change the files named by their first arguments.
WRITING = {
    "os.chmod": 1, "os.link": 2, "os.mkdir": 1, "os.remove": 1, "os.rename": 2, "os.rmdir": 1,
    "os.symlink": 2, "os.truncate": 1, "os.utime": 1, "shutil.rmtree": 1,
}  # fmt: skip
# What Python, torch and the system read of themselves.
SYSTEM = (
    "/proc", "/sys", "/usr", "/lib", "/lib64", "/dev/null", "/dev/urandom", "/etc/localtime",
    *mimetypes.knownfiles,
)  # fmt: skip


class Watch:
    """An audit hook: while `on`, notes files, addresses and processes beyond what is allowed."""

    def __init__(self, readable: Iterable[Path | str], writable: Iterable[Path | str]) -> None:
        self.writable = tuple(os.path.realpath(path) for path in writable)
        self.readable = (*self.writable, *(os.path.realpath(path) for path in readable))
        self.on, self.seen = False, []

    def __call__(self, event: str, args: tuple) -> None:
        if not self.on:
            return
        if event in FORBIDDEN:
            self.seen.append(f"{event} {args!r}"[:200])
        elif event == "open":
            path, _, flags = args
            writes = bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
            self._look(event, path, self.writable if writes else self.readable)
        elif event in WRITING:
            for path in args[: WRITING[event]]:
                self._look(event, path, self.writable)

    def _look(self, event: str, path: object, allowed: tuple[str, ...]) -> None:
        if not isinstance(path, str | bytes | os.PathLike):
            return  # a file that is open already
        place = os.path.realpath(os.fsdecode(path))
        if not any(place == root or place.startswith(root + os.sep) for root in allowed):
            self.seen.append(f"{event} {place}")


class Outside:
    """A file and an address that nothing may reach, also where no Python code does it."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.file = folder / "outside.txt"
        self.file.write_text("secret\n" * 99, "utf-8")
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.socket.setblocking(False)

    @property
    def port(self) -> int:
        return self.socket.getsockname()[1]

    def close_eyes(self) -> None:
        """Forget what has been: the file counts as read long ago, before it was written."""
        os.utime(self.file, (0, time.time()))

    def reached(self) -> list[str]:
        """What has been reached since then."""
        found = ["the file outside was read"] if self.file.stat().st_atime > 1 else []
        try:
            self.socket.accept()[0].close()
        except BlockingIOError:
            return found
        return [*found, "the address outside was called"]


def told(error: BaseException) -> bool:
    """Whether an error is a sentence of ours, and not what a library or a slip of ours left."""
    if isinstance(error, WorkflowError):
        return all(_is_sentence(problem) for problem in error.problems)
    cause = error.__cause__ if isinstance(error, NodeError) else None
    if not isinstance(cause, ValueError | OSError | MemoryError | FloatingPointError):
        return False
    *_, last = traceback.walk_tb(cause.__traceback__)
    ours = Path(last[0].f_code.co_filename).resolve().is_relative_to(ROOT)
    return ours and _is_sentence(str(error))


def _is_sentence(text: str) -> bool:
    # Some are followed by a command to type.
    return len(text.split()) > 3 and re.search(r"[.?!](\s|$)", text) is not None


def run(case: Case, place: Place) -> Exception | None:
    """Run a case, or check it; what it raised."""
    try:
        raw = read_workflow(case.workflow)
        if case.only_checked:
            make_plan(raw, all_nodes(Folders(place.out, (place.input,))))
        else:
            run_workflow(raw, out=place.out, inputs=[place.input], keep=case.wanted)
    except Exception as error:
        return error
    return None


def judged(error: Exception | None) -> tuple[str, str]:
    """How a case ended that raised this: "done", "told", "memory" or "untold"; and its words."""
    if error is None:
        return "done", ""
    if told(error):
        return "told", str(error)
    cause = error.__cause__ or error
    if isinstance(cause, MemoryError) or "can't allocate memory" in str(cause):
        return "memory", str(error)
    return "untold", "".join(traceback.format_exception(error))[-3000:]


def work(root: Path) -> None:
    """Answer the cases that come on standard input, with files in `root` alone."""
    outside, home = Outside(root / "beside"), root / "home"
    place = Place(root / "case", outside.file, outside.port)
    os.environ |= {
        "RESCORE_MODELS": str(place.models), "HF_HOME": str(home), "HF_HUB_OFFLINE": "1",
        "MPLCONFIGDIR": str(home), "XDG_CACHE_HOME": str(home),
    }  # fmt: skip
    home.mkdir(exist_ok=True)
    tempfile.tempdir = str(home)
    os.chdir(home)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    packages = [path for path in sys.path if path]
    watch = Watch([ROOT, sys.prefix, sys.base_prefix, *packages, *SYSTEM], [place.root, home])
    sys.addaudithook(watch)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, -1))
    for line in sys.stdin:
        kind, seed = line.split()
        case = make(kind, int(seed), place)
        outside.close_eyes()
        start = time.monotonic()
        watch.on, watch.seen = True, []
        error = run(case, place)
        watch.on, seconds = False, time.monotonic() - start
        outcome, message = judged(error)
        reached = [*dict.fromkeys(watch.seen), *outside.reached()]
        left = [str(path) for path in place.out.rglob(".*")] if place.out.exists() else []
        if reached:
            outcome, message = "reached", "\n".join(reached)
        elif left:
            outcome, message = "left", f"half-written: {left}"
        del error  # and all that its traceback holds
        answer = {"outcome": outcome, "what": case.what, "message": message, "seconds": seconds}
        print(json.dumps(answer), file=answers, flush=True)
    shutil.rmtree(place.root, ignore_errors=True)
