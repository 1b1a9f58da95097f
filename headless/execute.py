"""Running a checked workflow: each needed node once, upstream first, inside inference mode.

Values between nodes are kept as lists, as in the host, so that `INPUT_IS_LIST` and `OUTPUT_IS_LIST`
mean the same; a value is let go when the last node that uses it has run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch

from .errors import NodeError, printable
from .graph import subject
from .loaded import Loaded
from .specs import InputSpec, hidden_inputs, input_specs, output_types
from .validate import Plan
from .workflow import Link, Node

Values = list[list[object]]  # one list for each output
OnNode = Callable[[Node, float, dict[str, list]], None]


def execute(plan: Plan, on_node: OnNode, loaded: Loaded | None = None) -> dict[str, tuple]:
    """Run a plan and return the outputs of the nodes it keeps, under the names asked for.

    Args:
        on_node: called after each node with the node, its seconds and its `ui` payload.
        loaded: the models of an earlier run, which are not loaded again, and which then are this
            run's.

    Raises:
        NodeError: a node failed; the message names it, `__cause__` is its exception.
    """
    run = _Run(plan, loaded or Loaded())
    with torch.inference_mode():
        for node in run.in_order():
            start = time.perf_counter()
            ui = run.run(node)
            on_node(node, time.perf_counter() - start, ui)
    return {name: run.plain_values(node_id) for name, node_id in plan.kept.items()}


class _Run:
    """The state of one run: instances, values not let go yet, and who still needs them."""

    def __init__(self, plan: Plan, loaded: Loaded):
        self.plan, self.loaded = plan, loaded
        loaded.begin(plan)
        self.done: set[str] = set()
        self.values: dict[str, Values] = {}
        self.instances: dict[str, object] = {}
        self.specs: dict[str, dict[str, InputSpec]] = {
            node_id: input_specs(cls) for node_id, cls in plan.classes.items()
        }
        self.users: dict[str, set[str]] = {node_id: set() for node_id in plan.nodes}
        for node in plan.nodes.values():
            for link in node.links().values():
                self.users[link.node].add(node.id)

    def in_order(self) -> Iterator[Node]:
        """Each node when all it needs has run; lazy inputs count only when their node asks."""
        for target in self.plan.targets:
            waiting = [target]
            while waiting:
                node = self.plan.nodes[waiting[-1]]
                if node.id in self.done:
                    waiting.pop()
                elif missing := self._missing(node, self._eager(node)):
                    waiting.extend(reversed(missing))
                elif missing := self._missing(node, self._asked_for(node)):
                    waiting.extend(reversed(missing))
                else:
                    waiting.pop()
                    yield node

    def _missing(self, node: Node, names: Sequence[str]) -> list[str]:
        """The nodes behind these inputs that have not run."""
        links = node.links()
        return [links[name].node for name in names if links[name].node not in self.done]

    def _eager(self, node: Node) -> list[str]:
        return [name for name in node.links() if not self.specs[node.id][name].lazy]

    def _asked_for(self, node: Node) -> list[str]:
        """The lazy links that `check_lazy_status` wants, given what is known so far."""
        check = getattr(self._instance(node), "check_lazy_status", None)
        if check is None or len(self._eager(node)) == len(node.links()):
            return []
        answers = self._call(node, check, self._arguments(node))
        wanted = {name for answer in answers for name in answer or ()}
        return [name for name in node.links() if name in wanted]

    def _instance(self, node: Node) -> object:
        if node.id not in self.instances:
            self.instances[node.id] = self.plan.classes[node.id]()
        return self.instances[node.id]

    def run(self, node: Node) -> dict[str, list]:
        """Run one node, keep its outputs, let go of what nobody needs any more; its `ui`."""
        recalled, ui = self.loaded.recall(node), {}
        if recalled is None:
            instance = self._instance(node)
            cls = self.plan.classes[node.id]
            results = self._call(node, getattr(instance, cls.FUNCTION), self._arguments(node))
            recalled, ui = _collect(node, cls, results)
            self.loaded.keep(node, recalled)
        self.values[node.id] = recalled
        self.done.add(node.id)
        self.instances.pop(node.id, None)
        for source in {link.node for link in node.links().values()}:
            self.users[source].discard(node.id)
            self._let_go(source)
        self._let_go(node.id)
        return ui

    def _let_go(self, node_id: str) -> None:
        if not self.users[node_id] and node_id not in self.plan.kept.values():
            self.values.pop(node_id, None)

    def _arguments(self, node: Node) -> dict[str, list[object]]:
        """The arguments as lists; a lazy input whose source has not run is None."""
        arguments: dict[str, list[object]] = {}
        for name, value in node.inputs.items():
            if not isinstance(value, Link):
                arguments[name] = [value]
            elif value.node in self.done:
                arguments[name] = self.values[value.node][value.output]
            else:
                arguments[name] = [None]
        fillings = {"UNIQUE_ID": node.id, "PROMPT": self.plan.prompt}
        for name, kind in hidden_inputs(self.plan.classes[node.id]).items():
            arguments[name] = [fillings.get(kind)]
        return arguments

    def _call(self, node: Node, function: Callable, arguments: Mapping[str, list]) -> list[object]:
        """Call once with the lists, or once for each entry, repeating the last of short lists."""
        cls = self.plan.classes[node.id]
        if getattr(cls, "INPUT_IS_LIST", False):
            calls: list[dict[str, object]] = [dict(arguments)]
        else:
            length = max((len(values) for values in arguments.values()), default=1)
            calls = [
                {name: values[min(index, len(values) - 1)] for name, values in arguments.items()}
                for index in range(length)
            ]
        try:
            return [function(**call) for call in calls]
        except Exception as error:
            kind = "" if type(error) in (ValueError, TypeError) else f"{type(error).__name__}: "
            reason = str(error).strip() or type(error).__name__
            raise NodeError(f"{subject(node)}: {kind}{_readable(reason)}") from error

    def plain_values(self, node_id: str) -> tuple:
        """A kept node's outputs: the value itself, or the list where the class says list."""
        cls = self.plan.classes[node_id]
        values = self.values[node_id]
        is_list = getattr(cls, "OUTPUT_IS_LIST", (False,) * len(values))
        return tuple(
            value if listed or len(value) != 1 else value[0]
            for value, listed in zip(values, is_list, strict=False)
        )


def _readable(reason: str) -> str:
    """A node's message, its lines kept, without control characters."""
    return "\n".join(printable(line, 2000) for line in reason.splitlines()[:40])


def _collect(node: Node, cls: type, results: Sequence[object]) -> tuple[Values, dict[str, list]]:
    """The outputs of a node's calls as one list for each output, and the merged `ui` payload."""
    count = len(output_types(cls))
    is_list = getattr(cls, "OUTPUT_IS_LIST", (False,) * count)
    values: Values = [[] for _ in range(count)]
    ui: dict[str, list] = {}
    for result in results:
        if isinstance(result, dict):
            if "expand" in result:
                raise NodeError(f"{subject(node)}: it expands into other nodes, unsupported here.")
            for key, entries in result.get("ui", {}).items():
                ui.setdefault(key, []).extend(entries)
            result = result.get("result", () if count == 0 else None)
        if count == 0:
            continue
        if not isinstance(result, (tuple, list)) or len(result) != count:
            raise NodeError(
                f"{subject(node)}: returned {_shape(result)}; its class declares {count} output(s)."
            )
        for slot, value in enumerate(result):
            if is_list[slot]:
                values[slot].extend(value)
            else:
                values[slot].append(value)
    return values, ui


def _shape(result: object) -> str:
    if isinstance(result, (tuple, list)):
        return f"{len(result)} value(s)"
    return f"a {type(result).__name__} and not a tuple"
