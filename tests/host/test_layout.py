"""No two nodes of a shipped graph overlap in the front end, as opened and after a run."""

from itertools import combinations, product

import pytest
from rescore.headless.workflow import read_workflow
from rescore.tests.host.browser import RUN, open_front_end
from rescore.tests.host.conftest import skip_if_too_old
from rescore.tests.host.graph import running_nodes, widgets
from rescore.tests.host.test_front_end import GRAPHS, ROOT, graph

pytestmark = [pytest.mark.host, pytest.mark.slow]

STEPS = 3  # a loop of more steps takes no more room

# The places of nodes and groups, [left, top, width, height], titles included, once every video is
# there and nothing moves any more.
PLACES = """async () => {
    const TITLE = LiteGraph.NODE_TITLE_HEIGHT
    const canvas = app.canvas.canvas.getBoundingClientRect()
    const { scale, offset } = app.canvas.ds
    const inGraph = ({ left, top, width, height }) => [
        (left - canvas.left) / scale - offset[0],
        (top - canvas.top) / scale - offset[1],
        width / scale,
        height / scale,
    ]
    const placeOf = ({ id, pos, size }) => {
        const element = document.querySelector(`[data-node-id="${id}"]`)
        if (element) return inGraph(element.getBoundingClientRect())
        return [pos[0], pos[1] - TITLE, size[0], size[1] + TITLE]
    }
    const places = () => ({
        nodes: app.graph.nodes.map((n) => [`${n.id} (${n.type})`, placeOf(n).map(Math.round)]),
        groups: app.graph.groups.map((g) => [g.title, [...g.pos, ...g.size].map(Math.round)]),
    })
    const pause = () => new Promise((done) => setTimeout(done, 400))
    const videos = document.getElementsByTagName("video")
    const loaded = () => [...videos].every((video) => video.readyState || !video.src)
    let [last, now] = [null, JSON.stringify(places())]
    while (last !== now || !loaded()) {
        await pause()
        app.canvas.draw(true, true)
        ;[last, now] = [now, JSON.stringify(places())]
    }
    return places()
}"""
RENDER = "(vue) => app.extensionManager.setting.set('Comfy.VueNodes.Enabled', vue)"
SEE_ALL = """() => {
    app.canvas.ds.scale = 0.2
    app.canvas.ds.offset = [300, 900]
}"""


def brief(workflow: dict, object_info: dict) -> dict:
    """A graph with short loops."""
    for node in running_nodes(workflow):
        for position, widget in enumerate(widgets(object_info[node["type"]])):
            if widget.name == "steps":
                node["widgets_values"][position] = min(STEPS, node["widgets_values"][position])
    return workflow


def overlap(one: list[float], other: list[float]) -> bool:
    """Whether two places, [left, top, width, height], share more than an edge."""
    return all(
        one[i] < other[i] + other[i + 2] and other[i] < one[i] + one[i + 2] for i in range(2)
    )


def holds(outer: list[float], inner: list[float]) -> bool:
    """Whether the one place lies within the other."""
    return all(
        outer[i] <= inner[i] and inner[i] + inner[i + 2] <= outer[i] + outer[i + 2]
        for i in range(2)
    )


def crowded(places: dict) -> list[str]:
    """Every two nodes or groups that overlap, and every node that hangs out of a group."""
    overlapping = [
        f"{a} at {one} and {b} at {other}"
        for named in places.values()
        for (a, one), (b, other) in combinations(named, 2)
        if overlap(one, other)
    ]
    return overlapping + [
        f"{node} at {place} hangs out of {group} at {frame}"
        for (node, place), (group, frame) in product(places["nodes"], places["groups"])
        if overlap(place, frame) and not holds(frame, place)
    ]


@pytest.fixture(scope="module")
def page(browser, comfyui):
    page = open_front_end(browser, comfyui, width=1900, height=1300)
    yield page
    page.evaluate(RENDER, False)
    page.close()


def places(page, vue: bool) -> dict:
    """Where everything is in one of the renderers: True is Nodes 2.0."""
    page.evaluate(RENDER, vue)
    page.wait_for_function("(vue) => !!document.querySelector('[data-node-id]') === vue", arg=vue)
    return page.evaluate(PLACES)


@pytest.mark.parametrize("name", GRAPHS)
def test_nodes_have_room(page, comfyui, object_info, name):
    page.evaluate(RENDER, False)
    page.evaluate("(graph) => app.loadGraphData(graph)", brief(graph(name), object_info))
    page.evaluate(SEE_ALL)
    for vue in (False, True):
        assert crowded(places(page, vue)) == []
    skip_if_too_old(comfyui, read_workflow(ROOT / "workflows" / "api" / f"{name}.json"))
    page.evaluate(RUN)
    page.wait_for_function("end", timeout=300_000)
    assert page.evaluate("end") == "execution_success"
    for vue in (True, False):
        assert crowded(places(page, vue)) == []
