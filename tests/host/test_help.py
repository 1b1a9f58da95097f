"""The running host serves the help pages, their pictures, and what the nodes are called."""

import json
import re
from pathlib import Path

import pytest
from rescore import NODE_CLASS_MAPPINGS
from rescore.tests.host.browser import find_browser, page
from rescore.tests.host.start import PACK_NAME

pytestmark = pytest.mark.host

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "js" / "docs"
FRAGILE = "ReScoreWarpingError"  # its description has bars, which translations read as syntax
READY = f"window.app?.graph && window.LiteGraph?.registered_node_types?.{FRAGILE}"
SHOWN = """(async (type) => {
    const node = LiteGraph.createNode(type)
    const { title, inputs } = node
    const { description } = node.constructor.nodeData
    return { title, description, labels: inputs.map((i) => i.label ?? i.localized_name ?? i.name) }
})"""


def locale(language: str) -> dict:
    return json.loads((ROOT / "locales" / language / "nodeDefs.json").read_text("utf-8"))


@pytest.mark.parametrize("name", sorted(NODE_CLASS_MAPPINGS))
def test_the_host_serves_a_page_with_its_pictures(comfyui, name):
    folder = f"/extensions/{PACK_NAME}/docs"
    text = comfyui.fetch(f"{folder}/{name}.md")
    assert text == (DOCS / f"{name}.md").read_bytes()
    for link in re.findall(r"!\[[^]]+\]\(([^)]+)\)", text.decode("utf-8")):
        assert comfyui.fetch(f"{folder}/{link}") == (DOCS / link).read_bytes()


def test_the_host_serves_our_translations(comfyui):
    translations = comfyui.get("/i18n")
    for language in ("en", "zh"):
        assert translations[language]["nodeDefs"].items() >= locale(language).items()


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_front_end_shows_a_node_in_the_users_language(comfyui, language):
    """Every character of a description arrives, those that translations read as syntax too."""
    browser = find_browser()
    if browser is None:
        pytest.skip("no Chromium on the PATH; install one or name it in CHROMIUM")
    try:
        choose(comfyui, language)
        with page(browser, comfyui.address) as shown:
            shown.await_true(READY)
            found = shown.evaluate(f"{SHOWN}({json.dumps(FRAGILE)})")
    finally:
        choose(comfyui, "en")
    texts = locale(language)[FRAGILE]
    assert found["title"] == texts["display_name"]
    assert found["description"] == texts["description"].replace("{'|'}", "|")
    assert found["description"].count("|") == 2
    assert found["labels"] == [value["name"] for value in texts["inputs"].values()]


def choose(comfyui, language: str) -> None:
    """Set the language of the front end, as its settings dialog does."""
    comfyui.fetch("/settings", {"Comfy.Locale": language})
