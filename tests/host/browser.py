"""ComfyUI's own front end in a real browser, which Playwright drives.

With RESCORE_SCREENSHOTS naming a folder, the tests also save the README's pictures there.
"""

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

    from .comfyui import ComfyUI

BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "chrome")
SCREENSHOTS = os.environ.get("RESCORE_SCREENSHOTS")
READY = "!!(window.app?.graph && window.LiteGraph?.registered_node_types?.LoadVideo)"
PATIENCE = 60_000  # milliseconds that a page may take to become what a test awaits
# Queues the graph that is open; how its run ends is then in `end`.
RUN = """() => {
    window.end = null
    for (const end of ["execution_success", "execution_error"]) {
        window.comfyAPI.api.api.addEventListener(end, () => (window.end = end), { once: true })
    }
    app.queuePrompt(0)
}"""


def find_browser() -> str | None:
    """The browser named by $CHROMIUM, or the first known one on the PATH."""
    names = filter(None, (os.environ.get("CHROMIUM"), *BROWSERS))
    return next(filter(None, map(shutil.which, names)), None)


@contextmanager
def started(executable: str) -> Iterator["Browser"]:
    """A windowless browser of this machine; while it is open, this thread runs an event loop."""
    from playwright.sync_api import sync_playwright

    with (
        sync_playwright() as playwright,
        playwright.chromium.launch(executable_path=executable) as browser,
    ):
        yield browser


def open_front_end(
    browser: "Browser", comfyui: "ComfyUI", width: int = 1000, height: int = 760, **options
) -> "Page":
    """ComfyUI's page in a fresh profile, ready to take workflows; `options` are the profile's."""
    # Otherwise the list of templates opens over the first graph.
    comfyui.fetch("/settings", {"Comfy.TutorialCompleted": True})
    page = browser.new_page(viewport={"width": width, "height": height}, **options)
    page.set_default_timeout(PATIENCE)
    # Printed, they stand beside a test that fails.
    page.on("console", lambda said: said.type == "error" and print("browser:", said.text))
    page.on("requestfailed", lambda request: print("browser:", request.url, request.failure))
    page.goto(comfyui.address)
    page.wait_for_function(READY)
    return page


def load_again(page: "Page") -> None:
    """The page as it is when it is opened, ready to take workflows."""
    page.reload()
    page.wait_for_function(READY)


def take_picture(shown: "Page | Locator", name: str, **options) -> None:
    """Saves a picture of a page or an element in it, at most 1200 pixels wide, where it is wanted.

    `options` are those of Playwright's `screenshot`.
    """
    if not SCREENSHOTS:
        return
    time.sleep(1)  # until all is drawn
    with Image.open(BytesIO(shown.screenshot(**options))) as picture:
        picture.thumbnail((1200, 1200))
        file = Path(SCREENSHOTS) / f"{name}.jpg"
        picture.convert("RGB").save(file, quality=80, optimize=True, progressive=True)
