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


def tell(*notes: str, before: str = "") -> str:
    """Say on the node that is running, and in the log, what a user should know of its run.

    Empty notes are left out. `before` stays on the node: it was told in this run already. Returns
    the new notes, "" without any; then what the node told in an earlier run goes.
    """
    text = "\n".join(filter(None, notes))
    if text:
        log.warning("%s", text)
    host.tell("\n".join(filter(None, (before, text))))
    return text
