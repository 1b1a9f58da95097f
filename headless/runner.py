"""The Python interface: `run_workflow` checks a workflow, runs it and says what came out."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from ..nodes import host
from .core_nodes import core_nodes
from .errors import WorkflowError
from .execute import execute
from .loaded import Loaded
from .paths import Folders
from .validate import Plan, make_plan
from .workflow import Node

Workflow = Mapping[str, object]


@dataclass(frozen=True)
class RunResult:
    """What a run gave.

    Attributes:
        ui: node id to the `ui` payload it returned, for nodes that returned one.
        files: node id to the files it wrote.
        seconds: node id to its time, in the order in which the nodes ran.
        values: name asked for with `keep` to that node's output values.
    """

    ui: dict[str, dict[str, list]] = field(default_factory=dict)
    files: dict[str, list[Path]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    values: dict[str, tuple] = field(default_factory=dict)

    @property
    def order(self) -> list[str]:
        """Node ids in the order in which they ran."""
        return list(self.seconds)

    @property
    def saved(self) -> list[Path]:
        """All files written, in order."""
        return [path for paths in self.files.values() for path in paths]


def run_workflow(
    workflow: Workflow,
    *,
    out: Path,
    inputs: Sequence[Path] = (),
    overrides: Mapping[str, object] | None = None,
    keep: Sequence[str] = (),
    node_classes: Mapping[str, type] | None = None,
    report: Callable[[str], None] | None = None,
    loaded: Loaded | None = None,
) -> RunResult:
    """Check and run an API-format workflow.

    Args:
        workflow: the parsed JSON, `{id: {"class_type": ..., "inputs": ..., "_meta": ...}}`.
        out: the folder that files are written to; nothing is written anywhere else.
        inputs: the folders that LoadVideo and LoadImage read, searched in order.
        overrides: `"NODE.INPUT"` to value; NODE is an id, or a title or class only one node has.
        keep: nodes whose output values are wanted; they run even if no output node needs them.
        node_classes: node classes by id, beside the stand-ins; the pack's own by default.
        report: called with a line of text for each node that has run.
        loaded: models of an earlier run, which need not be loaded again; holds this run's after it.

    Raises:
        WorkflowError: the workflow or the output folder is wrong; nothing has run.
        NodeError: a node failed; files written before it stay.
    """
    folders = Folders(Path(out), tuple(Path(folder) for folder in inputs))
    with host.writing_to(folders.out):
        plan = make_plan(workflow, all_nodes(folders, node_classes), overrides, keep)
        _make_writable(folders.out)
        return _run(plan, folders, report or (lambda line: None), loaded)


def _make_writable(out: Path) -> None:
    """Make the output folder now, so that an hour of work does not end at a missing permission."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WorkflowError([f"Cannot make the output folder {out}: {error.strerror}."]) from error
    if not os.access(out, os.W_OK | os.X_OK):
        raise WorkflowError([f"The output folder {out} cannot be written to."])


def all_nodes(folders: Folders, node_classes: Mapping[str, type] | None = None) -> dict[str, type]:
    """The stand-ins for one run's folders and the given node classes, or the pack's own."""
    if node_classes is None:
        from ..nodes import NODE_CLASS_MAPPINGS as node_classes
    return {**core_nodes(folders), **node_classes}


def _wrote(files: Sequence[Path]) -> list[str]:
    """A line for each file; for a long sequence of frames, the first and the last."""
    shown = files if len(files) <= 4 else [files[0], files[-1]]
    lines = [f"    wrote {path}" for path in shown]
    if len(shown) < len(files):
        lines.insert(1, f"    ... and {len(files) - 2} more, up to")
    return lines


def _run(
    plan: Plan, folders: Folders, report: Callable[[str], None], loaded: Loaded | None
) -> RunResult:
    result = RunResult()
    total = len(plan.nodes)
    # disable=None: a bar on a terminal, nothing in a log
    with tqdm(total=total, unit="node", leave=False, disable=None) as bar:

        def on_node(node: Node, seconds: float, ui: dict[str, list]) -> None:
            result.seconds[node.id] = seconds
            if ui:
                result.ui[node.id] = ui
            if files := folders.saved[len(result.saved) :]:
                result.files[node.id] = files
            bar.update()
            line = f"[{len(result.seconds):{len(str(total))}}/{total}] {seconds:7.2f} s  {node}"
            with tqdm.external_write_mode():
                report("\n".join([line, *_wrote(files)]))

        result.values.update(execute(plan, on_node, loaded))
    return result
