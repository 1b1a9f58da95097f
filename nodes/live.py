"""Send to the browser what a loop tells: numbers, which the node plots, and words."""

import logging
import math
import time
from collections.abc import Mapping

from . import host

log = logging.getLogger("rescore")


class Numbers:
    """Collects the numbers of every step and sends them, at most ten times a second.

    Each message is the event `rescore.progress` with `node`, `step` (the last step, from 1),
    `steps` and `values`. For each name, `values` holds one number for each step since the last
    message, None if the step had none. Without a browser nothing is sent.
    """

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self._waiting: list[dict[str, float]] = []
        self._sent = -math.inf

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Add the numbers of `step`; steps must come in order."""
        self._waiting.append({k: float(v) for k, v in values.items() if math.isfinite(v)})
        now = time.monotonic()
        if step < self._steps and now - self._sent < host.SECONDS_BETWEEN:
            return
        names = dict.fromkeys(name for numbers in self._waiting for name in numbers)
        columns = {name: [numbers.get(name) for numbers in self._waiting] for name in names}
        host.send("progress", {"step": step, "steps": self._steps, "values": columns})
        self._waiting, self._sent = [], now


def tell_why_unchanged(cause: str) -> str:
    """Say on the node and in the log that nobody would see the edit, and the likely cause.

    Returns what is told. Without a cause it is nothing, and what the node told before goes.
    """
    text = f"Next to nothing has changed. {cause}" if cause else ""
    if text:
        log.warning("%s", text)
    host.tell(text)
    return text
