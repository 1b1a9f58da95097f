"""What a node class declares about its inputs, and whether a value or a link fits.

Reads the V1 contract (`INPUT_TYPES`, `RETURN_TYPES`, ...) and applies the host's rules, stricter in
one point: a widget value must have the declared JSON type; nothing is converted but whole floats.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain

from .errors import listed, printable

ANY = "*"
DYNAMIC_COMBO = "COMFY_DYNAMICCOMBO_V3"
WIDGETS = {
    "INT": "a whole number",
    "FLOAT": "a number",
    "STRING": "text",
    "BOOLEAN": "true or false",
}


@dataclass(frozen=True)
class InputSpec:
    """One declared input: its type (`"COMBO"` with `choices` for a list of values) and options."""

    name: str
    type: str
    required: bool
    options: Mapping[str, object]
    choices: tuple[object, ...] | None = None

    @property
    def lazy(self) -> bool:
        """Whether the node decides at run time if it needs this input at all."""
        return bool(self.options.get("lazy"))


def input_specs(cls: type) -> dict[str, InputSpec]:
    """The inputs of a node class in declaration order, those of its dynamic combos among them.

    Beside the host's groups, a stand-in may have a group "later": what hosts after 0.8.0 added.
    """
    declared = cls.INPUT_TYPES()
    return {
        spec.name: spec
        for group in ("required", "optional", "later")
        for name, entry in declared.get(group, {}).items()
        for spec in _input_specs(name, entry, group == "required")
    }


def _input_specs(name: str, entry: tuple, required: bool) -> Iterator[InputSpec]:
    kind = entry[0]
    options = entry[1] if len(entry) > 1 else {}
    if isinstance(kind, (list, tuple)):
        yield InputSpec(name, "COMBO", required, options, tuple(kind))
    elif kind == "COMBO":
        yield InputSpec(name, "COMBO", required, options, tuple(options.get("options", ())))
    elif kind == DYNAMIC_COMBO:
        choices = options["options"]
        yield InputSpec(name, "COMBO", required, {}, tuple(choice["key"] for choice in choices))
        # Each choice has inputs of its own, by group; the host checks them, when it is chosen.
        for group in chain.from_iterable(choice["inputs"].values() for choice in choices):
            for inner, described in group.items():
                for spec in _input_specs(f"{name}.{inner}", described, False):
                    yield InputSpec(spec.name, ANY, False, {})
    else:
        yield InputSpec(name, kind, required, options)


def hidden_inputs(cls: type) -> dict[str, str]:
    """The hidden inputs of a node class: name to what the host fills in (`UNIQUE_ID`, ...)."""
    return dict(cls.INPUT_TYPES().get("hidden", {}))


def output_types(cls: type) -> tuple[str, ...]:
    """The declared output types; a list of choices counts as `COMBO`.

    Of a stand-in, `LATER_RETURN_TYPES` follow: outputs that hosts after 0.8.0 added.
    """
    types = (*getattr(cls, "RETURN_TYPES", ()), *getattr(cls, "LATER_RETURN_TYPES", ()))
    return tuple("COMBO" if isinstance(kind, (list, tuple)) else kind for kind in types)


def types_match(produced: str, wanted: str) -> bool:
    """Whether a link may join the two types: equal, any (`*`), or sharing one of `A,B,C`."""
    sent = {part.strip() for part in produced.split(",")}
    taken = {part.strip() for part in wanted.split(",")}
    return ANY in sent | taken or bool(sent & taken)


def check_value(spec: InputSpec, value: object, *, in_range: bool) -> object:
    """The widget value as the node will get it.

    Args:
        in_range: also check minimum, maximum and membership; off for inputs that the node's own
            `VALIDATE_INPUTS` names, as in the host.

    Raises:
        ValueError: wrong type, out of range, or not one of the choices.
    """
    if spec.type == "COMBO":
        if in_range:
            _check_choice(spec, value)
        elif not isinstance(value, str) and all(isinstance(one, str) for one in spec.choices or ()):
            raise ValueError(f"takes a name, found {_quoted(value)}")
        return value
    kinds = [kind.strip() for kind in spec.type.split(",")]
    if ANY in kinds:
        return value
    widgets = [kind for kind in kinds if kind in WIDGETS]
    if not widgets:
        raise ValueError(
            f"takes a link from a node with a {spec.type} output, not the value {_quoted(value)}"
        )
    for kind in widgets:
        fits, converted = _as_widget(kind, value)
        if fits:
            if in_range:
                _check_range(spec, converted)
            return converted
    wanted = " or ".join(WIDGETS[kind] for kind in widgets)
    raise ValueError(f"takes {wanted} ({', '.join(widgets)}), found {_quoted(value)}")


def _as_widget(kind: str, value: object) -> tuple[bool, object]:
    """Whether `value` is of the widget type, and the value to pass on."""
    if kind == "STRING":
        return isinstance(value, str), value
    if kind == "BOOLEAN":
        return isinstance(value, bool), value
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False, value
    if kind == "FLOAT":
        try:
            number = float(value)
        except OverflowError:  # an integer beyond every float
            return False, value
        return math.isfinite(number), number
    if isinstance(value, int):
        return True, value
    return value.is_integer(), int(value) if math.isfinite(value) else value


def _check_range(spec: InputSpec, value: object) -> None:
    low, high = spec.options.get("min"), spec.options.get("max")
    if isinstance(value, (bool, str)):
        return
    if (low is not None and value < low) or (high is not None and value > high):
        lowest = "-inf" if low is None else low
        highest = "inf" if high is None else high
        raise ValueError(f"must lie in [{lowest}, {highest}], found {_quoted(value)}")


def _check_choice(spec: InputSpec, value: object) -> None:
    choices = spec.choices or ()
    if any(value == one and isinstance(value, bool) == isinstance(one, bool) for one in choices):
        return
    if not choices:
        raise ValueError(f"has nothing to choose from here, found {_quoted(value)}")
    close = difflib.get_close_matches(str(value), [str(choice) for choice in choices], n=1)
    hint = f"; did you mean '{printable(close[0])}'?" if close else ""
    raise ValueError(f"must be one of {listed(choices)}, found {_quoted(value)}{hint}")


def _quoted(value: object) -> str:
    """A JSON value for a sentence; text in quotes, long things cut."""
    return f"'{printable(value)}'" if isinstance(value, str) else printable(value)
