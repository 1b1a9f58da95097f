"""Reading workflow files: hostile JSON is refused with a sentence, good JSON becomes nodes."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rescore.headless.errors import WorkflowError, listed, printable
from rescore.headless.workflow import Link, NoLink, find_node, parse_workflow, read_workflow

NODE = '{"class_type": "Number", "inputs": {}}'

BAD_FILES = {
    "not JSON": (b"hello", "is not valid JSON"),
    "empty": (b"", "is not valid JSON"),
    "cut off": (b'{"1": {"class_type": "Num', "is not valid JSON"),
    "binary": (b"\xff\xfe\x00\x01" * 9, "is not UTF-8 text"),
    "a list": (b"[]", "holds a JSON array; expected an object"),
    "a number": (b"5", "holds a JSON number"),
    "deep": (b"[" * 500_000, "nested too deeply"),
    "deep objects": (b'{"a":' * 500_000, "nested too deeply"),
    "a key twice": (f'{{"1": {NODE}, "1": {NODE}}}'.encode(), "the key '1' is given twice"),
    "NaN": (b'{"1": {"class_type": "N", "inputs": {"x": NaN}}}', "NaN is not a number"),
    "Infinity": (b'{"1": {"class_type": "N", "inputs": {"x": -Infinity}}}', "-Infinity is not"),
    "endless digits": (b'{"1": ' + b"9" * 5000 + b"}", "is not valid JSON"),
    "large": (b" " * (16 * 2**20 + 1), "larger than 16 MiB"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_files(tmp_path, case):
    data, sentence = BAD_FILES[case]
    path = tmp_path / "workflow.json"
    path.write_bytes(data)
    with pytest.raises(WorkflowError, match=sentence):
        read_workflow(path)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(WorkflowError, match=r"Cannot read the workflow .*No such file"):
        read_workflow(tmp_path / "none.json")
    with pytest.raises(WorkflowError, match="Cannot read the workflow"):
        read_workflow(tmp_path)


def test_a_byte_order_mark_is_fine(tmp_path):
    path = tmp_path / "workflow.json"
    path.write_bytes(b"\xef\xbb\xbf" + f'{{"1": {NODE}}}'.encode())
    assert list(parse_workflow(read_workflow(path))) == ["1"]


def deep(levels: int) -> object:
    return [deep(levels - 1)] if levels else 0


BAD_WORKFLOWS = {
    "no nodes": ({}, "is empty"),
    "UI format": ({"nodes": [], "links": [], "version": 0.4}, r"UI-format .* Export \(API\)"),
    "wrapped": ({"prompt": {"1": {}}}, "wrapped in 'prompt'"),
    "too deep": ({"1": {"class_type": "N", "inputs": {"x": deep(99)}}}, "deeper than 32 levels"),
    "overflow": ({"1": {"class_type": "N", "inputs": {"x": 1e999}}}, "not finite"),
    "too many": ({str(i): {"class_type": "N"} for i in range(10_001)}, "10001 nodes; the limit"),
    "node is a list": ({"1": []}, "Node 1: expected an object with a 'class_type', found array"),
    "no class": ({"1": {"inputs": {}}}, "Node 1: 'class_type' is missing"),
    "class is a number": ({"1": {"class_type": 5}}, "'class_type' is missing or not a string"),
    "inputs is a list": ({"1": {"class_type": "N", "inputs": []}}, "'inputs' must be an object"),
}


@pytest.mark.parametrize("case", BAD_WORKFLOWS)
def test_bad_workflows(case):
    raw, sentence = BAD_WORKFLOWS[case]
    with pytest.raises(WorkflowError, match=sentence):
        parse_workflow(raw)


@pytest.mark.parametrize("value", [["2"], ["2", 0, 0], [2, 0], ["2", True], ["2", 0.5], [], [[]]])
def test_a_list_that_is_no_link_is_kept_as_what_it_is(value):
    nodes = parse_workflow({"1": {"class_type": "N", "inputs": {"x": value}}})
    assert nodes["1"].inputs == {"x": NoLink(value)}


def test_every_bad_node_is_named():
    with pytest.raises(WorkflowError) as refusal:
        parse_workflow({"1": [], "2": {"class_type": "N"}, "3": {}})
    assert [problem[:7] for problem in refusal.value.problems] == ["Node 1:", "Node 3:"]


def test_links_values_and_titles():
    nodes = parse_workflow(
        {
            "3:1": {
                "class_type": "Add",
                "inputs": {"a": ["7", 1], "b": 5, "c": {"__value__": [1, 2]}},
                "_meta": {"title": "Sum"},
                "is_changed": [0],
            },
            "7": {"class_type": "Number", "_meta": None},
        }
    )
    assert nodes["3:1"].inputs == {"a": Link("7", 1), "b": 5, "c": [1, 2]}
    assert str(nodes["3:1"]) == 'node 3:1 (Add, "Sum")'
    assert str(nodes["7"]) == "node 7 (Number)"


def test_a_node_is_found_by_id_title_or_class():
    raw = {
        "1": {"class_type": "Number", "_meta": {"title": "Steps"}},
        "2": {"class_type": "Number", "_meta": {"title": "Seed"}},
        "3": {"class_type": "Add", "_meta": {"title": "1"}},
    }
    nodes = parse_workflow(raw)
    assert [find_node(nodes, name) for name in ("1", "Seed", "Add")] == ["1", "2", "3"]
    with pytest.raises(ValueError, match="'Number' is the name of nodes 1, 2; use an id"):
        find_node(nodes, "Number")
    with pytest.raises(
        ValueError, match=r'no node \'x\'; the workflow has node 1 \(Number, "Steps"'
    ):
        find_node(nodes, "x")


def test_titles_cannot_speak_to_the_terminal():
    raw = {"1": {"class_type": "N", "_meta": {"title": "\x1b[2Jgone\r\n" + "x" * 500}}}
    shown = str(parse_workflow(raw)["1"])
    assert shown.isprintable() and "\\x1b[2Jgone\\r\\n" in shown and len(shown) < 130


@given(st.text())
def test_printable_is_printable(text):
    shown = printable(text)
    assert shown.isprintable()
    shown.encode("utf-8")


def test_long_lists_are_cut():
    assert listed([]) == "(none)"
    assert listed(range(3)) == "0, 1, 2"
    assert listed(range(20)).endswith("11, and 8 more")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=12,
)


@given(
    st.dictionaries(
        st.text(max_size=4), JSON | st.fixed_dictionaries({"class_type": JSON, "inputs": JSON})
    )
)
def test_any_json_is_parsed_or_refused(raw):
    """Fuzz: only WorkflowError ever comes out, and what comes through is well-formed."""
    try:
        nodes = parse_workflow(raw)
    except WorkflowError as error:
        assert error.problems and all(problem.isprintable() for problem in error.problems)
    else:
        assert list(nodes) == list(raw)
        json.dumps(raw, allow_nan=False)
