"""Inputs and outputs of a node, one line each, in the form that ComfyUI reads.

    "cfg": FLOAT(9, 0, 100, 0.1, "Guidance scale. If the edit is too weak, raise it."),

Further options of the host are passed by name: `advanced=True` (Nodes 2.0 hides the input behind a
button), `multiline`, `round`, `display`, ...
"""

from collections.abc import Sequence
from typing import Any, ClassVar

Input = tuple[Any, dict[str, Any]]  # in the host's form: type or choices, and options


class Node:
    """The base of all nodes: their inputs are in two tables, in the order on the node.

    `DESCRIPTION` says what a node does. Newer hosts also search for `SEARCH_ALIASES`.
    """

    TITLE: ClassVar[str]
    SEARCH_ALIASES: ClassVar[list[str]]
    REQUIRED: ClassVar[dict[str, Input]] = {}
    OPTIONAL: ClassVar[dict[str, Input]] = {}

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, dict[str, Input]]:
        """The inputs, in the form that the host reads."""
        return {"required": cls.REQUIRED, "optional": cls.OPTIONAL}


def outputs(**named: tuple[str, str]) -> tuple[tuple[str, ...], ...]:
    """RETURN_TYPES, RETURN_NAMES and OUTPUT_TOOLTIPS of outputs `name=(type, tooltip)`."""
    types, tooltips = zip(*named.values(), strict=True)
    return types, tuple(named), tooltips


# --- kinds of inputs ----------------------------------------------------------------------------


def SOCKET(kind: str, tooltip: str) -> Input:
    """An input that is wired to an output of the same type."""
    return kind, {"tooltip": tooltip}


def INT(default: int, low: int, high: int, tooltip: str, *, step: int = 1, **options: Any) -> Input:
    """A whole number from `low` to `high`."""
    bounds = {"default": default, "min": low, "max": high, "step": step}
    return "INT", {**bounds, "tooltip": tooltip, **options}


def FLOAT(
    default: float, low: float, high: float, step: float, tooltip: str, **options: Any
) -> Input:
    """A number from `low` to `high`, which the arrows of its widget change by `step`."""
    bounds = {"default": default, "min": low, "max": high, "step": step}
    numbers = {name: float(value) for name, value in bounds.items()}
    return "FLOAT", {**numbers, "tooltip": tooltip, **options}


def BOOLEAN(default: bool, tooltip: str, **options: Any) -> Input:
    """A switch."""
    return "BOOLEAN", {"default": default, "tooltip": tooltip, **options}


def STRING(default: str, tooltip: str, **options: Any) -> Input:
    """Text: one line, or several with `multiline=True`."""
    return "STRING", {"default": default, "tooltip": tooltip, **options}


def COMBO(choices: Sequence[str], tooltip: str, **options: Any) -> Input:
    """One of several choices: the first to begin with, unless `default` names another."""
    return list(choices), {"default": choices[0], "tooltip": tooltip, **options}


def FILES(names: list[str], remedy: str, tooltip: str) -> Input:
    """One of the files or folders on this machine; without any, a choice that says what to do."""
    return names or [f"(nothing found: {remedy})"], {"tooltip": tooltip}
