"""The state that a node keeps of a stopped run."""

import logging
from typing import Any

log = logging.getLogger("rescore")


class Kept:
    """The state of a node's last run, so that the same run can continue later.

    A run is identified by the `fingerprint` of all inputs that change its result. A run with other
    inputs finds nothing here, and starts from the beginning.
    """

    def __init__(self, node: str) -> None:
        self._node = node
        self._run, self._step, self._state = "", 0, None

    def keep(self, run: str, step: int, state: Any) -> None:
        """Keep the state of a run after `step` steps, in place of any earlier state."""
        self._run, self._step, self._state = run, step, state

    def forget(self) -> None:
        """Drop the state, because the run is finished."""
        self.keep("", 0, None)

    def of(self, run: str, at_most: int) -> Any | None:
        """The state of this run, if it has made at most so many steps; the log says so."""
        if run != self._run or self._step > at_most:
            return None
        log.info("%s goes on at step %d, where it was stopped.", self._node, self._step)
        return self._state
