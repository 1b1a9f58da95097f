"""A manifest against a running ComfyUI: its own nodes, our files, the same results folder."""

import json
import os
import subprocess
import sys

import pytest
from grey_batch import QUIET_RAY
from rescore.tests.host.start import place_pack

pytest.importorskip("ray", reason="Ray has no wheel for this Python and system")
pytestmark = pytest.mark.host
RUN = (
    "import runpy; runpy.run_module('rescore.headless.batch', run_name='__main__', alter_sys=True)"
)


@pytest.fixture
def batch(root, tmp_path):
    """`batch(graph, lines, *arguments)`: the finished command."""
    (tmp_path / "site").mkdir()
    place_pack(root, tmp_path / "site")
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "site"), **QUIET_RAY}

    def run(graph, lines, *arguments):
        (tmp_path / "graph.json").write_text(json.dumps(graph))
        (tmp_path / "lines.jsonl").write_text("\n".join(map(json.dumps, lines)))
        command = [sys.executable, "-c", RUN, "graph.json", "lines.jsonl", "--out", "out"]
        return subprocess.run(
            [*command, *arguments],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def record(tmp_path, line_id):
    return json.loads((tmp_path / "out" / "results" / line_id / "record.json").read_text())


def test_a_shipped_graph_on_a_server(comfyui, batch, root, tmp_path):
    graph = json.loads((root / "workflows" / "api" / "measures.json").read_text("utf-8"))
    steps = {f"{n}.steps": 1 for n, node in graph.items() if "steps" in node["inputs"]}
    clip = {"Clip to edit.file": "sub/mine.mp4"}
    lines = [
        {"id": "a", "group": "one", **steps, **clip},
        {"id": "b", "group": "two", **steps, **clip, "14.seed": 1},
        # The host itself looks at this one; headless nothing is known of it before it runs.
        {"id": "bad", **steps, **clip, "Measures Table.name": "../up"},
    ]
    inputs = tmp_path / "in" / "sub"
    inputs.mkdir(parents=True)
    (inputs / "mine.mp4").write_bytes(
        (root / "workflows" / "input" / "red_circle.mp4").read_bytes()
    )
    arguments = ("--input", str(tmp_path / "in"), "--input", str(root / "workflows" / "input"))
    before = set(comfyui.input.iterdir())
    done = batch(graph, lines, *arguments, "--servers", comfyui.address)
    assert done.returncode == 1, done.stderr
    assert "line 3 ('bad') failed: Node 30 (ReScoreMeasuresTable" in done.stderr
    assert "is no name for a file" in done.stderr
    names = {
        file.relative_to(tmp_path / "out" / "results").as_posix()
        for file in (tmp_path / "out" / "results").rglob("*.mp4")
    }
    assert {name.split("/")[0] for name in names} == {"a", "b"} and len(names) == 2
    for line in ("a", "b"):
        kept = record(tmp_path, line)
        assert kept["measures"].keys() == {"source", "free", "within a mask"}
        assert kept["machine"]["name"] == comfyui.address
        assert kept["versions"]["comfyui_version"]
    # The user's own input files are as they were.
    assert {entry.name for entry in set(comfyui.input.iterdir()) - before} == {"rescore_batch"}
    assert "PSNR outside (dB)" in done.stdout and "one" in done.stdout and "two" in done.stdout

    queued = len(comfyui.get("/history"))
    again = batch(graph, lines[:2], *arguments, "--servers", comfyui.address, "--resume")
    assert again.returncode == 0, again.stderr
    assert len(comfyui.get("/history")) == queued


def test_lines_that_the_server_has_no_nodes_for(comfyui, batch):
    graph = {"1": {"class_type": "NobodysNode", "inputs": {}}}
    done = batch(graph, [{"id": "a"}, {"id": "b"}], "--servers", comfyui.address)
    assert done.returncode == 2 and "Every line: Node 1 (NobodysNode)" in done.stderr
