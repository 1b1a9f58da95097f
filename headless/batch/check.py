"""A manifest against its graph and the input folders, all of it before anything runs."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ..errors import WorkflowError, printable
from ..loaded import loaders
from ..paths import Folders, find_input
from ..specs import input_specs
from ..validate import Plan, make_plan
from ..workflow import Link
from .manifest import Line


@dataclass(frozen=True)
class Checked:
    """A line that can run.

    Attributes:
        prompt: the graph with the line's values in it, as the host takes it.
        files: the input files it reads, under the names that the graph or the line gives them.
        models: the names of what it loads; lines of the same go to the same worker.
    """

    line: Line
    prompt: dict[str, object]
    files: dict[str, Path]
    models: frozenset[str]


def check_lines(
    graph: Mapping[str, object],
    lines: Sequence[Line],
    node_classes: Mapping[str, type],
    folders: Folders,
) -> list[Checked]:
    """Every line checked with its values in the graph.

    Raises:
        WorkflowError: with a sentence for each fault of each line, by its number; what is wrong
            with the graph itself, whatever the line, is said once.
    """
    found: list[Checked] = []
    problems: list[tuple[Line, str]] = []
    for line in lines:
        try:
            with _said_once(line is not lines[0]):
                plan = make_plan(graph, node_classes, line.settings)
            models = frozenset(loaders(plan).values())
            found.append(Checked(line, plan.prompt, input_files(plan, folders), models))
        except WorkflowError as error:
            problems += [(line, problem) for problem in error.problems]
    if problems:
        counts = Counter(problem for _, problem in problems)
        common = [text for text, count in counts.items() if count == len(lines) > 1]
        own = [f"Line {line.number}: {text}" for line, text in problems if text not in common]
        raise WorkflowError([*(f"Every line: {text}" for text in common), *own])
    return found


def input_files(plan: Plan, folders: Folders) -> dict[str, Path]:
    """The files a plan reads from the input folders: the values of inputs that take an upload.

    Raises:
        WorkflowError: a file is named by another node, so that it is not known before the run.
    """
    found: dict[str, Path] = {}
    problems = []
    for node in plan.nodes.values():
        for name, spec in input_specs(plan.classes[node.id]).items():
            if name not in node.inputs or not takes_upload(spec.options):
                continue
            value = node.inputs[name]
            if isinstance(value, Link):
                problems.append(
                    f"{node} takes the name of its file from another node. A batch must know the "
                    f"files before it runs: give '{node.title or node.id}.{name}' in the line."
                )
                continue
            try:
                found[str(value)] = find_input(str(value), folders)
            except ValueError as error:
                problems.append(f"{node}, input '{printable(name)}': {error}")
    if problems:
        raise WorkflowError(problems)
    return found


def takes_upload(options: Mapping[str, object]) -> bool:
    """Whether an input names a file of the input folders, by the host's sign for it."""
    return any(str(key).endswith("_upload") and value for key, value in options.items())


@contextmanager
def _said_once(silent: bool) -> Iterator[None]:
    """What is odd about the graph is said with the first line only."""
    logger = logging.getLogger("rescore.headless.validate")
    before = logger.level
    if silent:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
