"""Writes what the front end shows of the nodes and what the nodes themselves say.

python workflows/help.py            the tables of the help pages, and locales/en/nodeDefs.json

The help page of a node is js/docs/<id>.md, and in other languages js/docs/<id>/<language>.md. It is
written by hand but for its sections of inputs and outputs. The English names are the nodes' own,
the pattern for translations. On pages of every language pictures are named as seen from js/docs/,
which is where the front end looks for them.
"""

import json
import re
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

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


class Words(NamedTuple):
    """The words of the generated sections in one language."""

    inputs: tuple[str, str, str]  # heading of the section, headings of its two columns
    outputs: tuple[str, str, str]
    advanced: str
    optional: str
    files: str
    choices: str
    range: str
    on_off: tuple[str, str]
    empty: str
    none: str


WORDS = {
    "en": Words(
        ("Inputs", "input, start (range)", "what it does"),
        ("Outputs", "output", "what it is"),
        advanced="{}, advanced",
        optional="{}, optional",
        files="one of your files",
        choices="`{}` (or {})",
        range="{} ({} to {})",
        on_off=("on", "off"),
        empty="empty",
        none="None.",
    ),
    "zh": Words(
        ("输入", "输入，初始值（范围）", "作用"),
        ("输出", "输出", "内容"),
        advanced="{}，高级",
        optional="{}，可选",
        files="你的文件之一",
        choices="`{}`（或 {}）",
        range="{}（{} 到 {}）",
        on_off=("开", "关"),
        empty="空",
        none="无。",
    ),
}


def page_of(name: str, language: str = "en") -> Path:
    """The help page of a node, where the front end looks for it."""
    return DOCS / f"{name}.md" if language == "en" else DOCS / name / f"{language}.md"


def with_tables(page: str, name: str, language: str = "en") -> str:
    """A help page whose sections of inputs and outputs say what the node says.

    Raises:
        ValueError: if the page lacks one of the two headings.
    """
    words = WORDS[language]
    for (heading, *_), table in (
        (words.inputs, inputs_table(name, language)),
        (words.outputs, outputs_table(name, language)),
    ):
        page, count = re.subn(
            rf"(?ms)^## {heading}\n.*?(?=^## |\Z)",
            lambda _, h=heading, t=table: f"## {h}\n\n{t}\n\n",
            page,
        )
        if count != 1:
            raise ValueError(f"The page has {count} headings `## {heading}`; it must have one.")
    return page.rstrip() + "\n"


def inputs_table(name: str, language: str) -> str:
    """Name, start value with its range, and tooltip of every input.

    Advanced inputs are marked: Nodes 2.0 shows them after a click on "Show advanced inputs".
    """
    node, words = rescore.NODE_CLASS_MAPPINGS[name], WORDS[language]
    optional, texts = node.INPUT_TYPES().get("optional", {}), translated(name, language)["inputs"]
    rows = []
    for key, (kind, options) in inputs_of(node).items():
        start = _start(kind, options, key in optional, words)
        if "advanced" in options:
            start = words.advanced.format(start)
        rows.append((key, texts[key], start))
    return _table(words.inputs[1:], rows)


def outputs_table(name: str, language: str) -> str:
    """Name, type and tooltip of every output."""
    node, texts = rescore.NODE_CLASS_MAPPINGS[name], translated(name, language)["outputs"]
    named = zip(node.RETURN_NAMES, node.RETURN_TYPES, strict=True)
    rows = [(key, texts[str(slot)], _type(kind)) for slot, (key, kind) in enumerate(named)]
    return _table(WORDS[language].outputs[1:], rows) if rows else WORDS[language].none


def _table(head: tuple[str, str], rows: list[tuple[str, dict[str, str], str]]) -> str:
    """Two columns, and what a name stands for under it: the front end's panel is narrow."""
    lines = [" | ".join(head), "--- | ---"]
    for key, texts, value in rows:
        shown = "" if texts["name"] == key else f" {texts['name']}"
        lines.append(f"`{key}`{shown}<br>{value} | {_cell(texts['tooltip'])}")
    return "\n".join(f"| {line} |" for line in lines)


def _type(kind: str) -> str:
    return kind.removeprefix("RESCORE_")


def _start(kind: Any, options: dict[str, Any], optional: bool, words: Words) -> str:
    """What an input begins with: a value and its range, the choices, or what is to be wired."""
    if isinstance(kind, list):
        # Choices without a default are the files of one machine.
        if "default" not in options:
            return words.files
        others = [f"`{choice}`" for choice in kind if choice != options["default"]]
        return words.choices.format(options["default"], ", ".join(others))
    if kind in ("INT", "FLOAT"):
        return words.range.format(*(_number(options[end]) for end in ("default", "min", "max")))
    if kind == "BOOLEAN":
        return words.on_off[not options["default"]]
    if kind == "STRING":
        return f"`{options['default']}`" if options["default"] else words.empty
    return words.optional.format(_type(kind)) if optional else _type(kind)


def _number(value: float) -> str:
    return f"{value:.10f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


def _cell(text: str) -> str:
    """A text of a translation as it reads, in a cell of a Markdown table."""
    plain = re.sub(r"\{'(.)'\}", r"\1", text)
    return re.sub(r"([*|`])", r"\\\1", plain).replace("<", "&lt;")


# --- translations -------------------------------------------------------------------------------


@cache
def translation(language: str) -> dict[str, Any]:
    """The names and texts of all nodes in a language."""
    if language == "en":
        return english()
    return json.loads((LOCALES / language / "nodeDefs.json").read_text("utf-8"))


def translated(name: str, language: str) -> dict[str, Any]:
    """The names and texts of one node in a language."""
    return translation(language)[name]


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
    for name, language in product(rescore.NODE_CLASS_MAPPINGS, WORDS):
        page = page_of(name, language)
        page.write_text(with_tables(page.read_text("utf-8"), name, language), "utf-8")
    file = LOCALES / "en" / "nodeDefs.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(dumped(english()), "utf-8")


if __name__ == "__main__":
    main()
