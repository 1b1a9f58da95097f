"""Controls during a run: which of them act in a step, and how they change attention there."""

from collections.abc import Collection, Sequence
from typing import NamedTuple

from ..attention.layers import Control, Entry, Held
from .models.denoiser import Denoiser, Row, numbers_of
from .models.grid import ClipGrid
from .steps import acts
from .windows import Frames


class Acting(NamedTuple):
    """A control in one call of the model: which rows of the edit it changes, and which frames."""

    reads: tuple[str, ...]
    held: Held
    frames: Frames


class RunControls:
    """The controls of a run, prepared for its model and its clip.

    Raises:
        ValueError: if the model does not have the layers that a control needs.
    """

    def __init__(self, controls: Sequence[Control], denoiser: Denoiser, grid: ClipGrid) -> None:
        self.controls = [(c, c.on(denoiser.inside(c.name), grid)) for c in controls]

    def at(self, step: int, steps: int, frames: Frames) -> list[Acting]:
        """The controls that act in step number `step` of `steps`, for a call on these frames."""
        return [
            Acting(control.reads, held, frames)
            for control, held in self.controls
            if acts(control.start, control.end, step, steps)
        ]


def sources_read(rows: Collection[Row], acting: Sequence[Acting]) -> set[Row]:
    """The source rows that the target rows among `rows` read."""
    return {
        ("source", kind)
        for control in acting
        for clip, kind in rows
        if clip == "target" and kind in control.reads
    }


def plan_of(acting: Sequence[Acting], clips: int = 1) -> list[Entry]:
    """The plan of the acting controls, for a call with `clips` clips in each row."""
    return [control.held(_pairs(control.reads, clips), control.frames) for control in acting]


def _pairs(kinds: Collection[str], clips: int) -> dict[int, int]:
    """For the clips of the edit in these rows, the number of the source clip that each reads."""
    pairs = {}
    for kind in kinds:
        edits, sources = (numbers_of((clip, kind), clips) for clip in ("target", "source"))
        pairs.update(zip(edits, sources, strict=True))
    return pairs
