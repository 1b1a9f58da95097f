"""What a workflow can do wrong, as sentences: the exceptions of the runner and safe quoting.

A workflow is untrusted text, so anything quoted from it (titles, names, values) goes through
`printable` before it reaches a terminal or a log.
"""

from __future__ import annotations

from collections.abc import Sequence


class WorkflowError(ValueError):
    """The workflow was refused before anything ran; `problems` has one sentence for each fault."""

    def __init__(self, problems: Sequence[str]):
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


class NodeError(RuntimeError):
    """A node failed while running; the message names it, `__cause__` is the original exception."""


class BatchError(RuntimeError):
    """A batch cannot go on; what is done stays, and the message says what to do."""


def printable(text: object, limit: int = 80) -> str:
    """`text` with control characters, escapes and lone surrogates spelled out, cut to `limit`."""
    shown = str(text)
    if len(shown) > limit:
        shown = shown[: limit - 3] + "..."
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode("ascii")
        for letter in shown
    )


def sentence(text: str) -> str:
    """`text` with a full stop, unless it ends with one or with a question."""
    return text if text.endswith((".", "?", "!")) else f"{text}."


def listed(names: Sequence[object], limit: int = 12) -> str:
    """`a, b, c`, cut after `limit` names; `(none)` for an empty sequence."""
    if not names:
        return "(none)"
    shown = ", ".join(printable(name) for name in names[:limit])
    return shown if len(names) <= limit else f"{shown}, and {len(names) - limit} more"
