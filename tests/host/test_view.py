"""What the pack shows in ComfyUI's own front end, in both renderers, while and after it runs."""

import re

import pytest
from rescore.tests.host.browser import SCREENSHOTS, open_front_end, take_picture
from rescore.tests.host.test_front_end import graph

pytestmark = pytest.mark.host

RENDERERS = ("classic", "nodes 2.0")
STEPS = 60 if SCREENSHOTS else 7  # a picture shows a finished edit
LOOP, VIEW = "ReScoreScoreDistillation", "ReScoreViewComparison"
PLAYER, PLOT = ".rescore-player", ".rescore-plot"

# What the page can be asked and told in the other scripts.
HELPERS = """
    window.setting = (name, value) => app.extensionManager.setting.set(name, value)
    window.nodeOf = (type) => app.graph.nodes.find((node) => node.type === type)
    // Where a node is seen, at its own size.
    window.placeOf = (type) => {
        const { pos, size } = nodeOf(type)
        const canvas = app.canvas.canvas.getBoundingClientRect()
        const [x, y] = [0, 1].map((i) => pos[i] + app.canvas.ds.offset[i])
        return new DOMRect(canvas.left + x, canvas.top + y, ...size)
    }
"""
# Changes the value of a widget, as a user does.
EDIT = """([type, name, value]) => {
    const node = nodeOf(type)
    const widget = node.widgets.find((widget) => widget.name === name)
    widget.value = value
    widget.callback?.(value, app.canvas, node)
}"""
# Brings a node to the upper left of the window, at its own size.
LOOK_AT = """(type) => {
    const { pos } = nodeOf(type)
    app.canvas.ds.scale = 1
    app.canvas.ds.offset = [90 - pos[0], 110 - pos[1]]
    app.canvas.setDirty(true, true)
}"""
# Whether an element is seen, large enough, within the bounds of its node.
IS_INSIDE = """([selector, type]) => {
    const node = placeOf(type)
    const box = document.querySelector(selector)?.getBoundingClientRect()
    const across = node.left - 1 <= box?.left && box.right <= node.right + 1
    const down = node.top - 1 <= box?.top && box.bottom <= node.bottom + 1
    return box?.width > 150 && box.height > 100 && across && down
}"""
# Notes how a run ends, and each picture and each count of steps that a node shows until then.
WATCH = """(type) => {
    const node = nodeOf(type)
    const seen = (window.seen = { pictures: [], steps: [], end: null })
    const note = (list, value) => list.includes(value) || list.push(value)
    const canvas = document.createElement("canvas")
    let last = null // an address is given to one picture only
    const look = () => {
        const inElement = document.querySelector(`[data-node-id="${node.id}"] img`)
        const picture = LiteGraph.vueNodesMode ? inElement : node.imgs?.[0]
        if (picture?.complete && picture.naturalWidth && picture.src !== last) {
            last = picture.src
            ;[canvas.width, canvas.height] = [picture.naturalWidth, picture.naturalHeight]
            canvas.getContext("2d").drawImage(picture, 0, 0)
            note(seen.pictures, canvas.toDataURL())
        }
        const step = document.querySelector(".rescore-plot")?.textContent.match(/step (\\d+) \\//)
        if (step) note(seen.steps, Number(step[1]))
        if (!seen.end) requestAnimationFrame(look)
    }
    look()
    for (const end of ["execution_success", "execution_error"]) {
        window.comfyAPI.api.api.addEventListener(end, () => (seen.end = end), { once: true })
    }
}"""
# What is saved of our nodes, and posted.
SAVED = """async () => {
    const { workflow, output } = await app.graphToPrompt()
    const ours = (type) => type.startsWith("ReScore")
    const nodes = workflow.nodes.filter((n) => ours(n.type))
    nodes.sort((one, other) => one.id - other.id) // a click brings a node to the front
    return [
        nodes.map((n) => [n.id, n.widgets_values ?? []]),
        Object.entries(output).filter(([, node]) => ours(node.class_type)),
    ]
}"""
OPEN_AGAIN = """async () => {
    const { workflow } = await app.graphToPrompt()
    const outputs = app.nodeOutputs
    await app.loadGraphData(workflow)
    app.nodeOutputs = outputs
}"""
REDS = """(canvas) => {
    const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height)
    return Array.from(data).filter((_, i) => i % 4 === 0)
}"""
# Brings nodes of some types, or the whole graph, into view: as large as may be, and readable.
FIT = """async (types) => {
    await setting("LiteGraph.Canvas.MinFontSizeForLOD", 0)
    await setting("Comfy.Graph.CanvasInfo", false)
    app.canvas.deselectAll()
    await new Promise((done) => setTimeout(done, 500)) // until the canvas has its window's size
    const items = types?.map(nodeOf) ?? [...app.graph.nodes, ...app.graph.groups]
    const boxes = items.map((item) => item.boundingRect)
    const [left, top] = [0, 1].map((i) => Math.min(...boxes.map((box) => box[i])))
    const [right, bottom] = [0, 1].map((i) => Math.max(...boxes.map((box) => box[i] + box[i + 2])))
    const zoom = types ? 0.92 : 0.97 // the share of the window that is filled
    app.canvas.ds.fitToBounds([left, top, right - left, bottom - top], { zoom })
    app.canvas.setDirty(true, true)
}"""
# The style of a page that hides the menus around the graph.
GRAPH_ALONE = "div:has(+ #graph-canvas), .selection-toolbox { display: none !important }"


def few_steps(workflow: dict, seed: int) -> dict:
    """A graph with its loop set to `STEPS` steps and a seed."""
    (loop,) = (node for node in workflow["nodes"] if node["type"] == LOOP)
    widgets = loop["widgets_values"]  # steps, step_size, cfg, seed, ...
    widgets[0], widgets[3] = STEPS, seed
    return workflow


def look_at(page, selector: str, node_type: str):
    """Brings a node into view and waits until an element of ours is seen within it."""
    page.evaluate(LOOK_AT, node_type)
    page.wait_for_function(IS_INSIDE, arg=[selector, node_type])
    return page.locator(selector)


def photograph(page, name: str, width: int, height: int, of: list[str] | None = None) -> None:
    """A picture of the graph or of some of its nodes, where pictures are wanted."""
    if SCREENSHOTS:
        size = page.viewport_size
        page.mouse.move(0, 0)  # over nothing that has a tooltip
        page.set_viewport_size({"width": width, "height": height})
        page.evaluate(FIT, of)
        take_picture(page, name, style=GRAPH_ALONE)
        page.set_viewport_size(size)


@pytest.fixture(scope="module")
def front_end(browser, comfyui):
    page = open_front_end(browser, comfyui)
    page.add_script_tag(content=HELPERS)
    yield page
    page.evaluate("setting('Comfy.VueNodes.Enabled', false)")


@pytest.fixture(scope="module", params=RENDERERS)
def after_a_run(request, front_end):
    """The page after a shipped graph has run in one of the renderers, and what was saved before."""
    page, vue = front_end, request.param == "nodes 2.0"
    page.evaluate("(vue) => setting('Comfy.VueNodes.Enabled', vue)", vue)
    # Each with a seed of its own, so that the second run is not the first one's result.
    few = few_steps(graph("delta_denoising"), seed=RENDERERS.index(request.param))
    page.evaluate("(graph) => app.loadGraphData(graph)", few)
    page.wait_for_function("(vue) => !!document.querySelector('[data-node-id]') === vue", arg=vue)
    # After an edit, the new renderer no longer sees widgets that are added to a node.
    page.evaluate(EDIT, [LOOP, "cfg", 7.5])
    before = page.evaluate(SAVED)
    page.evaluate(LOOK_AT, LOOP)
    page.evaluate(WATCH, LOOP)
    page.evaluate("app.queuePrompt(0)")
    page.wait_for_function("seen.end", timeout=500_000)
    assert page.evaluate("seen.end") == "execution_success"
    if not vue:
        photograph(page, "delta_denoising", 2400, 860)
    return page, before


def test_the_loop_plots_every_step(after_a_run):
    page, _ = after_a_run
    plot = look_at(page, PLOT, LOOP)
    page.wait_for_function(
        f"document.querySelector('{PLOT} path')?.getAttribute('d').includes('L')"
    )
    lines = plot.locator("path").evaluate_all("(paths) => paths.map((p) => p.getAttribute('d'))")
    assert [len(re.findall("[ML]", line)) for line in lines] == [STEPS, STEPS]
    assert f"step {STEPS} / {STEPS}" in plot.inner_text()
    assert plot.count() == 1


def test_plot_and_preview_move_in_the_node_while_it_runs(after_a_run):
    page, _ = after_a_run
    assert page.evaluate("seen.steps[0]") < STEPS
    assert len(page.evaluate("seen.pictures")) > 1


def test_the_clips_play_wipe_and_step(after_a_run):
    page, _ = after_a_run
    player = look_at(page, PLAYER, VIEW)
    canvas, video = player.locator("canvas"), player.locator("video")
    wipe = player.get_by_label("wipe", exact=True)
    page.wait_for_function("(video) => video.readyState >= 2", arg=video.element_handle())

    def shown() -> tuple[int, int]:
        """The number of the frame, from 1, and the count of frames."""
        number, count = re.search(r"frame (\d+) / (\d+)", player.inner_text()).groups()
        return int(number), int(count)

    def await_frame(number: int) -> None:
        player.get_by_text(re.compile(rf"^frame {number} /")).wait_for()

    assert video.evaluate("(video) => !video.paused && video.loop")
    first, count = shown()
    await_frame(first % count + 1)
    player.press("Space")
    assert video.evaluate("(video) => video.paused")

    for key, by in (("ArrowRight", 1), ("ArrowRight", 1), ("ArrowLeft", -1)):
        expected = (shown()[0] - 1 + by) % count + 1
        player.press(key)
        await_frame(expected)
    # Once around, and on to the middle, where the wipe goes through the circle.
    for _ in range(count + (count // 2 + 1 - shown()[0]) % count):
        expected = shown()[0] % count + 1
        player.get_by_title("One frame on").click()
        await_frame(expected)

    before = canvas.bounding_box(), page.evaluate(f"placeOf('{VIEW}')")
    box, _ = before
    middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    wiped = {}
    for share in (1.0, 0.0, 0.5):
        page.mouse.move(*middle)
        page.mouse.down()
        # The picture is square, as high as its place and in the middle of it.
        page.mouse.move(middle[0] + (share - 0.5) * min(box["width"], box["height"]), middle[1])
        page.mouse.up()
        assert float(wipe.input_value()) == pytest.approx(share, abs=0.02)
        wiped[share] = canvas.evaluate(REDS)
    source, edited, both = (wiped[share] for share in (1.0, 0.0, 0.5))
    row = canvas.evaluate("(canvas) => canvas.width")
    edge = round(float(wipe.input_value()) * row)
    for start in range(0, len(both), row):
        assert both[start : start + edge] == source[start : start + edge]
        assert both[start + edge : start + row] == edited[start + edge : start + row]
    assert source != edited
    after = canvas.bounding_box(), page.evaluate(f"placeOf('{VIEW}')")
    assert after == before, "the node moved with the wipe"
    if page.evaluate("!LiteGraph.vueNodesMode"):
        photograph(page, "compare", 900, 800, of=[VIEW])


def test_nothing_of_it_is_saved(after_a_run):
    page, before = after_a_run
    assert page.evaluate(SAVED) == before


def test_the_clips_are_there_again_when_the_graph_is(after_a_run):
    page, _ = after_a_run
    page.evaluate(OPEN_AGAIN)
    page.evaluate(LOOK_AT, VIEW)
    page.wait_for_function(f"document.querySelector('{PLAYER} video')?.readyState >= 2")
