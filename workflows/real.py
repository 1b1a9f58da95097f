"""What a real model wants otherwise than the tiny one of a graph: for its note and its switch."""

from collections.abc import Iterable
from typing import Any

SWITCH = "ReScoreTinyOrReal"
# A graph with one of these is made for a tiny model.
TINY = {"ReScoreLoadShapeWorldModel", "ReScoreShapeWorldConditioning"}

# Nodes whose numbers are others for the tiny models than for real ones. They begin with the papers'
# values, and those are what a real model wants, unless a graph's `real` says otherwise.
SET_BY_MODEL = (
    "ReScoreScoreDistillation",
    "ReScoreDistillationSampler",
    "ReScoreASSDStep",
    "ReScoreInspectGradient",
    "ReScoreMaskFromGradient",
    "ReScoreImageDeltaDenoising",
    "ReScoreTemporalSelfSimilarity",
    "ReScoreAttentionFusion",
    "ReScoreDDIMInversion",
    "ReScoreNullTextOptimisation",
    "ReScoreAttentionControlledSampling",
    "ReScoreReconstruct",
    "ReScoreOneShotTune",
    "ReScoreEditVideo",
    "ReScoreEditVideoByInversion",
    "ReScorePickKeyframes",
    "ReScoreInterpolateKeyframes",
    "ReScoreEnlargeClip",
)
_NUMBERS = ("INT", "FLOAT", "BOOLEAN")


def settings_of(nodes: Iterable[Any], real: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Of a graph for a tiny model: `node`, `title`, and `widgets`, by name `[tiny, real]`.

    Nodes are named by their title, as in the note; of one title all are set alike.

    Args:
        nodes: those of the graph.
        real: by node and widget, what a real model wants where the node begins with another value.

    Raises:
        ValueError: if nodes of one title want different things.
    """
    nodes = list(nodes)
    found: dict[str, dict[str, Any]] = {}
    if not any(node.kind in TINY for node in nodes):
        return []
    for node in nodes:
        widgets = _widgets(node, real.get(node.kind, {}))
        entry = {"node": node.kind, "title": node.title, "widgets": widgets}
        if found.setdefault(node.title, entry) != entry:
            raise ValueError(f"Nodes titled {node.title!r} differ: give one of them another title.")
    return [entry for entry in found.values() if entry["widgets"]]


def _widgets(node: Any, real: dict[str, Any]) -> dict[str, list[Any]]:
    widgets = {}
    for name, (kind, *options) in node.declared.items():
        known = node.kind in SET_BY_MODEL and kind in _NUMBERS
        if name not in real and not (known and name in node.inputs):
            continue
        wanted = real.get(name, options[0].get("default") if options else None)
        if node.is_set(name) and node.inputs[name] != wanted:
            widgets[name] = [node.inputs[name], wanted]
    return widgets


def described(settings: list[dict[str, Any]]) -> str:
    """The switch and what it sets, for the note of a graph."""
    lines = [
        f"- *{entry['title']}*: "
        + ", ".join(f"`{name}` {_written(real)}" for name, (_, real) in entry["widgets"].items())
        for entry in settings
    ]
    said = "Then choose *real model* in the node *Tiny or Real Model*. It sets"
    return "\n".join([said, *lines])


def _written(value: Any) -> str:
    """As people write it: 0.00003 and not 3e-05."""
    if isinstance(value, bool):
        return "on" if value else "off"
    return value if isinstance(value, str) else f"{value:.10f}".rstrip("0").rstrip(".")
