"""A running ComfyUI as a worker: the same lines, by its HTTP API."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from pathlib import PurePosixPath

import requests
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from ..errors import WorkflowError, printable, sentence
from ..paths import Folders, safe_parts
from ..specs import ANY
from .check import takes_upload
from .results import digest, json_digest
from .worker import TEMP, Job, Outcome, measures

FOLDER = "rescore_batch"  # in the server's input folder: the files of lines, by their content
TIMEOUT = 60.0  # seconds for one answer; a run is asked after, not waited for
TRIES = 7  # to connect: about a minute, so that a server may be started again meanwhile
LOST = 3  # how often a run may vanish from the server
PAUSE = 0.5  # seconds between two looks


class Server:
    """Has one ComfyUI run lines, and fetches what they wrote. Nothing there is overwritten."""

    def __init__(self, address: str, batch: str, tries: int = TRIES) -> None:
        self.api, self.batch = Api(address, tries), batch
        self.sent: dict[str, str] = {}  # content to the name it has on the server

    def run(self, job: Job) -> Outcome:
        """Send a line, wait for its end, and fetch its files."""
        try:
            return self._run(job)
        except requests.RequestException as error:
            return Outcome("unfit", f"{self.api.address} does not answer: {_reason(error)}")

    def _run(self, job: Job) -> Outcome:
        names = {name: self._upload(name, data) for name, data in job.files.items()}
        prompt = with_files(job.prompt, names)
        start = time.perf_counter()
        # The same line has the same id: what this server does or has done is not asked for twice.
        prompt_id = str(uuid.uuid5(uuid.UUID(self.batch), f"{job.line.id} {json_digest(prompt)}"))
        for _ in range(LOST):
            if not self._knows(prompt_id) and (refusal := self.api.queue(prompt, prompt_id)):
                return Outcome("refused", f"{self.api.address} cannot run it: {refusal}")
            if ended := self._wait(prompt_id):
                return self._outcome(ended, prompt, time.perf_counter() - start)
        return Outcome("failed", f"{self.api.address} lost it {LOST} times; see that server's log.")

    def _upload(self, name: str, data: bytes) -> str:
        mark = digest(data)
        if mark not in self.sent:
            file = f"{mark[:16]}-{PurePosixPath(*safe_parts(name, 'file')).name}"
            self.sent[mark] = self.api.upload(file, data)
        return self.sent[mark]

    def _knows(self, prompt_id: str) -> bool:
        """Whether the run waits or runs there, or has been done."""
        ended = self.api.history(prompt_id)
        return _is_done(ended) if ended else self.api.has_queued(prompt_id)

    def _wait(self, prompt_id: str) -> dict:
        """The server's record of a run when it has ended; empty if the server knows none."""
        while self.api.has_queued(prompt_id):
            time.sleep(PAUSE)
        return self.api.history(prompt_id)

    def _outcome(self, ended: Mapping, prompt: Mapping, seconds: float) -> Outcome:
        record = {
            "seconds": {"total": seconds},
            "warnings": [],
            "models": {},
            "versions": self.api.versions(),
            "machine": {"name": self.api.address},
        }
        if not _is_done(ended):
            return Outcome("failed", _failure(ended, prompt), record)
        outputs = ended["outputs"]
        record["measures"] = measures(outputs)
        files = {}
        for shown in outputs.values():
            for entry in (entry for entries in shown.values() for entry in entries):
                if isinstance(entry, dict) and "filename" in entry and entry.get("type") != TEMP:
                    below = entry.get("subfolder")
                    place = f"{below}/{entry['filename']}" if below else entry["filename"]
                    name = "/".join(safe_parts(place, "the server's file"))
                    files[name] = self.api.view(entry)
        return Outcome("done", "", record, files)


def _is_done(ended: Mapping) -> bool:
    return ended.get("status", {}).get("status_str") == "success"


def _failure(ended: Mapping, prompt: Mapping) -> str:
    """The sentence of the node that failed, as the headless runner would say it."""
    for kind, event in ended["status"]["messages"]:
        if kind == "execution_error":
            title = prompt.get(event["node_id"], {}).get("_meta", {}).get("title", "")
            node = f'Node {event["node_id"]} ({event["node_type"]}, "{title}")'
            return printable(f"{node}: {event['exception_message'].strip()}", 2000)
        if kind == "execution_interrupted":
            return f"It was cancelled on the server, in node {printable(event['node_id'])}."
    return "The server says that it failed, and not why; see its log."


def with_files(prompt: Mapping, names: Mapping[str, str]) -> dict[str, object]:
    """The prompt with the names that its input files have on the server."""
    return {
        node_id: {
            **node,
            "inputs": {
                key: names.get(value, value) if isinstance(value, str) else value
                for key, value in node["inputs"].items()
            },
        }
        for node_id, node in prompt.items()
    }


class Api:
    """What is asked of a ComfyUI; every call may raise a `requests.RequestException`."""

    def __init__(self, address: str, tries: int = TRIES) -> None:
        """The address is that of the browser, such as `http://127.0.0.1:8188`."""
        self.address = (address if "//" in address else f"http://{address}").rstrip("/")
        retry = Retry(tries, status=0, backoff_factor=0.5, allowed_methods=None)
        self._session = requests.Session()
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, HTTPAdapter(max_retries=retry))

    def _call(self, method: str, path: str, **options: object) -> requests.Response:
        answer = self._session.request(method, self.address + path, timeout=TIMEOUT, **options)
        if answer.status_code != 400:  # which says what is wrong with a prompt
            answer.raise_for_status()
        return answer

    def object_info(self) -> dict[str, dict]:
        """What the server says of each of its nodes."""
        return self._call("GET", "/object_info").json()

    def versions(self) -> dict[str, str]:
        """Of ComfyUI and what it stands on."""
        system = self._call("GET", "/system_stats").json()["system"]
        names = ("comfyui_version", "python_version", "pytorch_version", "os")
        return {name: str(system[name]) for name in names if name in system}

    def upload(self, name: str, data: bytes) -> str:
        """Put a file into the server's input folder; the name for a loader node."""
        answer = self._call(
            "POST",
            "/upload/image",
            files={"image": (name, data)},
            data={"subfolder": FOLDER, "type": "input", "overwrite": "true"},
        ).json()
        return f"{answer['subfolder']}/{answer['name']}"

    def queue(self, prompt: Mapping, prompt_id: str) -> str:
        """Queue a run; "" or the sentence why the server refuses it."""
        answer = self._call("POST", "/prompt", json={"prompt": prompt, "prompt_id": prompt_id})
        said = answer.json()
        faults = [
            f"node {node_id} ({fault['class_type']}): {error['message']}, {error['details']}"
            for node_id, fault in (said.get("node_errors") or {}).items()
            for error in fault["errors"]
        ]
        if "error" in said and not faults:
            faults = [f"{said['error']['message']} {said['error'].get('details', '')}".strip()]
        if faults and "prompt_id" in said:  # queued for those of its outputs that are not refused
            self._call("POST", "/queue", json={"delete": [prompt_id]})
        return sentence(printable("; ".join(faults), 2000)) if faults else ""

    def history(self, prompt_id: str) -> dict:
        """The record of a run that has ended; empty before."""
        return self._call("GET", f"/history/{prompt_id}").json().get(prompt_id, {})

    def has_queued(self, prompt_id: str) -> bool:
        """Whether a run waits or runs."""
        queue = self._call("GET", "/queue").json()
        entries = [*queue["queue_running"], *queue["queue_pending"]]
        return any(entry[1] == prompt_id for entry in entries)

    def view(self, entry: Mapping[str, str]) -> bytes:
        """A file that a node has reported."""
        keys = ("filename", "subfolder", "type")
        asked = {key: entry[key] for key in keys if key in entry}
        return self._call("GET", "/view", params=asked).content


def server_nodes(address: str, folders: Folders) -> dict[str, type]:
    """The node classes of a server, for checking lines: what they declare, and nothing to run.

    Inputs that take an upload are checked against our own input folders, which they will come from.

    Raises:
        WorkflowError: the server does not answer.
    """
    try:
        told = Api(address, tries=0).object_info()
    except requests.RequestException as error:
        raise WorkflowError(
            [
                f"Cannot reach the ComfyUI server {printable(address)} ({_reason(error)}). Is it "
                "running, and does its address open in a browser on this machine?"
            ]
        ) from error
    return {name: _declared(name, info) for name, info in told.items()}


def _declared(name: str, info: Mapping) -> type:
    sections = {
        group: {key: _spec(entry) for key, entry in inputs.items()}
        for group, inputs in info["input"].items()
        if group != "hidden"
    }
    return type(
        str(name),
        (),
        {
            "INPUT_TYPES": classmethod(lambda cls: sections),
            "RETURN_TYPES": tuple(info["output"]),
            "OUTPUT_NODE": info["output_node"],
        },
    )


def _spec(entry: list) -> tuple:
    """An input as declared; an upload takes any text, and what only the host understands all."""
    options = entry[1] if len(entry) > 1 else {}
    if takes_upload(options):
        return "STRING", options
    return (ANY, options) if str(entry[0]).startswith("COMFY_") else (entry[0], options)


def _reason(error: requests.RequestException) -> str:
    """The innermost cause, in one line: requests wraps what urllib3 wraps."""
    cause: BaseException = error
    while (inner := cause.__cause__ or cause.__context__) is not None:
        cause = inner
    return printable(str(cause) or type(cause).__name__, 200)
