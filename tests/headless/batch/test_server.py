"""A ComfyUI as a worker, its answers scripted; `tests/host/test_batch.py` has a real one do it."""

import json
import threading
from email import message_from_bytes
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import pytest
from grey_batch import GREY
from rescore.headless.batch.manifest import Line
from rescore.headless.errors import WorkflowError
from rescore.headless.paths import Folders

pytest.importorskip("ray", reason="Ray has no wheel for this Python and system")
from rescore.headless.batch import server as server_module
from rescore.headless.batch.check import check_lines
from rescore.headless.batch.server import Api, Server, server_nodes, with_files
from rescore.headless.batch.worker import Job

BATCH = "12345678-1234-5678-1234-567812345678"
DONE = {"status_str": "success", "completed": True, "messages": []}
PICTURE = {"filename": "grey_00001_.png", "subfolder": "sub", "type": "output"}
PREVIEW = {"filename": "x.png", "subfolder": "", "type": "temp"}
INFO = {
    "SolidMask": {
        "input": {
            "required": {
                "value": ["FLOAT", {"default": 1.0, "min": 0.0, "max": 1.0}],
                "width": ["INT", {"default": 512, "min": 1, "max": 16384}],
                "height": ["INT", {"default": 512, "min": 1, "max": 16384}],
            }
        },
        "output": ["MASK"],
        "output_node": False,
    },
    "TheirOwn": {
        "input": {
            "required": {
                "clip": [["theirs.mp4"], {"video_upload": True}],
                "mask": ["MASK"],
                "mode": ["COMBO", {"options": ["a", "b"]}],
                "codec": ["COMFY_DYNAMICCOMBO_V3", {"options": [{"key": "h264", "inputs": {}}]}],
            },
            "hidden": {"prompt": "PROMPT"},
        },
        "output": [],
        "output_node": True,
    },
}


class Scripted:
    """What a server says: whether it takes a prompt, when it has it done, and how it ended."""

    def __init__(self):
        self.refusal: dict | None = None
        self.ended = {"outputs": {"3": {"images": [PICTURE, PREVIEW]}}, "status": DONE}
        self.once: dict | None = None  # how the next prompt ends, before all others
        self.looks = 2  # how often a prompt is seen in the queue
        self.loses = 0  # prompts that vanish
        self.queued: list[dict] = []
        self.uploads: dict[str, bytes] = {}
        self.left: dict[str, int] = {}
        self.ends: dict[str, dict] = {}

    def get(self, path: str, query: dict):
        if path == "/object_info":
            return INFO
        if path == "/system_stats":
            return {"system": {"comfyui_version": "0.8.0", "os": "posix"}}
        if path == "/queue":
            running = [[0, name, {}] for name in self.left]
            self.left = {name: looks - 1 for name, looks in self.left.items()}
            for name in [name for name, looks in self.left.items() if looks <= 0]:
                self.ends[name], self.once = self.once or self.ended, None
                del self.left[name]
            return {"queue_running": running, "queue_pending": []}
        if path.startswith("/history/"):
            name = path.rpartition("/")[2]
            return {name: self.ends[name]} if name in self.ends else {}
        assert path == "/view"
        return json.dumps(query, sort_keys=True).encode()

    def post(self, path: str, body: bytes, kind: str):
        if path == "/upload/image":
            message = message_from_bytes(f"Content-Type: {kind}\n\n".encode() + body)
            parts = {
                part.get_param("name", header="content-disposition"): part
                for part in message.get_payload()
            }
            name = parts["image"].get_filename()
            assert name not in self.uploads, "sent twice"
            self.uploads[name] = parts["image"].get_payload(decode=True)
            return {"name": name, "subfolder": parts["subfolder"].get_payload(), "type": "input"}
        assert path == "/prompt"
        said = json.loads(body)
        if self.refusal is not None:
            return self.refusal
        self.queued.append(said)
        if self.loses:
            self.loses -= 1
        else:
            self.left[said["prompt_id"]] = self.looks
        return {"prompt_id": said["prompt_id"], "number": 1, "node_errors": {}}


@pytest.fixture
def scripted(monkeypatch):
    """A server at `scripted.address` that does as it is told."""
    script = Scripted()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            parts = urlsplit(self.path)
            self.answer(script.get(parts.path, parse_qs(parts.query)))

        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            self.answer(script.post(self.path, body, self.headers["Content-Type"]))

        def answer(self, content):
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(400 if data.startswith(b'{"error"') else 200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_):
            pass

    monkeypatch.setattr(server_module, "PAUSE", 0.001)
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True).start()
        script.address = f"http://127.0.0.1:{http.server_port}"
        yield script
        http.shutdown()


@pytest.fixture
def server(scripted):
    return Server(scripted.address, BATCH, tries=0)


def job(files=None, prompt=GREY):
    return Job(Line(1, "a"), prompt, files or {})


def test_a_line_is_sent_and_its_files_are_fetched(server, scripted):
    outcome = server.run(job())
    assert (outcome.status, outcome.sentence) == ("done", "")
    (sent,) = scripted.queued
    assert sent["prompt"] == GREY
    asked = {"filename": ["grey_00001_.png"], "subfolder": ["sub"], "type": ["output"]}
    assert outcome.files == {"sub/grey_00001_.png": json.dumps(asked, sort_keys=True).encode()}
    assert outcome.record["versions"]["comfyui_version"] == "0.8.0"
    assert outcome.record["seconds"]["total"] > 0


def test_what_the_server_does_already_is_not_asked_for_twice(server, scripted):
    server.run(job())
    assert Server(scripted.address, BATCH, tries=0).run(job()).status == "done"
    assert len(scripted.queued) == 1
    # Other values, and another batch, are other runs.
    server.run(job(prompt={**GREY, "4": {"class_type": "X", "inputs": {}}}))
    Server(scripted.address, BATCH.replace("1", "9"), tries=0).run(job())
    assert len(scripted.queued) == 3


def test_files_are_sent_once_under_a_name_of_their_content(server, scripted):
    prompt = {"1": {"class_type": "LoadVideo", "inputs": {"file": "sub/a.mp4", "other": 5}}}
    for _ in range(2):
        server.run(job({"sub/a.mp4": b"\x00clip\r\n"}, prompt))
    ((name, data),) = scripted.uploads.items()
    assert name.endswith("-a.mp4") and data == b"\x00clip\r\n"
    sent = scripted.queued[0]["prompt"]["1"]["inputs"]
    assert sent == {"file": f"rescore_batch/{name}", "other": 5}
    assert prompt["1"]["inputs"]["file"] == "sub/a.mp4"


def test_only_whole_values_are_file_names():
    prompt = {
        "1": {"class_type": "X", "inputs": {"file": "a.mp4", "text": "see a.mp4", "l": ["2", 0]}}
    }
    changed = with_files(prompt, {"a.mp4": "b.mp4", "2": "no"})
    assert changed["1"]["inputs"] == {"file": "b.mp4", "text": "see a.mp4", "l": ["2", 0]}


def test_a_server_that_refuses_a_line(server, scripted):
    fault = {"message": "Value not in list", "details": "model: 'x' not in ['y']"}
    scripted.refusal = {
        "error": {"message": "Prompt outputs failed validation", "details": ""},
        "node_errors": {"3": {"class_type": "SaveImage", "errors": [fault]}},
    }
    outcome = server.run(job())
    assert outcome.status == "refused"
    assert outcome.sentence == (
        f"{scripted.address} cannot run it: node 3 (SaveImage): Value not in list, model: 'x' not "
        "in ['y']."
    )


def test_a_node_that_fails_there(server, scripted):
    event = {"node_id": "3", "node_type": "SaveImage", "exception_message": "no room\n"}
    scripted.once = {
        "outputs": {},
        "status": {"status_str": "error", "messages": [["execution_error", event]]},
    }
    outcome = server.run(job())
    assert outcome.status == "failed"
    assert outcome.sentence == 'Node 3 (SaveImage, "Save"): no room'
    # It is tried again, and what the server remembers of the first time is not taken for its end.
    assert server.run(job()).status == "done"
    assert len(scripted.queued) == 2


def test_a_line_that_is_cancelled_there(server, scripted):
    messages = [["execution_start", {}], ["execution_interrupted", {"node_id": "2"}]]
    scripted.ended = {"outputs": {}, "status": {"status_str": "error", "messages": messages}}
    assert server.run(job()).sentence == "It was cancelled on the server, in node 2."


def test_a_server_that_forgets_is_asked_again_a_few_times(server, scripted):
    scripted.loses = 2
    assert server.run(job()).status == "done"
    assert len(scripted.queued) == 3
    scripted.loses = 99
    outcome = Server(scripted.address, BATCH.replace("1", "9"), tries=0).run(job())
    assert outcome.status == "failed" and "lost it 3 times" in outcome.sentence


def test_a_server_that_has_gone(scripted):
    outcome = Server("127.0.0.1:1", BATCH, tries=0).run(job())
    assert outcome.status == "unfit"
    assert outcome.sentence.startswith("http://127.0.0.1:1 does not answer: ")
    with pytest.raises(WorkflowError, match=r"Cannot reach the ComfyUI server 127\.0\.0\.1:1 "):
        server_nodes("127.0.0.1:1", Folders(None))


def test_measures_come_with_the_outputs(server, scripted):
    table = {"edit": {"PSNR": {"value": 31.5, "unit": "dB", "better": "higher"}}}
    scripted.ended["outputs"]["9"] = {"text": ["..."], "rescore_measures": [table]}
    assert server.run(job()).record["measures"] == table


@pytest.mark.parametrize("place", ["../x.png", "/x.png", "C:x.png"])
def test_a_server_cannot_write_where_it_likes(server, scripted, place):
    scripted.ended["outputs"]["3"]["images"] = [{"filename": place, "type": "output"}]
    with pytest.raises(ValueError, match=r"\.$"):
        server.run(job())


def test_lines_are_checked_against_the_servers_own_nodes(scripted, folders):
    (folders.inputs[0] / "mine.mp4").write_bytes(b"x")
    graph = {
        "1": {"class_type": "SolidMask", "inputs": {"value": 1, "width": 3, "height": 5}},
        "2": {
            "class_type": "TheirOwn",
            "inputs": {"clip": "mine.mp4", "mask": ["1", 0], "mode": "a", "codec": "h264"},
        },
    }
    nodes = server_nodes(scripted.address, folders)
    (checked,) = check_lines(graph, [Line(1, "a", "", {"2.mode": "b"})], nodes, folders)
    assert checked.files.keys() == {"mine.mp4"}
    for settings, sentence in (
        ({"2.mode": "c"}, "must be one of a, b"),
        ({"2.clip": "theirs.mp4"}, "'theirs.mp4' is not in the input folder"),
        ({"1.value": 2}, r"must lie in \[0.0, 1.0\]"),
        ({"1.radius": 2}, "has no such input"),
    ):
        with pytest.raises(WorkflowError, match=f"Line 1: .*{sentence}"):
            check_lines(graph, [Line(1, "a", "", settings)], nodes, folders)


def test_addresses():
    assert Api("127.0.0.1:8188").address == "http://127.0.0.1:8188"
    assert Api("https://there/").address == "https://there"
