"""The blueprints as one node in ComfyUI's own front end; runs where a Chromium is installed."""

import json

import pytest
from rescore.tests.host.browser import RUN, open_front_end
from rescore.tests.host.test_blueprints import EDITS, FOLDER, MODELS, NATIVE, whole

pytestmark = pytest.mark.host

# What stands in front of the only node of the graph, by name.
FRONT = """() => Object.fromEntries(
    app.graph.nodes[0].widgets.filter(({ value }) => value !== undefined).map(
        ({ name, label, value }) => [label ?? name, value]
    )
)"""
SET = """([name, value]) => {
    const widget = app.graph.nodes[0].widgets.find((w) => [w.name, w.label].includes(name))
    widget.value = value
    widget.callback?.(value)
}"""
POSTED = "async () => Object.values((await app.graphToPrompt()).output)"
# Wires a clip and a tiny model to the only node, and saves what comes out; loops become short.
WIRE = """([file, model]) => {
    const [edit] = app.graph.nodes
    const add = (type, widgets) => {
        const node = LiteGraph.createNode(type)
        app.graph.add(node)
        for (const [name, value] of Object.entries(widgets))
            node.widgets.find((widget) => widget.name === name).value = value
        return node
    }
    const slot = (name) => edit.inputs.findIndex((input) => input.name === name)
    add("LoadVideo", { file }).connect(0, edit, slot("video"))
    if (model) add("ReScoreLoadShapeWorldModel", { model }).connect(0, edit, slot("model"))
    edit.connect(0, add("SaveVideo", {}), 0)
    for (const node of edit.subgraph.nodes)
        for (const widget of node.widgets ?? []) if (widget.name === "steps") widget.value = 2
}"""


@pytest.fixture(scope="module")
def page(browser, comfyui):
    return open_front_end(browser, comfyui, width=1500, height=1100)


def load(page, name: str) -> None:
    file = json.loads((FOLDER / f"{name}.json").read_text("utf-8"))
    page.evaluate("(file) => app.loadGraphData(file)", file)


@pytest.mark.parametrize("name", EDITS)
def test_what_is_set_in_front_is_what_runs(page, name):
    load(page, name)
    (outside,) = json.loads((FOLDER / f"{name}.json").read_text("utf-8"))["nodes"]
    ends = [end["name"] for end in whole(name)["inputs"] if end["type"] in ("STRING", "FLOAT")]
    start = dict(zip(ends, outside["widgets_values"], strict=True))
    front = page.evaluate(FRONT)
    assert {end: front[end] for end in ends} == start
    changed = {"strength": 0.37, "what it shows": "a red fox", "what it should show": "a blue fox"}
    for values in (start, changed):
        for end in ends:
            page.evaluate(SET, [end, values[end]])
        inputs = [value for node in page.evaluate(POSTED) for value in node["inputs"].values()]
        for end in ends:
            assert values[end] in inputs, end
    assert not set(start.values()) & {value for value in inputs if isinstance(value, str)}


@pytest.mark.parametrize("name", [NATIVE[0], "Edit Video (DreamMotion, ReScore)"])
def test_it_runs_wired_to_a_clip(page, object_info, comfyui, name):
    if name in NATIVE and comfyui.version() < (0, 16):
        pytest.skip("this ComfyUI cannot load the tiny Wan")
    load(page, name)
    model = next((tiny for method, tiny in MODELS.items() if method in name), None)
    page.evaluate(WIRE, ["red_circle.mp4", model])
    page.evaluate(RUN)
    page.wait_for_function("end", timeout=300_000)
    assert page.evaluate("end") == "execution_success"
