"""Starts the ComfyUI in a folder with our pack as its only custom node, and stops it again.

The host gets folders of its own for everything it writes, so the user's ComfyUI stays as it was.
"""

import ast
import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .comfyui import LOOPBACK, ComfyUI

HERE = Path(__file__).resolve().parent
PACK_NAME = "rescore"
STAND_INS = ("torchvision", "torchaudio")
# Listed in the host's requirements.txt, but it starts and runs our workflows without them.
DISPENSABLE = (
    "comfyui-workflow-templates",
    "comfyui-embedded-docs",
    "spandrel",
    "PyOpenGL",
    "comfy-angle",
    *STAND_INS,
)
FRONT_END = "comfyui-frontend-package"
# Where dev.py puts the front ends of hosts that need another one than this Python has.
FRONT_ENDS = Path(sys.prefix) / "front_ends"
# Parts of a working copy that the pack runs without; left out where a link cannot be made.
NOT_COPIED = shutil.ignore_patterns(".*", "__pycache__", "tests", "benchmarks")


def checks_of(script: Path) -> list[str]:
    """The names of a script's checks, read off its text: only a host can import it."""
    return [
        node.name
        for node in ast.parse(script.read_text("utf-8")).body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("check_")
    ]


def answers_of(script: Path, *arguments: object, work: Path) -> dict[str, str]:
    """What went wrong in each check of a script, "" where nothing did: all in one process.

    The script writes its answers into the file that it gets after `arguments`.
    """
    answers = work / "found.json"
    run = subprocess.run(
        [sys.executable, str(script), *map(str, arguments), str(answers), "--cpu"],
        env=host_environment(work),
        cwd=work,
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert run.returncode == 0, run.stderr
    return json.loads(answers.read_text("utf-8"))


def missing_packages(comfyui: Path) -> list[str]:
    """The distributions of the host's requirements.txt that this interpreter lacks.

    Those it can start without, and those that have a stand-in here, are not counted.
    """
    lines = (comfyui / "requirements.txt").read_text(encoding="utf-8").splitlines()
    names = [found[0] for line in lines if (found := re.match(r"[A-Za-z0-9][A-Za-z0-9._-]*", line))]
    return [name for name in names if name not in DISPENSABLE and not installed(name)]


def installed(distribution: str) -> str | None:
    """The version of a distribution that this interpreter has, or None."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def front_end_version(comfyui: Path) -> str | None:
    """The version of the front end that the host's requirements.txt pins, if it does."""
    text = (comfyui / "requirements.txt").read_text(encoding="utf-8")
    pinned = re.search(rf"^{FRONT_END}==(\S+)", text, re.MULTILINE)
    return pinned and pinned[1]


def front_end_root(comfyui: Path) -> Path | None:
    """The folder of the host's own front end; None where it is the one this interpreter has."""
    version = front_end_version(comfyui)
    if version in (None, installed(FRONT_END)):
        return None
    return FRONT_ENDS / version / "comfyui_frontend_package" / "static"


def place_pack(pack: Path, custom_nodes: Path) -> Path:
    """Shows the pack to the host as `custom_nodes/rescore`: a link, or a copy where links fail."""
    place = custom_nodes / PACK_NAME
    try:
        place.symlink_to(pack, target_is_directory=True)
    except OSError:  # Windows without the right to make links
        shutil.copytree(pack, place, ignore=NOT_COPIED)
    return place


def host_environment(base: Path) -> dict[str, str]:
    """The environment of the host: stand-ins for what is absent, no bytecode, no network."""
    stand_ins = base / "stand_ins"
    present = [name for name in STAND_INS if importlib.util.find_spec(name)]
    shutil.copytree(HERE / "stand_ins", stand_ins, ignore=shutil.ignore_patterns(*present))
    search = [str(stand_ins), os.environ.get("PYTHONPATH", "")]
    return os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, search)),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUNBUFFERED": "1",
        "PYTHONUTF8": "1",
        "HF_HUB_OFFLINE": "1",
    }


def free_port() -> int:
    """A loopback port nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return probe.getsockname()[1]


@contextmanager
def running(comfyui: Path, pack: Path, seconds_to_start: float = 180) -> Iterator[ComfyUI]:
    """A host started from the folder `comfyui` with the pack in the folder `pack`, then stopped.

    Raises HostFailed with the log when it does not come up.
    """
    with tempfile.TemporaryDirectory(prefix="rescore-host-", ignore_cleanup_errors=True) as folder:
        base, port = Path(folder).resolve(), free_port()
        for name in ("custom_nodes", "input", "output", "temp", "user", "models"):
            (base / name).mkdir()
        place_pack(pack, base / "custom_nodes")
        command = [sys.executable, str(HERE / "launch.py"), str(comfyui.resolve() / "main.py")]
        command += ["--cpu", "--disable-auto-launch"]
        command += ["--listen", LOOPBACK, "--port", str(port), "--base-directory", str(base)]
        command += ["--database-url", f"sqlite:///{(base / 'user' / 'comfyui.db').as_posix()}"]
        command += ["--disable-api-nodes"]
        if root := front_end_root(comfyui):
            command += ["--front-end-root", str(root)]
        # The user's own extra_model_paths.yaml may bring more custom nodes; only ours are wanted.
        command += ["--disable-all-custom-nodes", "--whitelist-custom-nodes", PACK_NAME]
        log_file = base / "comfyui.log"
        with (
            log_file.open("wb") as log,
            subprocess.Popen(
                command,
                cwd=base,
                env=host_environment(base),
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
            ) as process,
        ):
            host = ComfyUI(port, base, log_file, process)
            try:
                host.await_ready(seconds_to_start)
                yield host
            finally:
                host.close()
                process.kill()
