"""The switch between a tiny and a real model's settings, in ComfyUI's own front end."""

import json
import re

import pytest
from rescore.tests.host.browser import open_front_end
from rescore.tests.host.test_front_end import GRAPHS, ROOT, assert_opened, graph
from rescore.tests.host.test_layout import RENDER

pytestmark = pytest.mark.host

SWITCH = "ReScoreTinyOrReal"
SWITCHED = [name for name in GRAPHS if SWITCH in {node["type"] for node in graph(name)["nodes"]}]
# What a click on a choice does in the renderer that draws on a canvas.
CHOOSE = """([type, choice]) => {
    const node = app.graph.nodes.find((node) => node.type === type)
    node.widgets[0].setValue(choice, { e: {}, node, canvas: app.canvas })
}"""
HAS_APP_MODE = """() => app.extensionManager.command.commands.some(
    ({ id }) => id === "Comfy.ToggleLinear"
)"""
POSTED = "async () => (await app.graphToPrompt()).output"
SAVED = "async () => (await app.graphToPrompt()).workflow"
TOLD = "() => [...document.querySelectorAll('.p-toast-detail')].map((told) => told.textContent)"
SEE = """(type) => {
    app.canvas.ds.scale = 1
    const { pos } = app.graph.nodes.find((node) => node.type === type)
    app.canvas.ds.offset = [300 - pos[0], 300 - pos[1]]
    app.canvas.draw(true, true)
}"""


@pytest.fixture(scope="module")
def page(browser, comfyui):
    return open_front_end(browser, comfyui, width=1500, height=1100)


def named(name: str) -> dict[tuple[str, str], str]:
    """What the note of a graph says of a real model, by title and widget."""
    (note,) = (n["widgets_values"][0] for n in graph(name)["nodes"] if n["type"] == "MarkdownNote")
    return {
        (title, widget): value
        for title, widgets in re.findall(r"(?m)^- \*([^*]+)\*: (.*)$", note)
        for widget, value in re.findall(r"`(\w+)` ([^,]+)", widgets)
    }


def written(value: object) -> str:
    """A value as a note has it."""
    if isinstance(value, bool):
        return "on" if value else "off"
    return value if isinstance(value, str) else f"{value:.10f}".rstrip("0").rstrip(".")


def values(page, name: str) -> dict[tuple[str, str], str]:
    """Every value of the open graph as a note has it, by title and widget."""
    posted = page.evaluate(POSTED)
    api = (ROOT / "workflows" / "api" / f"{name}.json").read_text("utf-8")
    return {
        (node["_meta"]["title"], widget): written(posted[key]["inputs"][widget])
        for key, node in json.loads(api).items()
        for widget, value in node["inputs"].items()
        if not isinstance(value, list)
    }


def changed(page, name: str, before: dict) -> dict[tuple[str, str], str]:
    """What the open graph has now otherwise than before."""
    now = values(page, name)
    return {key: value for key, value in now.items() if value != before[key]}


@pytest.mark.parametrize("name", SWITCHED)
def test_it_sets_what_the_note_names_and_brings_back_what_has_shipped(page, object_info, name):
    page.evaluate("(graph) => app.loadGraphData(graph)", graph(name))
    before = values(page, name)
    page.evaluate(CHOOSE, [SWITCH, "real model"])
    assert changed(page, name, before) == named(name) != {}
    page.evaluate(CHOOSE, [SWITCH, "tiny model"])
    assert_opened(page, name, object_info)


@pytest.mark.parametrize("name", ["dreammotion", "tune_a_video", "wan_edit_native"])
def test_a_click_does_it_in_nodes_2(page, object_info, name):
    page.evaluate(RENDER, True)
    page.evaluate("(graph) => app.loadGraphData(graph)", graph(name))
    page.evaluate(SEE, SWITCH)
    before = values(page, name)
    (number,) = (node["id"] for node in graph(name)["nodes"] if node["type"] == SWITCH)
    choose(page, page.locator(f"[data-node-id='{number}']"), "real model")
    assert changed(page, name, before) == named(name)
    choose(page, page.locator(f"[data-node-id='{number}']"), "tiny model")
    assert changed(page, name, before) == {}
    page.evaluate(RENDER, False)


def choose(page, node, choice: str) -> None:
    node.get_by_role("combobox").click()
    page.get_by_role("option", name=choice).click()


def test_a_saved_graph_opens_as_it_was_saved(page):
    """A number changed by hand after switching is still there."""
    page.evaluate("(graph) => app.loadGraphData(graph)", graph("dreammotion"))
    page.evaluate(CHOOSE, [SWITCH, "real model"])
    by_hand = "app.graph.nodes.find((n) => n.title === 'Score Distillation').widgets[0].value = 77"
    page.evaluate(by_hand)
    saved, then = page.evaluate(SAVED), values(page, "dreammotion")
    page.evaluate("(graph) => app.loadGraphData(graph)", saved)
    assert values(page, "dreammotion") == then
    assert then["Score Distillation", "steps"] == "77"
    before = {**then, **named("dreammotion")}
    assert changed(page, "dreammotion", before) == {("Score Distillation", "steps"): "77"}


def test_it_says_what_it_cannot_set_and_what_is_left_to_do(page):
    workflow = graph("dreammotion")
    (term,) = (n for n in workflow["nodes"] if n["title"] == "Temporal Self-Similarity")
    term["title"] = "Of another name"
    page.evaluate("(graph) => app.loadGraphData(graph)", workflow)
    page.evaluate(CHOOSE, [SWITCH, "real model"])
    page.wait_for_function(f"({TOLD})().length >= 2")
    told = " ".join(page.evaluate(TOLD))
    assert "Not in this graph, so not set: Temporal Self-Similarity." in told
    assert "Now put a real model in place of Load Shape-World Model: see the note." in told

    page.evaluate("app.graph.clear()")
    page.evaluate("(type) => app.graph.add(LiteGraph.createNode(type))", SWITCH)
    page.evaluate(CHOOSE, [SWITCH, "real model"])
    none = "This node has no settings: take it from a shipped graph."
    page.get_by_text(none).wait_for()


def test_app_mode_shows_it(page):
    if not page.evaluate(HAS_APP_MODE):
        pytest.skip("this ComfyUI has no App mode")
    page.evaluate("(graph) => app.loadGraphData(graph)", graph("delta_denoising"))
    before = values(page, "delta_denoising")
    page.evaluate("app.extensionManager.command.execute('Comfy.ToggleLinear')")
    shown = page.get_by_text("tiny model")
    shown.wait_for()
    page.keyboard.press("Escape")  # closes the front end's own introduction
    shown.click()
    page.get_by_role("option", name="real model").click()
    assert changed(page, "delta_denoising", before) == named("delta_denoising")
    page.evaluate("app.extensionManager.command.execute('Comfy.ToggleLinear')")
