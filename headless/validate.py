"""Everything that can be known to be wrong before a workflow runs, found before it runs.

`make_plan` applies the overrides, finds what must run (the ancestors of output nodes), checks ids,
classes, links, types, ranges and cycles, and asks each node's own `VALIDATE_INPUTS`.
"""

from __future__ import annotations

import difflib
import inspect
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from .errors import WorkflowError, printable, sentence
from .graph import ancestors, as_prompt, find_cycle, subject
from .overrides import apply_overrides, find_nodes, hint_for
from .specs import (
    InputSpec,
    check_value,
    hidden_inputs,
    input_specs,
    output_types,
    types_match,
)
from .workflow import Link, Node, NoLink, parse_workflow

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """A checked workflow.

    Attributes:
        nodes: the nodes that run (ancestors of the targets), values converted, in file order.
        classes: the node class for each id.
        targets: output nodes and kept nodes, in file order.
        kept: name as asked for to node id.
        prompt: the workflow as JSON with the overrides in it, for hidden `PROMPT` inputs.
    """

    nodes: dict[str, Node]
    classes: dict[str, type]
    targets: tuple[str, ...]
    kept: dict[str, str]
    prompt: dict[str, object]


def make_plan(
    raw: Mapping[str, object],
    node_classes: Mapping[str, type],
    overrides: Mapping[str, object] | None = None,
    keep: Sequence[str] = (),
) -> Plan:
    """Check a workflow and return what to run.

    Args:
        raw: the parsed API-format JSON.
        overrides: `"NODE.INPUT"` to value; NODE is an id, or a title or class only one node has.
        keep: nodes (named in the same way) that run and whose outputs are wanted.

    Raises:
        WorkflowError: with one sentence for each fault, naming node, class, title and input.
    """
    nodes = parse_workflow(raw)
    _raise_all(_unknown_classes(nodes, node_classes))
    given = apply_overrides(nodes, node_classes, overrides or {})
    nodes = {
        node_id: _with_known_inputs(node, node_classes[node.class_type])
        for node_id, node in given.items()
    }
    kept = find_nodes(nodes, keep)
    targets = tuple(
        node_id
        for node_id, node in nodes.items()
        if getattr(node_classes[node.class_type], "OUTPUT_NODE", False) or node_id in kept.values()
    )
    if not targets:
        raise WorkflowError(["The workflow has no output node, such as SaveVideo: nothing to do."])
    needed, problems = ancestors(nodes, targets)
    _raise_all(problems)
    _raise_all(find_cycle(needed))
    for node in nodes.values():
        if node.id not in needed:
            logger.warning("%s feeds no output and does not run.", node)
    classes = {node_id: node_classes[node.class_type] for node_id, node in needed.items()}
    checked: dict[str, Node] = {}
    for node_id, node in needed.items():
        checked[node_id], faults = _check_node(node, needed, classes)
        problems += faults
    _raise_all(problems)
    return Plan(checked, classes, targets, kept, as_prompt(raw, given))


def _raise_all(problems: Sequence[str]) -> None:
    if problems:
        raise WorkflowError(problems)


def _unknown_classes(nodes: Mapping[str, Node], node_classes: Mapping[str, type]) -> list[str]:
    problems = []
    for node in nodes.values():
        if node.class_type not in node_classes:
            close = difflib.get_close_matches(node.class_type, node_classes, n=3)
            hint = f" Did you mean {', '.join(close)}?" if close else ""
            problems.append(f"{subject(node)}: this runner has no such node class.{hint}")
    return problems


def _with_known_inputs(node: Node, cls: type) -> Node:
    """The node without what its class does not declare, such as inputs of a later host's node."""
    try:
        specs, hidden = input_specs(cls), hidden_inputs(cls)
    except Exception:  # told when the node is checked, if it is needed at all
        return node
    for name in node.inputs:
        if name not in specs and name not in hidden:
            logger.warning(
                "%s: input '%s' is unknown and ignored%s.",
                node,
                printable(name),
                hint_for(name, specs),
            )
    return replace(node, inputs={name: node.inputs[name] for name in node.inputs if name in specs})


def _check_node(
    node: Node, nodes: Mapping[str, Node], classes: Mapping[str, type]
) -> tuple[Node, list[str]]:
    """One node's inputs against its class; returns the node with converted values, and faults."""
    cls = classes[node.id]
    try:
        specs = input_specs(cls)
    except Exception as error:
        return node, [f"{subject(node)}: its INPUT_TYPES failed: {printable(error, 300)}"]
    own = _own_validation(cls)
    problems: list[str] = []
    values: dict[str, object] = {}
    link_types: dict[str, str] = {}
    for name, value in node.inputs.items():
        spec = specs[name]
        try:
            if isinstance(value, NoLink):
                raise ValueError('is a list but not a link; a link is ["node id", output index]')
            if isinstance(value, Link):
                link_types[name] = _link_type(value, nodes, classes)
                if "input_types" not in own.names:
                    _check_link(spec, value, link_types[name], nodes)
                values[name] = value
            else:
                values[name] = check_value(spec, value, in_range=not own.covers(name))
        except ValueError as error:
            problems.append(sentence(f"{subject(node)}, input '{name}': {error}"))
    for name, spec in specs.items():
        if spec.required and name not in node.inputs:
            problems.append(f"{subject(node)}, input '{name}': required ({spec.type}) but missing.")
    checked = replace(node, inputs=values)
    if not problems:
        problems = _ask_node(checked, cls, own, link_types)
    return checked, problems


def _link_type(link: Link, nodes: Mapping[str, Node], classes: Mapping[str, type]) -> str:
    """The type a link carries; raises ValueError when its source has no such output."""
    types = output_types(classes[link.node])
    if not 0 <= link.output < len(types):
        raise ValueError(
            f"linked to output {printable(link.output, 20)} of {nodes[link.node]}, which has "
            f"{len(types)} output(s)"
        )
    return types[link.output]


def _check_link(spec: InputSpec, link: Link, sent: str, nodes: Mapping[str, Node]) -> None:
    if not types_match(sent, spec.type):
        raise ValueError(
            f"takes {spec.type}, but output {link.output} of {nodes[link.node]} is {sent}"
        )


@dataclass(frozen=True)
class _OwnValidation:
    """The arguments a node's `VALIDATE_INPUTS` asks for."""

    names: frozenset[str] = frozenset()
    takes_all: bool = False

    def covers(self, name: str) -> bool:
        """Whether the node checks this input itself."""
        return self.takes_all or name in self.names


def _own_validation(cls: type) -> _OwnValidation:
    function = getattr(cls, "VALIDATE_INPUTS", None)
    if function is None:
        return _OwnValidation()
    arguments = inspect.getfullargspec(function)
    names = frozenset(arguments.args[1:]) | frozenset(arguments.kwonlyargs)
    return _OwnValidation(names, arguments.varkw is not None)


def _ask_node(
    node: Node, cls: type, own: _OwnValidation, link_types: Mapping[str, str]
) -> list[str]:
    """Call `VALIDATE_INPUTS` as the host does: constants as they are, linked inputs as None."""
    if not own.names and not own.takes_all:
        return []
    arguments = {
        name: None if isinstance(value, Link) else value
        for name, value in node.inputs.items()
        if own.covers(name)
    }
    for name, kind in hidden_inputs(cls).items():
        if own.covers(name):
            arguments[name] = node.id if kind == "UNIQUE_ID" else None
    if getattr(cls, "INPUT_IS_LIST", False):
        arguments = {name: [value] for name, value in arguments.items()}
    if "input_types" in own.names:
        arguments["input_types"] = dict(link_types)
    try:
        verdict = cls.VALIDATE_INPUTS(**arguments)
    except Exception as error:
        verdict = f"its own check failed: {type(error).__name__}: {error}"
    if verdict is True:
        return []
    reason = printable(verdict, 500) if isinstance(verdict, str) else "its own check refused"
    asked = ", ".join(f"'{name}'" for name in arguments if name != "input_types")
    inputs = f", input {asked}" if asked else ""
    return [f"{subject(node)}{inputs}: {reason}"]
