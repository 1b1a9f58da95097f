"""What saved workflows rely on: ids, inputs in order, outputs. Append, never insert or rename."""

import json
import os
import re
from pathlib import Path

import pytest
import rescore

SNAPSHOT = Path(__file__).with_name("contract.json")
GRAPHS = Path(__file__).resolve().parents[2] / "workflows" / "api"
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
    # With an essentials category, ComfyUI's front end (1.49) would list the node under "Comfy
    # nodes" and no longer with the rest of its pack.
    assert not hasattr(node, "ESSENTIALS_CATEGORY")
    said = [*vars(node)["SEARCH_ALIASES"], rescore.NODE_DISPLAY_NAME_MAPPINGS[name]]
    assert len({word.strip().lower() for word in said}) == len(said) >= 3
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
            # Nodes 2.0 hides advanced inputs behind a button, so they need a value that does.
            if "advanced" in options:
                assert options["advanced"] is True, input_name
                assert kind(spec) in WIDGETS and "default" in options, input_name


@pytest.mark.parametrize(
    ("typed", "found"),
    [
        ("video to video", {"ScoreDistillation", "AttentionControlledSampling", "DDIMInversion"}),
        ("edit video", {"ScoreDistillation", "DeltaDenoising", "AttentionControlledSampling"}),
        ("restyle", {"ScoreDistillation", "AttentionControlledSampling"}),
        ("DDS", {"ScoreDistillation", "DeltaDenoising", "ImageDeltaDenoising"}),
        ("inpaint video", {"ScoreDistillation", "GradientMask"}),
        ("text to mask", {"MaskFromPrompt"}),
        ("compare videos", {"CompareClips", "ViewComparison"}),
    ],
)
def test_what_users_type_leads_to_the_node_that_does_it(typed, found):
    having = {name for name, node in NODES.items() if typed in node.SEARCH_ALIASES}
    assert {f"ReScore{name}" for name in found} <= having


def test_no_shipped_graph_changes_an_input_that_is_hidden_at_first():
    for file in GRAPHS.glob("*.json"):
        for node in json.loads(file.read_text("utf-8")).values():
            if node["class_type"] not in NODES:
                continue
            for section in NODES[node["class_type"]].INPUT_TYPES().values():
                for name, (_, options) in section.items():
                    if options.get("advanced") and name in node["inputs"]:
                        where = f"{file.name}: {node['class_type']}.{name}"
                        assert node["inputs"][name] == options["default"], where


def test_input_types_are_plain_json():
    """The host sends them to the browser as they are."""
    for node in NODES.values():
        json.dumps(node.INPUT_TYPES())
