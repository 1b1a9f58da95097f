"""The command in a process of its own: killed and resumed, and a cluster that comes and goes."""

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import pytest
from grey_batch import QUIET_RAY, files_of
from rescore.headless.runner import run_workflow
from rescore.tests.host.start import free_port, place_pack

pytest.importorskip("ray", reason="Ray has no wheel for this Python and system")
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")

RUN = (
    "import runpy; runpy.run_module('rescore.headless.batch', run_name='__main__', alter_sys=True)"
)
# A large picture: some time a line, and the same bits every time.
SLOW = {
    "1": {
        "class_type": "SolidMask",
        "inputs": {"value": 0.5, "width": 4000, "height": 3000},
        "_meta": {"title": "Grey"},
    },
    "2": {"class_type": "MaskToImage", "inputs": {"mask": ["1", 0]}},
    "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "x"}},
}


@pytest.fixture
def place(root, tmp_path):
    """`slow.json` and `lines.jsonl`, and the pack where the command's workers find it."""
    (tmp_path / "slow.json").write_text(json.dumps(SLOW))
    rows = [{"id": f"l{i}", "Grey.value": (i + 1) / 10} for i in range(6)]
    (tmp_path / "lines.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "site").mkdir()
    place_pack(root, tmp_path / "site")
    return tmp_path


@pytest.fixture
def environment(place):
    return os.environ | {
        "PYTHONPATH": str(place / "site"),
        **QUIET_RAY,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
    }


@pytest.fixture
def start(place, environment):
    """`start(*arguments)`: the command, running; ended at the end."""
    begun = []

    def start(*arguments):
        command = [sys.executable, "-c", RUN, "slow.json", "lines.jsonl", "--out", "out"]
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        begun.append(
            subprocess.Popen([*command, *arguments], cwd=place, env=environment, **streams)
        )
        return begun[-1]

    yield start
    for process in begun:
        process.kill()
        process.communicate()


def wait_for_results(place, count, process):
    """Until so many lines are done."""
    deadline = time.monotonic() + 300
    folder = place / "out" / "results"
    while not folder.exists() or len(list(folder.iterdir())) < count:
        assert time.monotonic() < deadline and process.poll() is None, process.communicate()
        time.sleep(0.02)


@pytest.mark.slow
def test_killed_at_any_moment_it_goes_on_to_the_same_bits(start, place):
    killed = start("--workers", "1")
    wait_for_results(place, 2, killed)
    killed.kill()
    killed.communicate()
    before = {path: path.stat().st_mtime_ns for path in (place / "out").rglob("*.png")}
    assert 2 <= len(before) < 6
    refused = start("--workers", "1")
    assert refused.wait(300) == 2 and "Go on with --resume" in refused.stderr.read()
    resumed = start("--resume", "--workers", "2")
    output, errors = resumed.communicate(timeout=300)
    assert resumed.returncode == 0, errors
    assert "all       6       0" in output and output.endswith("report.html\n")
    assert all(path.stat().st_mtime_ns == moment for path, moment in before.items())
    for index in range(6):
        alone = run_workflow(
            SLOW, out=place / f"alone{index}", overrides={"Grey.value": (index + 1) / 10}
        )
        assert files_of(place / "out")[f"l{index}/x_00001_.png"] == alone.saved[0].read_bytes()


@pytest.fixture
def joined(place, environment):
    """The address of a Ray cluster, and its processes as one group."""
    port = free_port()
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"]
    command += ["--num-cpus", "1", "--port", str(port), "--include-dashboard", "false"]
    folder = tempfile.mkdtemp(prefix="ray")  # not below tmp_path: names of sockets must be short
    command += ["--disable-usage-stats", "--temp-dir", folder]
    with open(place / "ray_head.log", "w") as log:
        head = subprocess.Popen(
            command, cwd=place, env=environment, stdout=log, stderr=log, start_new_session=True
        )
    yield f"127.0.0.1:{port}", head
    kill_all(head)
    shutil.rmtree(folder)


def kill_all(head):
    try:
        os.killpg(head.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    head.wait()


@pytest.mark.slow
def test_a_cluster_is_joined_and_may_go_away(start, place, joined):
    address, head = joined
    log = place / "ray_head.log"
    deadline = time.monotonic() + 300
    while "Ray runtime started" not in log.read_text():
        assert time.monotonic() < deadline and head.poll() is None, log.read_text()
        time.sleep(0.1)
    batch = start("--address", address)
    wait_for_results(place, 1, batch)
    kill_all(head)
    _, errors = batch.communicate(timeout=300)
    assert batch.returncode == 1, errors
    assert "The cluster has gone away" in errors and "--resume" in errors
    assert 1 <= len(files_of(place / "out")) < 6


def test_faults_are_status_2_and_nothing_is_made(fresh_python, place):
    (place / "bad.jsonl").write_text('{"id": "a", "Grey.valeu": 1}\n{"id": "../b"}\n')
    done = fresh_python(RUN, "slow.json", "bad.jsonl", "--out", "out")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert done.stderr.splitlines()[0] == "bad.jsonl was not run:"
    assert "Line 2: its id '../b' is no plain name" in done.stderr
    (place / "bad.jsonl").write_text('{"id": "a", "Grey.valeu": 1}\n{"id": "b", "5.x": 1}\n')
    done = fresh_python(RUN, "slow.json", "bad.jsonl", "--out", "out")
    assert done.returncode == 2 and "did you mean 'value'?" in done.stderr
    assert "Line 2: Setting '5.x': there is no node '5'" in done.stderr
    assert not (place / "out").exists()
    checked = fresh_python(RUN, "slow.json", "lines.jsonl", "--out", "out", "--check")
    assert (
        checked.returncode == 0 and checked.stdout == "lines.jsonl is sound: 6 line(s) would run.\n"
    )
    assert not (place / "out").exists()


@pytest.mark.parametrize(
    ("address", "sentence"),
    [("127.0.0.1:1", "Connection refused"), ("ray://here:1", "the address is no HOST:PORT")],
)
def test_a_cluster_that_is_not_there(fresh_python, place, address, sentence):
    files = ("slow.json", "lines.jsonl", "--out", "out")
    done = fresh_python(RUN, *files, "--address", address)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert f"Cannot reach the cluster at {address}" in done.stderr and sentence in done.stderr
    assert "RAY_AUTH_TOKEN" in done.stderr


def test_without_ray_it_says_what_to_install(fresh_python, place):
    done = fresh_python(
        f"import sys; sys.modules['ray'] = None\n{RUN}", "slow.json", "lines.jsonl", "--out", "out"
    )
    assert done.returncode == 2 and "pip install rescore[batch]" in done.stderr
