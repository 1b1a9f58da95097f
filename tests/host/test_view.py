"""What the pack shows in ComfyUI's own front end, in both renderers, while and after it runs."""

import base64
import json
import re
import time
from pathlib import Path

import pytest
from rescore.tests.host.browser import Page, find_browser, page
from rescore.tests.host.test_front_end import READY, graph

pytestmark = pytest.mark.host

RENDERERS = ("classic", "nodes 2.0")
STEPS = 7

# Opens a graph, with a view of its clips if it has none.
OPEN = """(async (graph) => {
    await app.loadGraphData(graph)
    const only = (type) => app.graph.nodes.find((node) => node.type === type)
    if (!only("ReScoreViewComparison")) {
        const view = LiteGraph.createNode("ReScoreViewComparison")
        app.graph.add(view)
        const parts = only("GetVideoComponents")
        parts.connect(0, view, "source")
        only("ReScoreVideoVAEDecode").connect(0, view, "edited")
        parts.connect(2, view, "fps")
    }
    window.seen = { previews: [], ends: [] }
    if (!window.listens) {
        window.listens = true
        const api = window.comfyAPI.api.api
        const note = (kind) => api.addEventListener(kind, () => window.seen.ends.push(kind))
        ;["execution_success", "execution_error"].forEach(note)
        api.addEventListener("b_preview_with_metadata", async ({ detail }) => {
            window.seen.previews.push(await detail.blob.text())
        })
    }
})"""
# Changes the value of a widget, as a user does.
EDIT = """((type, name, value) => {
    const node = app.graph.nodes.find((node) => node.type === type)
    const widget = node.widgets.find((widget) => widget.name === name)
    widget.value = value
    widget.callback?.(value, app.canvas, node)
})"""
# Brings a node to the upper left of the window, at its own size.
LOOK_AT = """((type) => {
    const node = app.graph.nodes.find((node) => node.type === type)
    app.canvas.ds.scale = 1
    app.canvas.ds.offset = [90 - node.pos[0], 110 - node.pos[1]]
    app.canvas.setDirty(true, true)
})"""
# Where an element is seen, and where its node is: [left, top, width, height] each.
PLACE = """((selector, type) => {
    const box = document.querySelector(selector).getBoundingClientRect()
    const node = app.graph.nodes.find((node) => node.type === type)
    const [x, y] = node.pos.map((at, i) => at + app.canvas.ds.offset[i])
    const canvas = app.canvas.canvas.getBoundingClientRect()
    return {
        element: [box.left, box.top, box.width, box.height],
        node: [canvas.left + x, canvas.top + y, ...node.size],
    }
})"""
# What is saved of our nodes, and posted.
SAVED = """(async () => {
    const { workflow, output } = await app.graphToPrompt()
    const ours = (type) => type.startsWith("ReScore")
    return [
        workflow.nodes.filter((n) => ours(n.type)).map((n) => [n.id, n.widgets_values ?? []]),
        Object.entries(output).filter(([, node]) => ours(node.class_type)),
    ]
})()"""
PIXELS = """(() => {
    const canvas = document.querySelector(".rescore-player canvas")
    const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height)
    return { width: canvas.width, red: Array.from(data).filter((_, i) => i % 4 === 0) }
})()"""
PLAYER, PLOT = ".rescore-player", ".rescore-plot"


def element(selector: str) -> str:
    return f"document.querySelector({json.dumps(selector)})"


def frame_shown(shown: Page) -> int:
    text = shown.evaluate(f"{element(PLAYER)}.textContent")
    return int(re.search(r"frame (\d+) / \d+", text)[1])


def press(shown: Page, key: str) -> None:
    """A key pressed and let go by the user."""
    for kind in ("keyDown", "keyUp"):
        shown.call("Input.dispatchKeyEvent", type=kind, key=key, code=key)


def drag(shown: Page, start: tuple[float, float], end: tuple[float, float]) -> None:
    """The mouse pressed at one place and let go at another."""
    shown.call("Input.dispatchMouseEvent", type="mouseMoved", x=start[0], y=start[1])
    for kind, (x, y) in (("mousePressed", start), ("mouseMoved", end), ("mouseReleased", end)):
        settings = {"button": "left", "buttons": 1, "clickCount": 1}
        shown.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **settings)


def photograph(shown: Page, file: Path) -> None:
    file.write_bytes(base64.b64decode(shown.call("Page.captureScreenshot")["data"]))


def few_steps(workflow: dict, seed: int) -> dict:
    """A graph with its loop set to `STEPS` steps and a seed."""
    (loop,) = (node for node in workflow["nodes"] if node["type"] == "ReScoreScoreDistillation")
    widgets = loop["widgets_values"]  # steps, step_size, cfg, seed, ...
    widgets[0], widgets[3] = STEPS, seed
    return workflow


@pytest.fixture(scope="module")
def front_end(comfyui):
    """ComfyUI's page, ready to take workflows."""
    browser = find_browser()
    if browser is None:
        pytest.skip("no Chromium on the PATH; install one or name it in CHROMIUM")
    with page(browser, comfyui.address) as shown:
        shown.await_true(READY)
        # Otherwise its list of templates opens over the first graph.
        shown.evaluate("app.extensionManager.setting.set('Comfy.TutorialCompleted', true)")
        shown.call("Page.navigate", url=comfyui.address)
        shown.await_true(f"document.readyState === 'complete' && {READY}")
        size = {"width": 1000, "height": 760, "deviceScaleFactor": 1, "mobile": False}
        shown.call("Emulation.setDeviceMetricsOverride", **size)
        yield shown
        shown.evaluate("app.extensionManager.setting.set('Comfy.VueNodes.Enabled', false)")


@pytest.fixture(scope="module", params=RENDERERS)
def after_a_run(request, front_end):
    """The page after a shipped graph has run in one of the renderers, and what was saved before."""
    vue = json.dumps(request.param == "nodes 2.0")
    front_end.evaluate(f"app.extensionManager.setting.set('Comfy.VueNodes.Enabled', {vue})")
    # Each with a seed of its own, so that the second run is not the first one's result.
    few = few_steps(graph("delta_denoising"), seed=RENDERERS.index(request.param))
    front_end.evaluate(f"{OPEN}({json.dumps(few)})")
    front_end.await_true(f"!!document.querySelector('[data-node-id]') === {vue}")
    # After an edit, the new renderer no longer sees widgets that are added to a node.
    front_end.evaluate(f"{EDIT}('ReScoreScoreDistillation', 'cfg', 7.5)")
    before = front_end.evaluate(SAVED)
    front_end.evaluate("app.queuePrompt(0)")
    front_end.await_true("window.seen.ends.length", seconds=240)
    assert front_end.evaluate("window.seen.ends") == ["execution_success"]
    return front_end, before


def test_the_loop_plots_every_step(after_a_run, tmp_path):
    shown, _ = after_a_run
    shown.await_true(f"!!{element(PLOT)}")
    look_at(shown, PLOT, "ReScoreScoreDistillation")
    shown.await_true(f"{element(PLOT + ' path')}?.getAttribute('d').split(/[ML]/).length > 1")
    photograph(shown, tmp_path / "plot.png")
    lines = shown.evaluate(
        f"[...document.querySelectorAll('{PLOT} path')].map((path) => path.getAttribute('d'))"
    )
    assert [len(re.findall("[ML]", line)) for line in lines] == [STEPS, STEPS]
    assert f"step {STEPS} / {STEPS}" in shown.evaluate(f"{element(PLOT)}.textContent")
    assert shown.evaluate("document.querySelectorAll('.rescore-plot').length") == 1


def test_the_preview_moves_through_the_clip(after_a_run):
    shown, _ = after_a_run
    assert shown.evaluate("new Set(window.seen.previews).size") > STEPS // 2


def is_inside(shown: Page, selector: str, node_type: str) -> bool:
    """Whether an element is seen, large enough, within the bounds of its node."""
    place = shown.evaluate(f"{PLACE}({json.dumps(selector)}, {json.dumps(node_type)})")
    (left, top, width, height), (x, y, w, h) = place["element"], place["node"]
    across = x - 1 <= left and left + width <= x + w + 1
    down = y - 1 <= top and top + height <= y + h + 1
    return width > 150 and height > 100 and across and down


def look_at(shown: Page, selector: str, node_type: str) -> None:
    """Brings a node into view; fails unless an element of ours then is seen within it."""
    shown.evaluate(f"{LOOK_AT}({json.dumps(node_type)})")
    deadline = time.monotonic() + 20
    while not is_inside(shown, selector, node_type):
        assert time.monotonic() < deadline, f"{selector} is not within its node"
        time.sleep(0.2)


def test_the_clips_play_wipe_and_step(after_a_run, tmp_path):
    shown, _ = after_a_run
    shown.await_true(f"!!{element(PLAYER)}")
    look_at(shown, PLAYER, "ReScoreViewComparison")
    shown.await_true(f"{element(PLAYER + ' video')}.readyState >= 2")

    plays = f"!{element(PLAYER + ' video')}.paused"
    assert shown.evaluate(plays)
    assert shown.evaluate(f"{element(PLAYER + ' video')}.loop")
    first = frame_shown(shown)
    shown.await_true(f"!{element(PLAYER)}.textContent.includes('frame {first} /')")
    shown.evaluate(f"{element(PLAYER)}.focus()")
    press(shown, " ")
    shown.await_true(f"!({plays})")

    count = shown.evaluate(f"Number({element(PLAYER)}.textContent.match(/frame \\d+ . (\\d+)/)[1])")
    for key, by in (("ArrowRight", 1), ("ArrowRight", 1), ("ArrowLeft", -1)):
        expected = (frame_shown(shown) - 1 + by) % count + 1
        press(shown, key)
        shown.await_true(f"{element(PLAYER)}.textContent.includes('frame {expected} /')", 10)
    for _ in range(count):
        expected = frame_shown(shown) % count + 1
        shown.evaluate(f"{element(PLAYER + ' button:nth-of-type(3)')}.click()")
        shown.await_true(f"{element(PLAYER)}.textContent.includes('frame {expected} /')", 10)

    before = shown.evaluate(f"{PLACE}('{PLAYER} canvas', 'ReScoreViewComparison')")
    left, top, width, height = before["element"]
    wiped = {}
    for share in (1.0, 0.0, 0.5):
        middle = left + width / 2, top + height / 2
        # The picture is square, as high as its place and in the middle of it.
        end = middle[0] + (share - 0.5) * min(width, height), middle[1]
        drag(shown, middle, end)
        assert shown.evaluate(f"Number({element(PLAYER + ' input')}.value)") == pytest.approx(
            share, abs=0.02
        )
        wiped[share] = shown.evaluate(PIXELS)
    photograph(shown, tmp_path / "player.png")
    edge = shown.evaluate(f"Number({element(PLAYER + ' input')}.value)")
    source, edited, both = (wiped[share]["red"] for share in (1.0, 0.0, 0.5))
    row = wiped[0.5]["width"]
    edge = round(edge * row)
    for start in range(0, len(both), row):
        assert both[start : start + edge] == source[start : start + edge]
        assert both[start + edge : start + row] == edited[start + edge : start + row]
    assert source != edited
    after = shown.evaluate(f"{PLACE}('{PLAYER} canvas', 'ReScoreViewComparison')")
    assert after == before, "the node moved with the wipe"


def test_nothing_of_it_is_saved(after_a_run):
    shown, before = after_a_run
    assert shown.evaluate(SAVED) == before


def test_the_clips_are_there_again_when_the_graph_is(after_a_run):
    shown, _ = after_a_run
    shown.evaluate(
        """(async () => {
            const { workflow } = await app.graphToPrompt()
            const outputs = app.nodeOutputs
            await app.loadGraphData(workflow)
            app.nodeOutputs = outputs
        })()"""
    )
    shown.evaluate(f"{LOOK_AT}('ReScoreViewComparison')")
    shown.await_true(f"{element(PLAYER + ' video')}?.readyState >= 2")
