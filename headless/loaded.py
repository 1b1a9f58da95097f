"""Models that stay loaded from one run to the next, as the host's cache keeps them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256

import torch

from ..nodes.sockets import CLIP_SCORER, DETECTOR, DINO, MODEL, TRACKER
from .specs import output_types
from .validate import Plan
from .workflow import Link, Node

MODELS = {MODEL, CLIP_SCORER, DETECTOR, DINO, TRACKER}


def loaders(plan: Plan) -> dict[str, str]:
    """The nodes of a plan that only load models, each with a name for what it loads.

    Such a node has a model among its outputs, and whatever is wired to it comes from another. Two
    nodes of the same name load the same: the name is of class, settings and the loaders before.
    """
    names: dict[str, str | None] = {}

    def name_of(node_id: str) -> str | None:
        if node_id not in names:
            node = plan.nodes[node_id]
            before = {
                name: (name_of(link.node), link.output) for name, link in node.links().items()
            }
            is_model = not MODELS.isdisjoint(output_types(plan.classes[node_id]))
            if is_model and all(source for source, _ in before.values()):
                names[node_id] = _name(node, before)
            else:
                names[node_id] = None
        return names[node_id]

    return {node_id: name for node_id in plan.nodes if (name := name_of(node_id))}


def _name(node: Node, before: dict[str, tuple[str | None, int]]) -> str:
    settings = {name: v for name, v in node.inputs.items() if not isinstance(v, Link)}
    described = json.dumps([node.class_type, settings, before], sort_keys=True)
    return sha256(described.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class _Kept:
    values: list[list[object]]
    changed: object  # what IS_CHANGED said: another answer means that a file is another

    @cached_property
    def fingerprint(self) -> str:
        return fingerprint(value for output in self.values for value in output)


class Loaded:
    """The outputs of the loaders of the last run; those that the next does not need are let go."""

    def __init__(self) -> None:
        self._kept: dict[str, _Kept] = {}
        self._names: dict[str, str] = {}
        self._plan: Plan | None = None

    def begin(self, plan: Plan) -> None:
        """Let go of what this plan does not load, before anything is loaded for it."""
        self._plan, self._names = plan, loaders(plan)
        names = set(self._names.values())
        self._kept = {name: kept for name, kept in self._kept.items() if name in names}

    def recall(self, node: Node) -> list[list[object]] | None:
        """What the node gave when it loaded the same before, if it is a loader."""
        kept = self._kept.get(self._names.get(node.id, ""))
        return kept.values if kept and kept.changed == self._changed(node) else None

    def keep(self, node: Node, values: list[list[object]]) -> None:
        """Keep what a loader has given; of any other node nothing is kept."""
        if node.id in self._names:
            self._kept[self._names[node.id]] = _Kept(values, self._changed(node))

    def _changed(self, node: Node) -> object:
        ask = getattr(self._plan.classes[node.id], "IS_CHANGED", None)
        if ask is None:
            return None
        return ask(**{k: None if isinstance(v, Link) else v for k, v in node.inputs.items()})

    def fingerprints(self) -> dict[str, str]:
        """The fingerprints of the models loaded, by the names that `loaders` gives."""
        return {name: kept.fingerprint for name, kept in self._kept.items()}


def fingerprint(values: Iterable[object]) -> str:
    """A short name of the models among some values, equal for equal weights.

    A model that has a `fingerprint` says it itself; of others, a few numbers of every weight count.
    """
    digest = sha256()
    for value in values:
        if hasattr(value, "fingerprint"):
            digest.update(value.fingerprint.encode())
        elif hasattr(value, "modules"):
            for part in value.modules().values():
                for name, weight in part.state_dict().items():
                    flat = weight.detach().flatten()
                    few = flat[:: max(1, flat.numel() // 8)][:8].to("cpu", torch.float64)
                    digest.update(f"{name} {tuple(weight.shape)}".encode())
                    digest.update(few.numpy().tobytes())
    return digest.hexdigest()[:16]
