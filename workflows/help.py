"""Writes what the front end shows of the nodes and what the nodes themselves say.

python workflows/help.py            the tables of js/docs/*.md, and locales/en/nodeDefs.json

A help page is written by hand but for its sections Inputs and Outputs. The English names are the
nodes' own, the pattern for translations.
"""

import json
import re
from pathlib import Path
from typing import Any

import rescore

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "js" / "docs"
LOCALES = ROOT / "locales"

_SYNTAX = re.compile(r"[{}@|$]")  # what the front end's translations read as more than text


def inputs_of(node: type) -> dict[str, tuple[Any, dict[str, Any]]]:
    """Type and options of every input a user sees, in the order of the node."""
    sections = node.INPUT_TYPES()
    return {
        name: (spec[0], spec[1])
        for section in ("required", "optional")
        for name, spec in sections.get(section, {}).items()
    }


# --- help pages ---------------------------------------------------------------------------------


def with_tables(page: str, node: type) -> str:
    """A help page whose sections Inputs and Outputs say what the node says.

    Raises:
        ValueError: if the page lacks one of the two headings.
    """
    for heading, table in (("Inputs", inputs_table(node)), ("Outputs", outputs_table(node))):
        page, count = re.subn(
            rf"(?ms)^## {heading}\n.*?(?=^## |\Z)",
            lambda _, h=heading, t=table: f"## {h}\n\n{t}\n\n",
            page,
        )
        if count != 1:
            raise ValueError(f"The page has {count} headings `## {heading}`; it must have one.")
    return page.rstrip() + "\n"


def inputs_table(node: type) -> str:
    """Name, start value with its range, and tooltip of every input.

    Advanced inputs are marked: Nodes 2.0 shows them after a click on "Show advanced inputs".
    """
    optional = node.INPUT_TYPES().get("optional", {})
    return _table(
        ("input, start (range)", "what it does"),
        [
            (
                name,
                _start(kind, options, name in optional) + ", advanced" * ("advanced" in options),
                options["tooltip"],
            )
            for name, (kind, options) in inputs_of(node).items()
        ],
    )


def outputs_table(node: type) -> str:
    """Name, type and tooltip of every output."""
    outputs = zip(node.RETURN_NAMES, node.RETURN_TYPES, node.OUTPUT_TOOLTIPS, strict=True)
    return _table(("output", "what it is"), [(n, _type(kind), text) for n, kind, text in outputs])


def _table(head: tuple[str, str], rows: list[tuple[str, str, str]]) -> str:
    """Two columns, and what a name stands for under it: the front end's panel is narrow."""
    lines = [" | ".join(head), "--- | ---"]
    lines += [f"`{name}`<br>{value} | {_cell(text)}" for name, value, text in rows]
    return "\n".join(f"| {line} |" for line in lines)


def _type(kind: str) -> str:
    return kind.removeprefix("RESCORE_")


def _start(kind: Any, options: dict[str, Any], optional: bool) -> str:
    """What an input begins with: a value and its range, the choices, or what is to be wired."""
    if isinstance(kind, list):
        # Choices without a default are the files of one machine.
        if "default" not in options:
            return "one of your files"
        others = [f"`{choice}`" for choice in kind if choice != options["default"]]
        return f"`{options['default']}` (or {', '.join(others)})"
    if kind in ("INT", "FLOAT"):
        low, high = (_number(options[end]) for end in ("min", "max"))
        return f"{_number(options['default'])} ({low} to {high})"
    if kind == "BOOLEAN":
        return "on" if options["default"] else "off"
    if kind == "STRING":
        return f"`{options['default']}`" if options["default"] else "empty"
    return f"{_type(kind)}, optional" if optional else _type(kind)


def _number(value: float) -> str:
    return f"{value:.10f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


def _cell(text: str) -> str:
    """Text as it is, in a cell of a Markdown table."""
    return re.sub(r"([*|`])", r"\\\1", text).replace("<", "&lt;")


# --- translations -------------------------------------------------------------------------------


def english() -> dict[str, Any]:
    """The names and texts of all nodes, as `locales/<language>/nodeDefs.json` has them."""
    return {name: _texts(name, node) for name, node in sorted(rescore.NODE_CLASS_MAPPINGS.items())}


def _texts(name: str, node: type) -> dict[str, Any]:
    outputs = zip(node.RETURN_NAMES, node.OUTPUT_TOOLTIPS, strict=True)
    return {
        "display_name": _literal(rescore.NODE_DISPLAY_NAME_MAPPINGS[name]),
        "description": _literal(node.DESCRIPTION),
        "inputs": {
            key: {"name": key, "tooltip": _literal(options["tooltip"])}
            for key, (_, options) in inputs_of(node).items()
        },
        "outputs": {
            str(slot): {"name": key, "tooltip": _literal(tooltip)}
            for slot, (key, tooltip) in enumerate(outputs)
        },
    }


def _literal(text: str) -> str:
    """Text of which the front end's translations read every character as itself."""
    return _SYNTAX.sub(lambda found: f"{{'{found[0]}'}}", text)


def dumped(texts: dict[str, Any]) -> str:
    return json.dumps(texts, indent=2, ensure_ascii=False) + "\n"


def main() -> None:
    for name, node in rescore.NODE_CLASS_MAPPINGS.items():
        page = DOCS / f"{name}.md"
        page.write_text(with_tables(page.read_text("utf-8"), node), "utf-8")
    file = LOCALES / "en" / "nodeDefs.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(dumped(english()), "utf-8")


if __name__ == "__main__":
    main()
