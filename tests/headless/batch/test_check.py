"""A manifest against its graph: all faults before anything runs, files from given folders only."""

import logging

import pytest
from rescore.headless.batch.check import check_lines
from rescore.headless.batch.manifest import Line
from rescore.headless.errors import WorkflowError
from rescore.headless.overrides import CommandLineText
from rescore.headless.runner import all_nodes

CLIP = {
    "1": {"class_type": "LoadVideo", "inputs": {"file": "a.mp4"}, "_meta": {"title": "Clip"}},
    "2": {"class_type": "GetVideoComponents", "inputs": {"video": ["1", 0]}},
    "3": {
        "class_type": "SaveImage",
        "inputs": {"images": ["2", 0], "filename_prefix": "x"},
        "_meta": {"title": "Save"},
    },
}


class Anything:
    """An output that fits everywhere."""

    RETURN_TYPES = ("*",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {}}


@pytest.fixture
def check(folders):
    """`check(graph, settings, ...)`: lines with these values, checked."""
    for name in ("a.mp4", "b.mp4"):
        (folders.inputs[0] / name).write_bytes(name.encode())
    (folders.inputs[0] / "sub").mkdir()
    (folders.inputs[0] / "sub" / "c.mp4").write_bytes(b"c")

    def check(graph, *settings):
        lines = [Line(2 * i + 1, f"l{i}", "", values) for i, values in enumerate(settings)]
        return check_lines(graph, lines, all_nodes(folders, {"Anything": Anything}), folders)

    return check


def test_values_reach_the_graph_and_files_are_found(check, folders):
    first, second = check(CLIP, {}, {"Clip.file": "sub/c.mp4", "3.filename_prefix": "y"})
    assert first.files == {"a.mp4": (folders.inputs[0] / "a.mp4").resolve()}
    assert second.files == {"sub/c.mp4": (folders.inputs[0] / "sub" / "c.mp4").resolve()}
    assert second.prompt["1"]["inputs"] == {"file": "sub/c.mp4"}
    assert second.prompt["3"]["inputs"] == {"images": ["2", 0], "filename_prefix": "y"}
    assert CLIP["1"]["inputs"] == {"file": "a.mp4"}


def test_text_of_a_csv_is_typed_by_its_input(check):
    graph = {
        **CLIP,
        "4": {"class_type": "SolidMask", "inputs": {"value": 1, "width": 1, "height": 1}},
    }
    graph["5"] = {"class_type": "MaskToImage", "inputs": {"mask": ["4", 0]}}
    graph["6"] = {"class_type": "PreviewImage", "inputs": {"images": ["5", 0]}}
    (found,) = check(
        graph, {"4.width": CommandLineText("17"), "Save.filename_prefix": CommandLineText("17")}
    )
    assert found.prompt["4"]["inputs"]["width"] == 17
    assert found.prompt["3"]["inputs"]["filename_prefix"] == "17"


def test_every_fault_of_every_line_is_named(check):
    with pytest.raises(WorkflowError) as refusal:
        check(
            CLIP,
            {},
            {"Klip.file": "b.mp4", "Clip.flie": "b.mp4"},
            {"Clip.file": "none.mp4"},
            {"Clip.file": "../secret.mp4"},
            {"Clip.file": 5},
        )
    found = refusal.value.problems
    assert [problem.split(":")[0] for problem in found] == [
        "Line 3", "Line 3", "Line 5", "Line 7", "Line 9",
    ]  # fmt: skip
    assert "there is no node 'Klip'" in found[0]
    assert "has no such input; did you mean 'file'?" in found[1]
    assert "'none.mp4' is not in the input folder(s)" in found[2]
    assert "leaves its folder through '..'" in found[3]


def test_a_fault_of_the_graph_is_said_once(check):
    graph = {key: node for key, node in CLIP.items() if key != "3"}
    with pytest.raises(WorkflowError) as refusal:
        check(graph, {}, {}, {})
    (sentence,) = refusal.value.problems
    assert sentence.startswith("Every line: The workflow has no output node")


def test_a_name_that_comes_from_another_node_is_not_known_in_time(check):
    graph = {**CLIP, "9": {"class_type": "Anything", "inputs": {}}}
    graph["1"] = {**CLIP["1"], "inputs": {"file": ["9", 0]}}
    with pytest.raises(
        WorkflowError, match=r"takes the name of its file from another node.*Clip\.file"
    ):
        check(graph, {})
    assert check(graph, {"Clip.file": "b.mp4"})[0].files.keys() == {"b.mp4"}


def test_what_is_odd_about_the_graph_is_said_once(check, caplog):
    solid = {"value": 1, "width": 1, "height": 1}
    graph = {**CLIP, "9": {"class_type": "SolidMask", "inputs": solid}}
    with caplog.at_level(logging.WARNING):
        check(graph, {}, {}, {})
    assert [record.getMessage() for record in caplog.records] == [
        "node 9 (SolidMask) feeds no output and does not run."
    ]
