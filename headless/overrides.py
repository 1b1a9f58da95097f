"""Settings from outside a workflow: `NODE.INPUT=VALUE`, and finding nodes by id, title or class."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

from .errors import WorkflowError, printable, sentence
from .specs import InputSpec, input_specs
from .workflow import Node, find_node, parse_input


class CommandLineText(str):
    """An override as typed: JSON where it parses, but the text itself for a text input."""


def apply_overrides(
    nodes: Mapping[str, Node], node_classes: Mapping[str, type], overrides: Mapping[str, object]
) -> dict[str, Node]:
    """The nodes with `NODE.INPUT` values replaced."""
    changed = dict(nodes)
    problems = []
    for target, value in overrides.items():
        try:
            node_id, input_name = _find_input(changed, target)
            node = changed[node_id]
            specs = input_specs(node_classes[node.class_type])
            if input_name not in specs:
                raise ValueError(f"{node} has no such input{hint_for(input_name, specs)}")
            new_value = parse_input(_typed(specs[input_name], value))
            changed[node.id] = replace(node, inputs={**node.inputs, input_name: new_value})
        except ValueError as error:
            problems.append(sentence(f"Setting '{printable(target)}': {error}"))
    if problems:
        raise WorkflowError(problems)
    return changed


def _find_input(nodes: Mapping[str, Node], target: str) -> tuple[str, str]:
    """The node's id and the input that `NODE.INPUT` means; both may have dots in them."""
    parts = target.split(".")
    if len(parts) < 2 or not parts[0] or not parts[-1]:
        raise ValueError("expected NODE.INPUT, as in 5.steps")
    splits = [(".".join(parts[:i]), ".".join(parts[i:])) for i in range(len(parts) - 1, 0, -1)]
    for name, input_name in splits:
        with suppress(ValueError):
            return find_node(nodes, name), input_name
    name, input_name = splits[0]
    return find_node(nodes, name), input_name


def _typed(spec: InputSpec, value: object) -> object:
    """Resolve a `CommandLineText` for the input it is meant for; other values pass."""
    if not isinstance(value, CommandLineText):
        return value
    text = str(value)
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError):
        return text
    if text in (spec.choices or ()):
        return text
    return text if spec.type == "STRING" and not isinstance(parsed, (str, list)) else parsed


def hint_for(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` or the list of what is known."""
    names = list(known)
    close = difflib.get_close_matches(name, names, n=1)
    return f"; did you mean '{close[0]}'?" if close else f"; it has {', '.join(names) or 'none'}"


def find_nodes(nodes: Mapping[str, Node], keep: Sequence[str]) -> dict[str, str]:
    try:
        return {name: find_node(nodes, name) for name in keep}
    except ValueError as error:
        raise WorkflowError([f"A node to keep cannot be found: {error}"]) from error
