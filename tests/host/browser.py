"""A page of a real browser, driven through the DevTools protocol: ComfyUI's own front end."""

import asyncio
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "chrome")


class PageError(RuntimeError):
    """JavaScript run in the page threw, or the page did not become ready."""


def find_browser() -> str | None:
    """The browser named by $CHROMIUM, or the first known one on the PATH."""
    names = filter(None, (os.environ.get("CHROMIUM"), *BROWSERS))
    return next(filter(None, map(shutil.which, names)), None)


class Page:
    """One open page. Made by `page`; all calls block."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._session = self._socket = None
        self._sent = 0

    def evaluate(self, expression: str) -> object:
        """The JSON value of a JavaScript expression; a promise is awaited."""
        answer = self.call(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        if "exceptionDetails" in answer:
            raise PageError(json.dumps(answer["exceptionDetails"])[:2000])
        return answer["result"].get("value")

    def await_true(self, expression: str, seconds: float = 60) -> None:
        """Waits until an expression is true; raises PageError when it stays false."""
        deadline = time.monotonic() + seconds
        while not self.evaluate(f"!!({expression})"):
            if time.monotonic() > deadline:
                raise PageError(f"not true within {seconds:.0f} s: {expression}")
            time.sleep(0.2)

    def call(self, method: str, **parameters) -> dict:
        """The result of one command of the DevTools protocol."""

        async def ask() -> dict:
            self._sent += 1
            message = {"id": self._sent, "method": method, "params": parameters}
            await self._socket.send_json(message)
            while True:
                answer = await self._socket.receive_json(timeout=60)
                if answer.get("id") == self._sent:
                    return answer.get("result", answer)

        return self._loop.run_until_complete(ask())

    def connect(self, port: int) -> None:
        """Joins the first page of the browser that listens on a loopback port."""
        import aiohttp  # ComfyUI needs it too, so it is there whenever a host is

        async def join() -> None:
            self._session = aiohttp.ClientSession()
            async with self._session.get(f"http://127.0.0.1:{port}/json") as answer:
                targets = await answer.json(content_type=None)
            address = next(t["webSocketDebuggerUrl"] for t in targets if t["type"] == "page")
            self._socket = await self._session.ws_connect(address, max_msg_size=0)

        self._loop.run_until_complete(join())

    def close(self) -> None:
        """Asks the browser to end and leaves it."""

        async def leave() -> None:
            if self._socket is not None:
                await self._socket.send_json({"id": 0, "method": "Browser.close"})
            if self._session is not None:
                await self._session.close()

        self._loop.run_until_complete(leave())
        self._loop.close()


def port_of(browser: subprocess.Popen, profile: Path, seconds: float = 60) -> int:
    """The port a starting browser chose; it writes it into its profile folder."""
    file = profile / "DevToolsActivePort"
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and browser.poll() is None:
        lines = file.read_text().splitlines() if file.exists() else []
        if lines:
            return int(lines[0])
        time.sleep(0.1)
    raise PageError("the browser did not start")


@contextmanager
def page(browser: str, address: str) -> Iterator[Page]:
    """A page of a fresh, windowless browser at an address."""
    with tempfile.TemporaryDirectory(prefix="rescore-page-", ignore_cleanup_errors=True) as profile:
        command = [browser, "--headless", "--disable-gpu", "--no-first-run"]
        command += ["--remote-debugging-port=0", f"--user-data-dir={profile}"]
        if hasattr(os, "geteuid") and os.geteuid() == 0:
            command.append("--no-sandbox")  # Chromium refuses to start as root otherwise
        with subprocess.Popen(
            [*command, "about:blank"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as process:
            shown = Page()
            try:
                shown.connect(port_of(process, Path(profile)))
                shown.call("Page.enable")
                shown.call("Page.navigate", url=address)
                yield shown
            finally:
                shown.close()
                try:
                    process.wait(timeout=10)
                except subprocess.TimeoutExpired:
                    process.kill()
