"""ComfyUI's own front end opens the shipped workflows; runs where a Chromium is installed."""

import json
from pathlib import Path

import pytest
from rescore.nodes import NODE_CLASS_MAPPINGS
from rescore.tests.host.browser import find_browser, page
from rescore.tests.host.graph import running_nodes, widgets

pytestmark = pytest.mark.host

ROOT = Path(__file__).resolve().parents[2]
GRAPHS = sorted(path.stem for path in (ROOT / "workflows").glob("*.json"))

READY = "window.app?.graph && window.LiteGraph?.registered_node_types?.LoadVideo"
WIDGETS = """((types) => Object.fromEntries(types.map((type) => {
    const node = LiteGraph.createNode(type)
    app.graph.add(node)
    const names = (node.widgets ?? []).filter((w) => w.serialize !== false).map((w) => w.name)
    app.graph.remove(node)
    return [type, names]
})))"""
OPEN = """(async (graph) => {
    await app.loadGraphData(graph)
    const { workflow, output } = await app.graphToPrompt()
    await new Promise((done) => setTimeout(done, 500)) // warnings take a moment to appear
    const warnings = document.querySelectorAll(".p-toast-message-warn, .p-toast-message-error")
    return {
        warnings: [...warnings].map((warning) => warning.textContent),
        broken: app.graph.nodes.filter((node) => node.has_errors).map((node) => node.type),
        widgets: Object.fromEntries(workflow.nodes.map((n) => [n.id, n.widgets_values ?? []])),
        prompt: output,
    }
})"""


def graph(name: str) -> dict:
    """A shipped workflow as the front end opens it."""
    return json.loads((ROOT / "workflows" / f"{name}.json").read_text(encoding="utf-8"))


def bare(prompt: dict) -> dict:
    """An API-format workflow without titles."""
    return {
        key: {"class_type": node["class_type"], "inputs": node["inputs"]}
        for key, node in prompt.items()
    }


@pytest.fixture(scope="module")
def front_end(comfyui):
    """ComfyUI's page, ready to take workflows."""
    browser = find_browser()
    if browser is None:
        pytest.skip("no Chromium on the PATH; install one or name it in CHROMIUM")
    with page(browser, comfyui.address) as shown:
        shown.await_true(READY)
        yield shown


def test_nodes_have_the_widgets_that_the_other_tests_expect(front_end, object_info):
    used = {node["type"] for name in GRAPHS for node in running_nodes(graph(name))}
    types = sorted(used | set(NODE_CLASS_MAPPINGS))
    expected = {
        key: [
            "control_after_generate" if widget.kind == "CONTROL" else widget.name
            for widget in widgets(object_info[key])
        ]
        for key in types
    }
    assert front_end.evaluate(f"{WIDGETS}({json.dumps(types)})") == expected


@pytest.mark.parametrize("name", GRAPHS)
def test_a_graph_opens_unchanged_and_posts_its_api_form(front_end, name):
    stored = graph(name)
    opened = front_end.evaluate(f"{OPEN}({json.dumps(stored)})")
    assert opened["broken"] == [] and opened["warnings"] == []
    for node in running_nodes(stored):
        assert opened["widgets"][str(node["id"])] == (node.get("widgets_values") or [])
    text = (ROOT / "workflows" / "api" / f"{name}.json").read_text(encoding="utf-8")
    assert bare(opened["prompt"]) == bare(json.loads(text))
