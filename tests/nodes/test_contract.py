"""What saved workflows rely on: ids, inputs in order, outputs. Append, never insert or rename."""

import json
import os
import re
from pathlib import Path

import pytest
import rescore

SNAPSHOT = Path(__file__).with_name("contract.json")
NODES = rescore.NODE_CLASS_MAPPINGS
WIDGETS = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}


def kind(spec) -> str:
    return "COMBO" if isinstance(spec[0], list) else spec[0]


def contract(node: type) -> dict:
    """Everything of a node that a saved workflow depends on."""
    sections = node.INPUT_TYPES()
    return {
        "required": [[name, kind(spec)] for name, spec in sections["required"].items()],
        "optional": [[name, kind(spec)] for name, spec in sections.get("optional", {}).items()],
        "outputs": [list(pair) for pair in zip(node.RETURN_NAMES, node.RETURN_TYPES, strict=True)],
    }


@pytest.fixture(scope="module")
def landed() -> dict:
    if os.environ.get("RESCORE_WRITE_CONTRACT"):
        now = {name: contract(node) for name, node in sorted(NODES.items())}
        SNAPSHOT.write_text(json.dumps(now, indent=1) + "\n", "utf-8")
    return json.loads(SNAPSHOT.read_text("utf-8"))


def test_no_node_has_gone_and_every_new_one_is_written_down(landed):
    """After adding a node: RESCORE_WRITE_CONTRACT=1 pytest tests/nodes/test_contract.py."""
    assert sorted(landed) == sorted(NODES)


@pytest.mark.parametrize("name", sorted(NODES))
def test_inputs_and_outputs_are_those_that_landed(landed, name):
    then, now = landed[name], contract(NODES[name])
    assert now["required"] == then["required"]
    assert now["optional"][: len(then["optional"])] == then["optional"]
    assert now["outputs"][: len(then["outputs"])] == then["outputs"]


@pytest.mark.parametrize("name", sorted(NODES))
def test_every_node_explains_itself(name):
    node = NODES[name]
    assert name.startswith("ReScore")
    assert rescore.NODE_DISPLAY_NAME_MAPPINGS[name]
    assert node.CATEGORY.startswith("ReScore/")
    assert len(node.DESCRIPTION) > 40
    assert len(node.OUTPUT_TOOLTIPS) == len(node.RETURN_TYPES) == len(node.RETURN_NAMES)
    for section in node.INPUT_TYPES().values():
        for input_name, spec in section.items():
            options = spec[1]
            assert len(options["tooltip"]) > 20, f"{name}.{input_name} has no tooltip"
            assert re.fullmatch(r"[a-z][a-z0-9_]*", input_name)
            if kind(spec) in ("INT", "FLOAT"):
                # Without bounds the front end invents some.
                assert {"default", "min", "max", "step"} <= options.keys(), input_name
                assert options["min"] <= options["default"] <= options["max"]
            elif kind(spec) in WIDGETS - {"COMBO"}:
                assert "default" in options, input_name


def test_input_types_are_plain_json():
    """The host sends them to the browser as they are."""
    for node in NODES.values():
        json.dumps(node.INPUT_TYPES())
