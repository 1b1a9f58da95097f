"""The pack in a real ComfyUI: what the host shows of it, and that every shipped workflow runs."""

import json
import re
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from rescore.headless.runner import run_workflow
from rescore.nodes import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS
from rescore.tests.host.comfyui import ExecutionError, PromptRejected
from rescore.tests.host.conftest import skip_if_too_old
from rescore.tests.host.graph import (
    as_prompt,
    declared,
    problems,
    without_additions,
    without_titles,
)
from rescore.workflows.host_nodes import needs_host

pytestmark = pytest.mark.host

ROOT = Path(__file__).resolve().parents[2]
GRAPHS = sorted(path.stem for path in (ROOT / "workflows").glob("*.json"))
PROMPTS = sorted(path.stem for path in (ROOT / "workflows" / "api").glob("*.json"))


def graph(name: str) -> dict:
    """A shipped workflow as the front end opens it."""
    return json.loads((ROOT / "workflows" / f"{name}.json").read_text(encoding="utf-8"))


def prompt(name: str) -> dict:
    """A shipped workflow as the host runs it, without the titles."""
    text = (ROOT / "workflows" / "api" / f"{name}.json").read_text(encoding="utf-8")
    return without_titles(json.loads(text))


def of_type(workflow: dict, class_type: str) -> list[str]:
    """The ids of a workflow's nodes of one type."""
    return [key for key, node in workflow.items() if node["class_type"] == class_type]


def loop_of(workflow: dict) -> str:
    """The id of the first node of ours that works in steps from a seed."""
    for key, node in workflow.items():
        if node["class_type"].startswith("ReScore") and {"steps", "seed"} <= node["inputs"].keys():
            return key
    raise LookupError("no node of this workflow has both steps and a seed")


def editing(steps: int, seed: int = 0) -> tuple[dict, str]:
    """The first shipped workflow with a loop, set to that many steps; and the loop's id."""
    for name in PROMPTS:
        workflow = prompt(name)
        try:
            loop = loop_of(workflow)
        except LookupError:
            continue
        workflow[loop]["inputs"] |= {"steps": steps, "seed": seed}
        return workflow, loop
    pytest.skip("no shipped workflow has a loop")


def frames(video: Path) -> np.ndarray:
    """All frames of a video or picture file, uint8 [f, h, w, 3]."""
    with av.open(str(video)) as container:
        return np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])


def rate(video: Path) -> Fraction:
    """The frames per second of a video file."""
    with av.open(str(video)) as container:
        return container.streams.video[0].average_rate


def saved(comfyui, workflow: dict, run) -> list[Path]:
    """The files the SaveVideo nodes of a finished run wrote."""
    return [
        file for key in of_type(workflow, "SaveVideo") for file in comfyui.files(run.outputs[key])
    ]


# What the host shows


def test_the_pack_is_imported_quickly_and_without_a_word(comfyui):
    start, _, _ = comfyui.log().partition("Starting server")
    timing = re.search(
        r"([\d.]+) seconds( \(.*\))?: .*custom_nodes.rescore\s*$", start, re.MULTILINE
    )
    assert timing is not None, start
    assert timing[2] is None, start
    assert float(timing[1]) <= 0.5
    assert "for custom nodes: " not in "".join(
        line for line in start.splitlines() if "rescore" in line
    )
    assert "Unable to parse pyproject.toml" not in start


def test_no_node_of_ours_is_missing_or_unexpected(object_info):
    ours = {
        key for key, info in object_info.items() if info["python_module"] == "custom_nodes.rescore"
    }
    assert ours == set(NODE_CLASS_MAPPINGS)


@pytest.mark.parametrize("node_id", sorted(NODE_CLASS_MAPPINGS))
def test_a_node_is_offered_as_it_is_declared(object_info, node_id):
    info, inputs = object_info[node_id], NODE_CLASS_MAPPINGS[node_id].INPUT_TYPES()
    for section in ("required", "optional"):
        shown = [(name, kind) for name, kind, _ in declared(info, section)]
        kinds = [(name, spec[0]) for name, spec in inputs.get(section, {}).items()]
        # The choices of a list may differ between two processes: they can be a folder's files.
        assert [(n, k if isinstance(k, str) else "COMBO") for n, k in shown] == [
            (n, k if isinstance(k, str) else "COMBO") for n, k in kinds
        ]
    assert info["output"] == list(NODE_CLASS_MAPPINGS[node_id].RETURN_TYPES)
    assert len(info["output_name"]) == len(info["output"])


@pytest.mark.parametrize("node_id", sorted(NODE_CLASS_MAPPINGS))
def test_a_node_explains_itself(object_info, node_id):
    info = object_info[node_id]
    assert node_id.startswith("ReScore")
    assert info["category"].split("/")[0] == "ReScore"
    assert info["display_name"] == NODE_DISPLAY_NAME_MAPPINGS[node_id] != node_id
    assert info["description"]
    for section in ("required", "optional"):
        for name, kind, options in declared(info, section):
            assert options.get("tooltip"), f"{name} has no tooltip"
            if kind in ("INT", "FLOAT") and not options.get("forceInput"):
                # Without these the front end clamps the value to 0 .. 2048.
                assert options["min"] <= options["default"] <= options["max"], name


@pytest.mark.parametrize("node_id", sorted(NODE_CLASS_MAPPINGS))
def test_a_node_says_which_inputs_are_advanced_and_how_it_is_searched(object_info, node_id):
    info, node = object_info[node_id], NODE_CLASS_MAPPINGS[node_id]
    for section, inputs in node.INPUT_TYPES().items():
        ours = {name for name, spec in inputs.items() if spec[1].get("advanced")}
        assert ours == {n for n, _, options in declared(info, section) if options.get("advanced")}
    # ComfyUI 0.8 does not know aliases yet.
    if "search_aliases" in object_info["KSampler"]:
        assert info["search_aliases"] == node.SEARCH_ALIASES


def test_browser_files_and_help_pages_are_served_once(comfyui):
    scripts = [url for url in comfyui.get("/extensions") if url.startswith("/extensions/rescore/")]
    present = (path.relative_to(ROOT / "js").as_posix() for path in (ROOT / "js").rglob("*.js"))
    assert sorted(scripts) == sorted(f"/extensions/rescore/{path}" for path in present)
    for page in (ROOT / "js" / "docs").rglob("*.md"):
        path = page.relative_to(ROOT / "js").as_posix()
        assert comfyui.fetch(f"/extensions/rescore/{path}") == page.read_bytes()


# The shipped workflows


def test_every_workflow_has_both_forms_and_is_a_template(comfyui):
    assert GRAPHS == PROMPTS
    assert sorted(comfyui.get("/workflow_templates").get("rescore", [])) == GRAPHS


@pytest.mark.parametrize("name", GRAPHS)
def test_a_graph_opens_without_a_missing_node_or_a_changed_widget(object_info, name):
    assert problems(graph(name), object_info) == []


@pytest.mark.parametrize("name", GRAPHS)
def test_a_graph_and_its_api_form_are_the_same_workflow(object_info, name):
    posted = as_prompt(graph(name), object_info)
    assert without_additions(posted, prompt(name), object_info) == prompt(name)


@pytest.mark.parametrize("name", GRAPHS)
def test_a_template_is_served_with_its_picture(comfyui, name):
    address = f"/api/workflow_templates/rescore/{name}"
    assert json.loads(comfyui.fetch(f"{address}.json")) == graph(name)
    assert comfyui.fetch(f"{address}.jpg").startswith(b"\xff\xd8\xff")


@pytest.fixture(scope="module", params=PROMPTS)
def finished(request, comfyui):
    """A shipped workflow with its loops shortened, and its run in the host.

    What many steps achieve is for other tests; here each loop only has to come to its end.
    """
    workflow = prompt(request.param)
    skip_if_too_old(comfyui, workflow)
    for node in workflow.values():
        steps = node["inputs"].get("steps")
        if isinstance(steps, int):
            node["inputs"]["steps"] = min(steps, 5)
    return workflow, comfyui.run(workflow)


def test_a_workflow_runs_and_writes_its_videos(comfyui, finished):
    workflow, run = finished
    status = comfyui.history(run.prompt_id)["status"]
    assert (status["status_str"], status["completed"]) == ("success", True)
    sources = [
        comfyui.input / workflow[key]["inputs"]["file"] for key in of_type(workflow, "LoadVideo")
    ]
    videos = saved(comfyui, workflow, run)
    assert len(videos) == len(of_type(workflow, "SaveVideo"))
    for video in videos:
        assert (len(frames(video)), rate(video)) in {(len(frames(s)), rate(s)) for s in sources}


def test_the_headless_runner_makes_the_same_pictures(comfyui, finished, decoded_alike, tmp_path):
    workflow, run = finished
    if needs_host(workflow):
        pytest.skip("a graph on ComfyUI's own model runs in a ComfyUI alone")
    headless = run_workflow(workflow, out=tmp_path, inputs=[comfyui.input])
    # The player is for the browser alone: without a host there is nobody to show it to.
    shown = {
        key
        for key, output in run.outputs.items()
        if comfyui.files(output) and workflow[key]["class_type"] != "ReScoreViewComparison"
    }
    assert set(headless.files) == shown
    for key, ours in headless.files.items():
        theirs = comfyui.files(run.outputs[key])
        assert len(ours) == len(theirs)
        for mine, real in zip(ours, theirs, strict=True):
            a, b = frames(mine).astype(int), frames(real).astype(int)
            assert a.shape == b.shape
            if mine.suffix == ".png":  # a video is compressed, and not by the same encoder settings
                # The host cuts 8-bit values off, we round. Where a chart's line has moved by less
                # than a pixel, its edge differs by more.
                assert np.quantile(np.abs(a - b), 0.98) <= 1


# The loop in the host


def test_a_loop_reports_each_step_and_shows_previews(comfyui):
    workflow, loop = editing(steps=3, seed=2)
    run = comfyui.run(workflow, preview_method="auto")
    values = [value for node, value, total in run.progress if node == loop and total == 3]
    assert values[-1] == 3 and 1 in values
    assert values == sorted(values)
    assert run.previews >= 1


def test_an_unchanged_workflow_is_cached_and_a_new_seed_is_not(comfyui):
    workflow, loop = editing(steps=2, seed=3)
    first = comfyui.run(workflow)
    again = comfyui.run(workflow)
    assert (set(again.cached), again.executed) == (set(workflow), [])
    workflow[loop]["inputs"]["seed"] = 5
    other = comfyui.run(workflow)
    assert loop in other.executed
    assert set(of_type(workflow, "LoadVideo")) <= set(other.cached)
    before, after = (saved(comfyui, workflow, run)[0] for run in (first, other))
    assert not np.array_equal(frames(before), frames(after))


def test_cancel_stops_a_long_loop_at_once_and_the_next_prompt_runs(comfyui, object_info):
    workflow, loop = editing(steps=1, seed=7)
    options = {
        name: o for name, _, o in declared(object_info[workflow[loop]["class_type"]], "required")
    }
    workflow[loop]["inputs"]["steps"] = options["steps"]["max"]
    assert comfyui.run_cancelled(workflow, loop, 2) < 10
    workflow[loop]["inputs"]["steps"] = 1
    assert loop in comfyui.run(workflow).executed


def test_a_node_shows_why_next_to_nothing_has_changed(comfyui):
    workflow = prompt("delta_denoising")
    loop = loop_of(workflow)
    workflow[loop]["inputs"] |= {"steps": 2, "cfg": 0.0}
    run = comfyui.run(workflow)
    assert run.texts[loop] == (
        "Next to nothing has changed. cfg is 0, so that no prompt is heard. 7 to 12 is usual."
    )
    assert run.texts[loop] in comfyui.log()
    workflow[loop]["inputs"] |= {"cfg": 7.5, "steps": 20}
    assert comfyui.run(workflow).texts == {loop: "Done."}  # what it told before is not true now
    workflow[loop]["inputs"]["seed"] = 13
    assert comfyui.run(workflow).texts == {}


# What goes wrong is told


def test_a_file_that_is_no_video_is_an_error_in_the_node_that_reads_it(comfyui):
    (comfyui.input / "not_a_video.mp4").write_text("text")
    workflow = {
        "1": {"class_type": "LoadVideo", "inputs": {"file": "not_a_video.mp4"}},
        "2": {"class_type": "GetVideoComponents", "inputs": {"video": ["1", 0]}},
        "3": {"class_type": "PreviewImage", "inputs": {"images": ["2", 0]}},
    }
    with pytest.raises(ExecutionError) as failure:
        comfyui.run(workflow)
    assert (failure.value.node_id, failure.value.node_type) == ("2", "GetVideoComponents")
    assert failure.value.exception_type == "av.error.InvalidDataError"
    assert "get_components" in failure.value.traceback


def test_a_value_out_of_range_is_refused_before_anything_runs(comfyui):
    workflow, _ = editing(steps=-1)
    with pytest.raises(PromptRejected, match="value_smaller_than_min"):
        comfyui.post_prompt(workflow)
