"""Reading an API-format workflow: untrusted JSON into plain `Node` records.

The format is `{id: {"class_type": ..., "inputs": {...}, "_meta": {"title": ...}}}`; an input value
that is a list `[node_id, output_index]` is a link. Nothing here looks at node classes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from .errors import WorkflowError, listed, printable

LARGEST_FILE = 16 * 2**20  # bytes
DEEPEST_NESTING = 32
MOST_NODES = 10_000


@dataclass(frozen=True)
class Link:
    """A wire: output number `output` of node `node`."""

    node: str
    output: int


@dataclass(frozen=True)
class NoLink:
    """A list where only a link may be one; a fault if the node has such an input at all."""

    value: list[object]


@dataclass(frozen=True)
class Node:
    """One node of a workflow; `inputs` holds `Link`s and plain JSON values."""

    id: str
    class_type: str
    inputs: dict[str, object] = field(default_factory=dict)
    title: str | None = None

    def __str__(self) -> str:
        title = f', "{printable(self.title)}"' if self.title else ""
        return f"node {printable(self.id)} ({printable(self.class_type)}{title})"

    def links(self) -> dict[str, Link]:
        """The linked inputs only."""
        return {name: value for name, value in self.inputs.items() if isinstance(value, Link)}


def read_workflow(path: Path) -> dict[str, object]:
    """Parse a workflow file.

    Raises:
        WorkflowError: unreadable, larger than 16 MiB, not UTF-8, not JSON, nested too deeply, or
            with a key given twice or a constant such as NaN.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(LARGEST_FILE + 1)
    except OSError as error:
        raise WorkflowError([f"Cannot read the workflow {path}: {error.strerror}."]) from error
    if len(data) > LARGEST_FILE:
        raise WorkflowError([f"{path} is larger than {LARGEST_FILE >> 20} MiB; not a workflow."])
    try:
        raw = strict_json(data.decode("utf-8-sig"))
    except RecursionError:
        raise WorkflowError([f"{path} is nested too deeply to be a workflow."]) from None
    except UnicodeDecodeError:
        raise WorkflowError([f"{path} is not UTF-8 text; expected an API-format JSON."]) from None
    except ValueError as error:
        raise WorkflowError([f"{path} is not valid JSON: {printable(error, 200)}."]) from None
    if not isinstance(raw, dict):
        raise WorkflowError([f"{path} holds a JSON {_kind(raw)}; expected an object of nodes."])
    return raw


def strict_json(text: str) -> object:
    """Parse JSON, or raise ValueError where a key stands twice or a number is NaN or infinite."""
    return json.loads(text, object_pairs_hook=_no_duplicates, parse_constant=_no_constant)


def _no_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    result: dict[str, object] = {}
    for key, value in pairs:
        if key in result:
            raise ValueError(f"the key '{key}' is given twice in one object")
        result[key] = value
    return result


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is not a number a workflow may hold")


def _kind(value: object) -> str:
    """The JSON name of a value's type."""
    names = {dict: "object", list: "array", str: "string", bool: "boolean", type(None): "null"}
    return names.get(type(value), "number")


def parse_workflow(raw: Mapping[str, object]) -> dict[str, Node]:
    """Turn the parsed JSON into nodes, keeping their order.

    Raises:
        WorkflowError: with a sentence for every node whose shape is wrong.
    """
    if isinstance(raw.get("nodes"), list) and "links" in raw:
        raise WorkflowError(
            [
                "This is a UI-format workflow (it has 'nodes' and 'links'). Export it from ComfyUI "
                "with Workflow > Export (API) and run that file."
            ]
        )
    if isinstance(raw.get("prompt"), dict) and "class_type" not in raw["prompt"]:
        raise WorkflowError(["The workflow is wrapped in 'prompt'; give the inner object itself."])
    if not raw:
        raise WorkflowError(["The workflow is empty: it has no nodes."])
    if len(raw) > MOST_NODES:
        raise WorkflowError([f"The workflow has {len(raw)} nodes; the limit is {MOST_NODES}."])
    _check_values(raw)
    problems: list[str] = []
    nodes: dict[str, Node] = {}
    for node_id, value in raw.items():
        try:
            nodes[node_id] = _parse_node(node_id, value)
        except ValueError as error:
            problems.append(f"Node {printable(node_id)}: {error}")
    if problems:
        raise WorkflowError(problems)
    return nodes


def _check_values(raw: object) -> None:
    """Refuse absurd depth and numbers that are not finite; iterative, so depth cannot hurt it."""
    level: list[object] = [raw]
    for _ in range(DEEPEST_NESTING):
        deeper: list[object] = []
        for value in level:
            if isinstance(value, float) and not math.isfinite(value):
                raise WorkflowError(["The workflow holds a number that is not finite."])
            if isinstance(value, Mapping):
                deeper.extend(value.values())
            elif isinstance(value, list):
                deeper.extend(value)
        if not deeper:
            return
        level = deeper
    raise WorkflowError([f"The workflow is nested deeper than {DEEPEST_NESTING} levels."])


def _parse_node(node_id: str, value: object) -> Node:
    """One node record; raises ValueError with what is wrong with it."""
    if not isinstance(value, Mapping):
        raise ValueError(f"expected an object with a 'class_type', found {_kind(value)}.")
    class_type = value.get("class_type")
    if not isinstance(class_type, str) or not class_type:
        raise ValueError("'class_type' is missing or not a string; it names the node's class.")
    inputs = value.get("inputs", {})
    if not isinstance(inputs, Mapping):
        raise ValueError(f"'inputs' must be an object, found {_kind(inputs)}.")
    meta = value.get("_meta")
    title = meta.get("title") if isinstance(meta, Mapping) else None
    return Node(
        id=node_id,
        class_type=class_type,
        inputs={name: parse_input(item) for name, item in inputs.items()},
        title=title if isinstance(title, str) else None,
    )


def parse_input(value: object) -> object:
    """A `Link` for a list, the inner value for the host's `{"__value__": ...}`, else the value."""
    if isinstance(value, list):
        match value:
            case [str(node), int(output)] if not isinstance(output, bool):
                return Link(node, output)
        return NoLink(value)
    if isinstance(value, Mapping) and "__value__" in value:
        return value["__value__"]
    return value


def find_node(nodes: Mapping[str, Node], name: str) -> str:
    """The id of the node called `name`: an id, or a title or class that only one node has.

    Raises:
        ValueError: no node, or more than one, is called so.
    """
    if name in nodes:
        return name
    matches = [node.id for node in nodes.values() if name in (node.title, node.class_type)]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise ValueError(f"'{printable(name)}' is the name of nodes {listed(matches)}; use an id.")
    known = [str(node) for node in nodes.values()]
    raise ValueError(f"there is no node '{printable(name)}'; the workflow has {listed(known)}.")
