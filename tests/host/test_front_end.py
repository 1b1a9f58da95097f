"""ComfyUI's own front end opens the shipped workflows; runs where a Chromium is installed."""

import json
from pathlib import Path

import pytest
from PIL import Image
from rescore.nodes import NODE_CLASS_MAPPINGS
from rescore.tests.host.browser import PATIENCE, load_again, open_front_end, take_picture
from rescore.tests.host.graph import (
    is_the_hosts,
    running_nodes,
    widgets,
    without_additions,
    without_titles,
)
from rescore.tests.host.start import PACK_NAME

pytestmark = pytest.mark.host

ROOT = Path(__file__).resolve().parents[2]
GRAPHS = sorted(path.stem for path in (ROOT / "workflows").glob("*.json"))

WIDGETS = """(types) => Object.fromEntries(types.map((type) => {
    const node = LiteGraph.createNode(type)
    app.graph.add(node)
    const names = (node.widgets ?? []).filter((w) => w.serialize !== false).map((w) => w.name)
    app.graph.remove(node)
    return [type, names]
}))"""
OPENED = """async () => {
    const { workflow, output } = await app.graphToPrompt()
    await new Promise((done) => setTimeout(done, 500)) // warnings take a moment to appear
    const warnings = document.querySelectorAll(".p-toast-message-warn, .p-toast-message-error")
    return {
        warnings: [...warnings].map((warning) => warning.textContent),
        broken: app.graph.nodes.filter((node) => node.has_errors).map((node) => node.type),
        widgets: Object.fromEntries(workflow.nodes.map((n) => [n.id, n.widgets_values ?? []])),
        prompt: output,
    }
}"""


def graph(name: str) -> dict:
    """A shipped workflow as the front end opens it."""
    return json.loads((ROOT / "workflows" / f"{name}.json").read_text(encoding="utf-8"))


def assert_opened(page, name: str, object_info: dict) -> None:
    """The graph in the page is the shipped one, without a complaint, and posts its API form."""
    opened = page.evaluate(OPENED)
    assert opened["broken"] == [] and opened["warnings"] == []
    for node in running_nodes(graph(name)):
        stored, shown = node.get("widgets_values") or [], opened["widgets"][str(node["id"])]
        known = len(stored) if is_the_hosts(object_info[node["type"]]) else None
        assert shown[:known] == stored
    text = (ROOT / "workflows" / "api" / f"{name}.json").read_text(encoding="utf-8")
    shipped = without_titles(json.loads(text))
    assert without_additions(opened["prompt"], shipped, object_info) == shipped


@pytest.fixture(scope="module")
def page(browser, comfyui):
    return open_front_end(browser, comfyui, width=1500, height=1100)


def test_nodes_have_the_widgets_that_the_other_tests_expect(page, object_info):
    used = {node["type"] for name in GRAPHS for node in running_nodes(graph(name))}
    types = sorted(used | set(NODE_CLASS_MAPPINGS))
    expected = {
        key: [
            "control_after_generate" if widget.kind == "CONTROL" else widget.name
            for widget in widgets(object_info[key])
        ]
        for key in types
    }
    assert page.evaluate(WIDGETS, types) == expected


def open_templates(page):
    """The list of templates with this pack's in view.

    The front end leaves the list empty when its requests fail, until the page is loaded again.
    """
    from playwright.sync_api import TimeoutError as NotShown

    def browse() -> None:
        page.locator(".comfy-menu-button-wrapper").click()
        page.get_by_role("menuitem", name="Browse Templates").click()

    dialog = page.get_by_role("dialog")
    ours = dialog.get_by_text(PACK_NAME, exact=True)
    browse()
    try:
        ours.wait_for(timeout=PATIENCE / 3)
    except NotShown:
        load_again(page)
        browse()
    ours.click()
    return dialog


def test_the_templates_are_offered_with_their_pictures_and_open_with_a_click(page, object_info):
    dialog = open_templates(page)
    cards = dialog.locator("[data-testid^='template-workflow-']")
    cards.nth(len(GRAPHS) - 1).wait_for()
    assert cards.count() == len(GRAPHS)
    for name in GRAPHS:
        card = dialog.get_by_test_id(f"template-workflow-{name}")
        card.scroll_into_view_if_needed()  # pictures are loaded when they come into view
        with Image.open(ROOT / "workflows" / f"{name}.jpg") as picture:
            size = list(picture.size)
        img = card.locator("img").element_handle()
        is_ours = "([img, size]) => `${[img.naturalWidth, img.naturalHeight]}` === `${size}`"
        page.wait_for_function(is_ours, arg=[img, size])
    cards.first.scroll_into_view_if_needed()
    take_picture(dialog, "template_dialog")

    dialog.get_by_test_id("template-workflow-delta_denoising").click()
    dialog.wait_for(state="hidden")
    shipped = len(graph("delta_denoising")["nodes"])
    page.wait_for_function("(shipped) => app.graph.nodes.length === shipped", arg=shipped)
    assert_opened(page, "delta_denoising", object_info)


@pytest.mark.parametrize("name", GRAPHS)
def test_a_graph_opens_unchanged_and_posts_its_api_form(page, object_info, name):
    page.evaluate("(graph) => app.loadGraphData(graph)", graph(name))
    assert_opened(page, name, object_info)


@pytest.fixture
def empty(page, object_info):
    """The page with an empty graph, of a ComfyUI that knows search aliases and advanced inputs."""
    if "search_aliases" not in object_info["KSampler"]:
        pytest.skip("this ComfyUI searches titles only and shows all inputs")
    page.evaluate("app.graph.clear()")
    return page


@pytest.mark.parametrize(
    ("typed", "title"),
    [("inpaint video", "Gradient Mask"), ("restyle", "Attention-Controlled Sampling")],
)
def test_a_node_is_found_by_what_users_type(empty, typed, title):
    empty.evaluate("app.extensionManager.command.execute('Workspace.SearchBox.Toggle')")
    empty.get_by_role("combobox", name="Add").fill(typed)
    empty.get_by_role("option").filter(has_text=title).wait_for()
    empty.evaluate("app.extensionManager.command.execute('Workspace.SearchBox.Toggle')")


def test_nodes_2_shows_advanced_inputs_after_a_click(empty):
    empty.evaluate("app.extensionManager.setting.set('Comfy.VueNodes.Enabled', true)")
    empty.evaluate("app.graph.add(LiteGraph.createNode('ReScoreDecoupledGuidance'))")
    empty.evaluate("app.canvas.ds.offset = [200, 200]")
    node = empty.locator("[data-node-id]")
    node.get_by_text("strength", exact=True).wait_for()
    assert node.get_by_text("top_k", exact=True).count() == 0
    node.get_by_test_id("advanced-inputs-button").click()
    node.get_by_text("top_k", exact=True).wait_for()
    empty.evaluate("app.extensionManager.setting.set('Comfy.VueNodes.Enabled', false)")
