"""View Comparison with all that it takes, in ComfyUI's own front end and in both renderers."""

import re
import time

import pytest
from rescore.tests.host.browser import RUN, open_front_end
from rescore.tests.host.test_view import HELPERS, PLAYER, RENDERERS, VIEW, look_at

pytestmark = pytest.mark.host

CLIP = "red_circle.mp4"  # 8 frames of 64 x 64, shown at 256 x 256

# A clip, its negative, and both again, in a player with a sound.
BUILD = """(clip) => {
    app.graph.clear()
    const add = (type) => {
        const node = LiteGraph.createNode(type)
        app.graph.add(node)
        return node
    }
    const wire = (from, output, to, input) => {
        from.connect(output, to, to.inputs.findIndex(({ name }) => name === input))
    }
    const [load, parts, negative] = ["LoadVideo", "GetVideoComponents", "ImageInvert"].map(add)
    const [sound, view] = ["EmptyAudio", "ReScoreViewComparison"].map(add)
    load.widgets.find(({ name }) => name === "file").value = clip
    wire(load, 0, parts, "video")
    wire(parts, 0, negative, "image")
    for (const [from, input] of [
        [parts, "source"], [negative, "edited"], [parts, "third"], [negative, "fourth"],
        [sound, "audio"],
    ]) {
        wire(from, 0, view, input)
    }
    view.pos = [900, 0]
}"""
PIXELS = """(canvas) => {
    const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height)
    return Array.from(data).filter((_, i) => i % 4 === 0)
}"""


@pytest.fixture(scope="module", params=RENDERERS)
def player(request, browser, comfyui):
    """The player after a run, paused at its first frame."""
    page, vue = open_front_end(browser, comfyui), request.param == "nodes 2.0"
    page.add_script_tag(content=HELPERS)
    page.evaluate("(vue) => setting('Comfy.VueNodes.Enabled', vue)", vue)
    page.evaluate(BUILD, CLIP)
    page.evaluate(RUN)
    page.wait_for_function("end")
    assert page.evaluate("end") == "execution_success"
    player = look_at(page, PLAYER, VIEW)
    page.wait_for_function(f"document.querySelector('{PLAYER} video').readyState >= 2")
    yield player
    page.evaluate("setting('Comfy.VueNodes.Enabled', false)")
    page.close()


@pytest.fixture(autouse=True)
def paused(player):
    """Every test begins at the first frame, the whole clip, a wipe in the middle and no zoom."""
    player.locator("video").evaluate("(video) => video.pause()")
    player.get_by_role("button", name="Play the whole clip").click()
    go_to(player, 1)


def frame(player) -> int:
    """The number of the frame that is shown, from 1."""
    return int(re.search(r"frame (\d+) / 8", player.inner_text()).group(1))


def go_to(player, number: int) -> None:
    """Moves the slider of frames, as a user does."""
    slider = player.get_by_label("frame", exact=True)
    slider.fill(str(number - 1))
    player.get_by_text(re.compile(rf"^frame {number} /")).wait_for()


def size(player) -> list[int]:
    return player.locator("canvas").evaluate("(canvas) => [canvas.width, canvas.height]")


def press(player, title: str) -> None:
    player.get_by_role("button", name=title).click()


def test_the_slider_shows_any_frame(player):
    for number in (7, 8, 2):
        go_to(player, number)
        assert frame(player) == number


def test_a_grid_shows_all_clips_and_goes_back_to_the_wipe(player):
    assert size(player) == [256, 256]
    press(player, "All clips at once")
    assert size(player) == [512, 512]
    reds = player.locator("canvas").evaluate(PIXELS)
    rows = [reds[start : start + 512] for start in range(0, len(reds), 512)]
    middle = rows[200][100:200], rows[200][356:456], rows[456][100:200], rows[456][356:456]
    means = [sum(part) / len(part) for part in middle]
    assert means[0] == pytest.approx(255 - means[1], abs=12)
    assert means[0] == pytest.approx(means[2], abs=6)
    assert means[1] == pytest.approx(means[3], abs=6)
    press(player, "All clips at once")
    assert size(player) == [256, 256]


def test_the_clips_beside_the_wipe_can_be_chosen(player):
    before = player.locator("canvas").evaluate(PIXELS)
    right = player.get_by_title("The clip right of the wipe")
    assert right.locator("option").all_inner_texts() == ["source", "edited", "third", "fourth"]
    right.select_option("third")
    alike = player.locator("canvas").evaluate(PIXELS)
    right.select_option("edited")
    assert player.locator("canvas").evaluate(PIXELS) == before != alike


def test_a_loop_plays_its_frames_and_no_others(player):
    go_to(player, 4)
    press(player, "Loop from this frame on")
    go_to(player, 6)
    press(player, "Loop up to this frame")
    player.press("ArrowRight")
    player.get_by_text(re.compile("^frame 4 /")).wait_for()
    player.press("ArrowLeft")
    player.get_by_text(re.compile("^frame 6 /")).wait_for()
    player.press("Space")
    seen, end = set(), time.monotonic() + 4
    while time.monotonic() < end:
        seen.add(frame(player))
    assert seen == {4, 5, 6}
    player.press("Space")
    assert player.locator("video").evaluate("(video) => video.paused")


def test_the_wheel_zooms_once_the_player_is_clicked(player):
    page, stage = player.page, player.locator("canvas")
    box = stage.bounding_box()
    page.evaluate("document.activeElement.blur()")
    before, scale = stage.evaluate(PIXELS), page.evaluate("app.canvas.ds.scale")
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.up()
    for _ in range(3):
        page.mouse.wheel(0, -120)
    page.wait_for_function(
        "([canvas, before]) => canvas.getContext('2d').imageSmoothingEnabled === false",
        arg=[stage.element_handle(), before],
    )
    assert page.evaluate("app.canvas.ds.scale") == scale, "the graph was zoomed, too"
    assert stage.evaluate(PIXELS) != before
    for _ in range(4):
        press(player, "Zoom out")
    assert stage.evaluate(PIXELS) == before


def test_the_sound_is_off_until_it_is_asked_for(player):
    muted = "(video) => video.muted"
    assert player.locator("video").evaluate(muted)
    press(player, "Sound of the first clip")
    assert not player.locator("video").evaluate(muted)
    press(player, "Sound of the first clip")
    assert player.locator("video").evaluate(muted)
