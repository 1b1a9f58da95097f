"""What a run was made with: this pack's own code, to the letter, and the libraries below it."""

from __future__ import annotations

import platform
from functools import cache
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("attention", "headless", "nodes", "pipelines", "shapeworld")
LIBRARIES = ("rescore", "torch", "numpy", "diffusers", "transformers", "av", "ray")


@cache
def code() -> str:
    """A short name of the pack's code: two machines with the same name run the same lines."""
    digest = sha256()
    for file in sorted(file for room in ROOMS for file in (ROOT / room).rglob("*.py")):
        digest.update(file.relative_to(ROOT).as_posix().encode())
        digest.update(file.read_bytes().replace(b"\r\n", b"\n"))
    return digest.hexdigest()[:16]


@cache
def versions() -> dict[str, str]:
    """The code, Python, the system and the libraries, by name."""
    found = {"code": code(), "python": platform.python_version(), "system": platform.platform()}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found
