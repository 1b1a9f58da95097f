"""The links of a workflow as a graph: what an output needs, cycles, and back to JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .errors import printable
from .workflow import Link, Node, NoLink


def subject(node: Node) -> str:
    """How a sentence about a node begins."""
    return f"N{str(node)[1:]}"


def ancestors(
    nodes: Mapping[str, Node], targets: Sequence[str]
) -> tuple[dict[str, Node], list[str]]:
    """The targets and everything upstream of them, in file order; and links that lead nowhere."""
    found = set(targets)
    problems: list[str] = []
    waiting = list(targets)
    while waiting:
        node = nodes[waiting.pop()]
        for name, link in node.links().items():
            if link.node not in nodes:
                problems.append(
                    f"{subject(node)}, input '{printable(name)}': linked to node "
                    f"'{printable(link.node)}', which is not in the workflow."
                )
            elif link.node not in found:
                found.add(link.node)
                waiting.append(link.node)
    return {node_id: node for node_id, node in nodes.items() if node_id in found}, problems


def find_cycle(nodes: Mapping[str, Node]) -> list[str]:
    """A sentence that names the nodes of one cycle, if there is any."""
    open_links = {
        node_id: {link.node for link in node.links().values()} for node_id, node in nodes.items()
    }
    ready = [node_id for node_id, sources in open_links.items() if not sources]
    consumers: dict[str, list[str]] = {node_id: [] for node_id in nodes}
    for node_id, sources in open_links.items():
        for source in sources:
            consumers[source].append(node_id)
    while ready:
        done = ready.pop()
        del open_links[done]
        for node_id in consumers[done]:
            open_links[node_id].discard(done)
            if not open_links[node_id]:
                ready.append(node_id)
    if not open_links:
        return []
    path = [next(iter(open_links))]
    while path[-1] not in path[:-1]:
        # every node left waits for another that is left, so walking upstream must come round
        path.append(next(name for name in nodes if name in open_links[path[-1]]))
    loop = path[path.index(path[-1]) :][::-1]
    names = " -> ".join(str(nodes[node_id]) for node_id in loop)
    return [f"The links run in a circle: {names}. Cut one of them."]


def as_prompt(raw: Mapping[str, object], nodes: Mapping[str, Node]) -> dict[str, object]:
    """The workflow JSON with the overridden inputs, as the host hands it to `PROMPT` inputs."""
    return {
        node_id: {
            **raw[node_id],
            "inputs": {name: _as_json(value) for name, value in node.inputs.items()},
        }
        for node_id, node in nodes.items()
    }


def _as_json(value: object) -> object:
    if isinstance(value, Link):
        return [value.node, value.output]
    return value.value if isinstance(value, NoLink) else value
