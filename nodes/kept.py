"""What a node keeps of a run that was stopped."""

import logging
from typing import Any

log = logging.getLogger("rescore")


class Kept:
    """Where a node's last run stood, for the very same run to go on from.

    A run is named by the `fingerprint` of everything that shapes its result: another run finds
    nothing here, and starts anew.
    """

    def __init__(self, node: str) -> None:
        self._node = node
        self._run, self._step, self._state = "", 0, None

    def keep(self, run: str, step: int, state: Any) -> None:
        """Keep the state of a run after so many steps, and nothing of any run before."""
        self._run, self._step, self._state = run, step, state

    def forget(self) -> None:
        """Keep nothing: the run has come to its end."""
        self.keep("", 0, None)

    def of(self, run: str, at_most: int) -> Any | None:
        """The state of this run if it has made no more steps than wanted; logs that it goes on."""
        if run != self._run or self._step > at_most:
            return None
        log.info("%s goes on at step %d, where it was stopped.", self._node, self._step)
        return self._state
