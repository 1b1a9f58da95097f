"""The running host serves and shows the help pages, their pictures, and what nodes are called."""

import json
import re
from pathlib import Path

import pytest
from rescore import NODE_CLASS_MAPPINGS
from rescore.tests.host.browser import SCREENSHOTS, open_front_end, take_picture
from rescore.tests.host.start import PACK_NAME
from rescore.tests.host.test_front_end import graph

pytestmark = pytest.mark.host

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "js" / "docs"
FRAGILE = "ReScoreWarpingError"  # its description has bars, which translations read as syntax
SHOWN = """(type) => {
    const { title, inputs, constructor } = LiteGraph.createNode(type)
    const labels = inputs.map((input) => input.label ?? input.localized_name ?? input.name)
    return { title, labels, description: constructor.nodeData.description }
}"""
# Brings a node to the left of the window, selected.
SELECT = """(type) => {
    const node = app.graph.nodes.find((node) => node.type === type)
    app.canvas.ds.scale = 1
    app.canvas.ds.offset = [130 - node.pos[0], 400 - node.pos[1]]
    app.canvas.selectNode(node)
    app.canvas.setDirty(true, true)
}"""


def locale(language: str) -> dict:
    return json.loads((ROOT / "locales" / language / "nodeDefs.json").read_text("utf-8"))


@pytest.mark.parametrize("page", ["{}.md", "{}/zh.md"])
@pytest.mark.parametrize("name", sorted(NODE_CLASS_MAPPINGS))
def test_the_host_serves_a_page_with_its_pictures(comfyui, name, page):
    folder = f"/extensions/{PACK_NAME}/docs"
    text = comfyui.fetch(f"{folder}/{page.format(name)}")
    assert text == (DOCS / page.format(name)).read_bytes()
    for link in re.findall(r"!\[[^]]+\]\(([^)]+)\)", text.decode("utf-8")):
        assert comfyui.fetch(f"{folder}/{link}") == (DOCS / link).read_bytes()


def test_the_host_serves_our_translations(comfyui):
    translations = comfyui.get("/i18n")
    for language in ("en", "zh"):
        assert translations[language]["nodeDefs"].items() >= locale(language).items()


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_front_end_shows_a_node_in_the_users_language(browser, comfyui, language):
    """Every character of a description arrives, those that translations read as syntax too."""
    page = open_front_end(browser, comfyui, locale=language)
    found = page.evaluate(SHOWN, FRAGILE)
    page.close()
    texts = locale(language)[FRAGILE]
    assert found["title"] == texts["display_name"]
    assert found["description"] == texts["description"].replace("{'|'}", "|")
    assert found["description"].count("|") == 2
    assert found["labels"] == [value["name"] for value in texts["inputs"].values()]


@pytest.mark.parametrize(("language", "file"), [("en", "{}.md"), ("zh", "{}/zh.md")])
def test_the_front_end_opens_the_help_of_a_node(browser, comfyui, language, file):
    name = "ReScoreDeltaDenoising"
    page = open_front_end(browser, comfyui, width=1020, height=770, locale=language)
    page.evaluate("(graph) => app.loadGraphData(graph)", graph("delta_denoising"))
    page.evaluate(SELECT, name)
    page.get_by_test_id("info-button").click()
    panel = page.get_by_test_id("properties-panel").locator(".markdown-content")
    text = (DOCS / file.format(name)).read_text("utf-8")
    for heading in re.findall("^#+ (.+)$", text, re.MULTILINE):
        panel.get_by_role("heading", name=heading, exact=True).wait_for()
    pictures = panel.locator("img")
    assert pictures.count() == len(re.findall(r"!\[", text)) > 0
    for picture in pictures.element_handles():
        page.wait_for_function("(img) => img.complete && img.naturalWidth > 0", arg=picture)
    if SCREENSHOTS and language == "en":
        widen_panel(page, 310)
        take_picture(page, "help")
    page.close()


def widen_panel(page, pixels: float) -> None:
    """Drags the border of the panel at the right."""
    border = page.locator(".p-splitter-gutter:visible").last.bounding_box()
    x, y = border["x"] + border["width"] / 2, border["y"] + border["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x - pixels, y)
    page.mouse.up()
    page.mouse.move(x, 0)
