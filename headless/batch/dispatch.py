"""Who runs which line next, and what a line's end means. Processes and retries are Ray's."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import ray
from ray.exceptions import ActorDiedError, RayActorError, RayError

from ..errors import BatchError, printable
from .check import Checked
from .cluster import check_alive
from .worker import Job, Outcome

POLL = 10.0  # seconds after which the cluster is asked whether it lives

OnEnd = Callable[[Checked, Outcome, dict[str, bytes]], None]


@dataclass(eq=False)
class Hand:
    """A worker: the actor that Ray keeps alive, and which models it has loaded."""

    actor: ray.actor.ActorHandle
    models: frozenset[str] = frozenset()


@dataclass(eq=False)
class Waiting:
    """A line that waits, and what workers that cannot run it have said."""

    checked: Checked
    refusals: dict[Hand, str] = field(default_factory=dict)


class Queue:
    """The lines that wait, by the models they need."""

    def __init__(self, lines: Sequence[Checked]) -> None:
        self._lines: dict[frozenset[str], deque[Waiting]] = {}
        for checked in lines:
            self._lines.setdefault(checked.models, deque()).append(Waiting(checked))

    def __len__(self) -> int:
        return sum(map(len, self._lines.values()))

    def take(self, hand: Hand, others: Sequence[Hand]) -> Waiting | None:
        """The next line for a worker, None if there is none that it has not refused.

        It goes on with its own models as long as any line needs them; then it takes those that the
        fewest others have loaded.
        """
        busy = [other.models for other in others]
        order = sorted(self._lines, key=lambda m: (m != hand.models, busy.count(m)))
        for models in order:
            lines = self._lines[models]
            for index, waiting in enumerate(lines):
                if hand not in waiting.refusals:
                    del lines[index]
                    hand.models = models
                    return waiting
        return None

    def put_back(self, waiting: Waiting) -> None:
        """First again in its turn."""
        self._lines[waiting.checked.models].appendleft(waiting)

    def drain(self) -> list[Waiting]:
        """All that wait, which then no longer do."""
        left = [waiting for lines in self._lines.values() for waiting in lines]
        self._lines.clear()
        return left


class Dispatch:
    """Lines go to workers as these come free, until every line has ended."""

    def __init__(
        self,
        lines: Sequence[Checked],
        hands: Sequence[Hand],
        on_end: OnEnd,
        say: Callable[[str], None],
        models: dict[str, str],
    ) -> None:
        """`on_end` is told of each line that is done or has failed; `say` of workers that are lost.

        `models` holds the fingerprints that are known by the names of what was loaded.
        """
        self.queue, self.hands, self.idle = Queue(lines), list(hands), list(hands)
        self.on_end, self.say, self.models = on_end, say, models
        self.running: dict[ray.ObjectRef, tuple[Hand, Waiting, dict[str, bytes]]] = {}
        self.lost: list[str] = []
        self.refusing: set[Hand] = set()

    def run(self) -> None:
        """See every line to its end.

        Raises:
            BatchError: the cluster has gone away, no worker is left, or the disk is full.
        """
        while self.queue or self.running:
            self._hand_out()
            if self.running:
                self._await_some()
            else:
                self._end_what_nobody_takes()

    def _hand_out(self) -> None:
        for hand in list(self.idle):
            others = [other for other in self.hands if other is not hand]
            if waiting := self.queue.take(hand, others):
                self.idle.remove(hand)
                self._start(hand, waiting)

    def _start(self, hand: Hand, waiting: Waiting) -> None:
        try:
            files = {name: path.read_bytes() for name, path in waiting.checked.files.items()}
        except OSError as error:
            sentence = f"Cannot read {error.filename}: {error.strerror}."
            self._end(hand, waiting, Outcome("failed", sentence), {})
            return
        ref = hand.actor.run.remote(Job(waiting.checked.line, waiting.checked.prompt, files))
        self.running[ref] = hand, waiting, files

    def _await_some(self) -> None:
        ready, _ = ray.wait(list(self.running), timeout=POLL)
        if not ready:
            check_alive()
        for ref in ready:
            hand, waiting, files = self.running.pop(ref)
            try:
                outcome = ray.get(ref)
            except ActorDiedError as error:  # for good: Ray cannot start it again
                self._lose(hand, waiting, f"A worker cannot be started: {_short(error)}")
                continue
            except RayActorError as error:
                check_alive()
                outcome = Outcome("failed", f"{DIED} Ray says: {_short(error)}")
            except RayError as error:
                outcome = Outcome("failed", f"The worker failed: {_short(error)}")
            self._end(hand, waiting, self._with_known_models(outcome), files)

    def _with_known_models(self, outcome: Outcome) -> Outcome:
        """The outcome, or that the worker is unfit, as its models are not those of the others."""
        for name, mark in outcome.record.get("models", {}).items():
            known = self.models.setdefault(name, mark)
            if known != mark:
                machine = outcome.record["machine"]["name"]
                return Outcome(
                    "unfit",
                    f"{machine} has a model of the same name and other weights (fingerprint "
                    f"{mark}, and {known} elsewhere). Put the same files there.",
                )
        return outcome

    def _end(self, hand: Hand, waiting: Waiting, outcome: Outcome, files: dict[str, bytes]) -> None:
        if outcome.status == "unfit":
            self._lose(hand, waiting, outcome.sentence)
            return
        self.idle.append(hand)
        if outcome.status == "refused":
            if hand not in self.refusing:  # it may refuse all, which is said once
                self.say(f"{waiting.checked.line} goes to others: {outcome.sentence}")
            self.refusing.add(hand)
            waiting.refusals[hand] = outcome.sentence
            self.queue.put_back(waiting)
        else:
            self.on_end(waiting.checked, outcome, files)

    def _lose(self, hand: Hand, waiting: Waiting, sentence: str) -> None:
        """Go on without a worker; the line waits for another."""
        self.hands.remove(hand)
        self.queue.put_back(waiting)
        self.lost.append(sentence)
        self.say(f"A worker is left out: {sentence}")
        ray.kill(hand.actor)

    def _end_what_nobody_takes(self) -> None:
        """Every worker has refused what still waits, or none is left."""
        if not self.hands:
            raise BatchError("No worker is left. " + " ".join(dict.fromkeys(self.lost)))
        for waiting in self.queue.drain():
            sentence = " ".join(dict.fromkeys(waiting.refusals.values()))
            self.on_end(waiting.checked, Outcome("failed", sentence), {})


DIED = (
    "Its process died, each time that it was tried: it ran out of memory, or a library crashed. "
    "Try a smaller clip or fewer workers."
)


def _short(error: Exception) -> str:
    """The end of Ray's message, where the cause stands, in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return printable(lines[-1] if lines else type(error).__name__, 400)
