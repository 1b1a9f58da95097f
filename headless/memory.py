"""How much memory is free, and how much was taken at most, where the system tells."""

from __future__ import annotations

import re
from pathlib import Path

import torch

MEMINFO = Path("/proc/meminfo")
STATUS = Path("/proc/self/status")
CLEAR = Path("/proc/self/clear_refs")


def available_memory() -> int | None:
    """Bytes that can be allocated without swapping, or None where the system does not say."""
    try:
        found = re.search(r"^MemAvailable:\s*(\d+) kB", MEMINFO.read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None


def reset_peak() -> None:
    """Let `peak_memory` count from now on: this process's memory and that of its GPU."""
    if CLEAR.exists():
        CLEAR.write_text("5")  # the number that resets the peak, says proc(5)
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def peak_memory() -> dict[str, int]:
    """The most bytes held at a time since `reset_peak`: "process", and "cuda" where there is one.

    Without a system that tells, "process" is left out.
    """
    found = {}
    if STATUS.exists():
        (kilobytes,) = re.findall(r"^VmHWM:\s*(\d+) kB", STATUS.read_text(), re.MULTILINE)
        found["process"] = int(kilobytes) * 1024
    if torch.cuda.is_available():
        found["cuda"] = torch.cuda.max_memory_allocated()
    return found
