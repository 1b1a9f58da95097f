"""A running ComfyUI as a test sees it: what can be asked of it over HTTP and its websocket.

`start.py` starts one; every call here blocks until the host has answered.
"""

import asyncio
import json
import shutil
import struct
import subprocess
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

LOOPBACK = "127.0.0.1"
TEXT = 3  # the number of such messages on the websocket
FEATURES = {"supports_preview_metadata": True}  # what the browser says of itself


class HostFailed(RuntimeError):
    """ComfyUI did not start, or stopped by itself; the message ends with its log."""


class PromptRejected(ValueError):
    """ComfyUI's validation refused a workflow, or some of its outputs."""


class ExecutionError(RuntimeError):
    """A node raised while a workflow ran."""

    def __init__(self, event: dict):
        self.node_id: str = event["node_id"]
        self.node_type: str = event["node_type"]
        self.exception_type: str = event["exception_type"]
        self.exception_message: str = event["exception_message"].strip()
        self.traceback = "".join(event["traceback"])
        super().__init__(
            f"node {self.node_id} ({self.node_type}) raised {self.exception_type}: "
            f"{self.exception_message}\n{self.traceback}"
        )


class ExecutionInterrupted(Exception):
    """A run was cancelled; `node_id` and `node_type` say in which node."""

    def __init__(self, event: dict):
        self.node_id: str = event["node_id"]
        self.node_type: str = event["node_type"]
        super().__init__(f"interrupted in node {self.node_id} ({self.node_type})")


def at_work(data: dict) -> list[tuple[str, float, float]]:
    """(id, done, total) of the nodes that a `progress_state` message says are running."""
    running = (node for node in data["nodes"].values() if node["state"] == "running")
    return [(node["node_id"], node["value"], node["max"]) for node in running]


def reached(kind: str, data: dict, node_id: str, steps: int) -> bool:
    """Whether a message says that a running node has made so many steps."""
    return kind == "progress_state" and any(
        node == node_id and done >= steps for node, done, _ in at_work(data)
    )


@dataclass
class Run:
    """What the websocket told about one finished prompt."""

    prompt_id: str
    cached: list[str] = field(default_factory=list)
    executed: list[str] = field(default_factory=list)
    outputs: dict[str, dict] = field(default_factory=dict)
    progress: list[tuple[str, float, float]] = field(default_factory=list)
    previews: int = 0
    texts: dict[str, str] = field(default_factory=dict)  # what nodes show below their inputs

    def take_bytes(self, message: bytes) -> None:
        """Notes a preview, or a text that a node shows."""
        (kind,) = struct.unpack_from(">I", message)
        if kind != TEXT:
            self.previews += 1
            return
        (length,) = struct.unpack_from(">I", message, 4)
        self.texts[message[8 : 8 + length].decode()] = message[8 + length :].decode()

    def take(self, kind: str, data: dict) -> bool:
        """Notes one message of this prompt; true when it was the last. Raises what went wrong."""
        if kind == "execution_cached":
            self.cached = data["nodes"]
        elif kind == "executing" and data["node"] is not None:
            self.executed.append(data["node"])
        elif kind == "executed" and data["output"] is not None:
            self.outputs[data["node"]] = data["output"]
        elif kind == "progress_state":
            self.progress += at_work(data)
        elif kind == "execution_error":
            raise ExecutionError(data)
        elif kind == "execution_interrupted":
            raise ExecutionInterrupted(data)
        return kind == "executing" and data["node"] is None


class ComfyUI:
    """One host process and the connection to it."""

    def __init__(self, port: int, base: Path, log_file: Path, process: subprocess.Popen):
        self.address = f"http://{LOOPBACK}:{port}"
        self.input, self.output = base / "input", base / "output"
        self.temp, self.models = base / "temp", base / "models"
        self.client_id = uuid.uuid4().hex
        self._log_file, self._process = log_file, process
        self._loop = asyncio.new_event_loop()
        self._session = self._socket = None
        # A proxy named in the environment is not meant for the loopback address.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def log(self) -> str:
        """All that the host has printed."""
        return self._log_file.read_text(encoding="utf-8", errors="replace")

    def resident(self) -> int:
        """The memory that the host's process has, in bytes."""
        import psutil  # the host needs it too

        return psutil.Process(self._process.pid).memory_info().rss

    def fetch(self, path: str, payload: dict | None = None) -> bytes:
        """The body that `path` answers; a payload makes the request a POST of JSON."""
        body = None if payload is None else json.dumps(payload).encode()
        headers = {} if body is None else {"Content-Type": "application/json"}
        request = urllib.request.Request(self.address + path, data=body, headers=headers)
        with self._opener.open(request, timeout=60) as answer:
            return answer.read()

    def get(self, path: str) -> dict | list:
        """The JSON that `path` answers."""
        return json.loads(self.fetch(path))

    def version(self) -> tuple[int, ...]:
        """The host's version, e.g. (0, 33, 0)."""
        number = self.get("/system_stats")["system"]["comfyui_version"]
        return tuple(int(part) for part in number.split("."))

    def history(self, prompt_id: str) -> dict:
        """The host's record of a finished prompt: `outputs`, `status`; empty while it runs."""
        return self.get(f"/history/{prompt_id}").get(prompt_id, {})

    def interrupt(self) -> None:
        """What the Cancel button does."""
        self.fetch("/interrupt", {})

    def put_input(self, source: Path) -> str:
        """Copies a file into the host's input folder; returns its name for a loader node."""
        shutil.copyfile(source, self.input / source.name)
        return source.name

    def files(self, ui: dict) -> list[Path]:
        """The files an output node reported in its `ui` payload, where they lie."""
        folders = {"output": self.output, "temp": self.temp, "input": self.input}
        return [folders[i["type"]] / i["subfolder"] / i["filename"] for i in ui.get("images", [])]

    def post_prompt(self, workflow: dict, preview_method: str = "none") -> str:
        """Queues an API-format workflow and returns its prompt id.

        `preview_method` is the front end's setting, e.g. "auto": sent with every prompt.
        Raises PromptRejected with every complaint when validation refuses any part of it: the host
        would run the outputs that remain, which in a test is a failure unseen.
        """
        try:
            settings = {"preview_method": preview_method}
            payload = {"prompt": workflow, "client_id": self.client_id, "extra_data": settings}
            answer = json.loads(self.fetch("/prompt", payload))
        except urllib.error.HTTPError as refusal:
            with refusal:
                answer = json.loads(refusal.read())
        if "error" in answer or answer["node_errors"]:
            raise PromptRejected(json.dumps(answer, indent=2))
        return answer["prompt_id"]

    def wait(
        self,
        prompt_id: str,
        on_message: Callable[[str, dict], None] = lambda kind, data: None,
        timeout: float = 300,
    ) -> Run:
        """Follows a queued prompt on the websocket to its end.

        `on_message(kind, data)` sees each message of this prompt as it comes. Raises
        ExecutionError, ExecutionInterrupted, or TimeoutError after `timeout` seconds.
        """
        run = Run(prompt_id)
        deadline = time.monotonic() + timeout
        done = False
        while not done:
            message = self._receive(deadline - time.monotonic())
            if isinstance(message, bytes):
                run.take_bytes(message)
                continue
            kind, data = message["type"], message["data"]
            if data.get("prompt_id") == prompt_id:
                on_message(kind, data)
                done = run.take(kind, data)
        return run

    def run(self, workflow: dict, preview_method: str = "none", **options) -> Run:
        """Queues a workflow and waits for its end; `options` are those of `wait`."""
        return self.wait(self.post_prompt(workflow, preview_method), **options)

    def run_cancelled(self, workflow: dict, node_id: str, steps: int) -> float:
        """Runs a workflow, cancels it once a node has made so many steps, and says how long in
        seconds the host took to stop there.
        """
        asked = []

        def cancel(kind: str, data: dict) -> None:
            if reached(kind, data, node_id, steps) and not asked:
                asked.append(time.monotonic())
                self.interrupt()

        try:
            self.run(workflow, on_message=cancel, timeout=200)
        except ExecutionInterrupted as stop:
            assert stop.node_id == node_id, f"stopped in node {stop.node_id}, not in {node_id}"
            return time.monotonic() - asked[0]
        raise AssertionError(f"the run came to its end, and node {node_id} was not stopped")

    def _receive(self, timeout: float) -> dict | bytes:
        async def next_message():
            return await asyncio.wait_for(self._socket.receive(), max(timeout, 0.001))

        try:
            message = self._loop.run_until_complete(next_message())
        except asyncio.TimeoutError:
            raise TimeoutError(f"ComfyUI did not finish in time.\n{self.log()[-4000:]}") from None
        if isinstance(message.data, bytes):
            return message.data
        if not isinstance(message.data, str):
            raise HostFailed(f"ComfyUI closed the websocket.\n{self.log()[-4000:]}")
        return json.loads(message.data)

    def _connect(self) -> None:
        import aiohttp  # the host needs it too, so it is there whenever a host is

        async def connect():
            self._session = aiohttp.ClientSession()
            url = f"{self.address}/ws?clientId={self.client_id}"
            self._socket = await self._session.ws_connect(url, max_msg_size=0)
            # Without this, no previews are sent.
            await self._socket.send_json({"type": "feature_flags", "data": FEATURES})

        self._loop.run_until_complete(connect())

    def await_ready(self, seconds: float) -> None:
        """Waits until the host answers, and connects; raises HostFailed when it does not."""

        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise HostFailed(f"ComfyUI stopped with {self._process.returncode}.\n{self.log()}")
            try:
                self.get("/queue")
            except OSError:
                time.sleep(0.1)
            else:
                return self._connect()
        raise HostFailed(f"ComfyUI did not answer within {seconds:.0f} s.\n{self.log()}")

    def close(self) -> None:
        """Ends the connection; the process is its starter's to end."""

        async def close():
            if self._session is not None:
                await self._session.close()

        self._loop.run_until_complete(close())
        self._loop.close()
