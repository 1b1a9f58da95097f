"""The output folder: a line is there whole or not at all, and a folder belongs to one batch."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from rescore.headless.batch import results as results_module
from rescore.headless.batch.manifest import Line
from rescore.headless.errors import BatchError, WorkflowError

pytest.importorskip("ray", reason="Ray has no wheel for this Python and system")
opened = results_module.opened

GRAPH, LINE = {"1": {"class_type": "X"}}, Line(1, "a")


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def test_a_line_and_its_record(out):
    with opened(out, GRAPH, resume=False) as results:
        assert results.record("a") is None
        folder = results.publish(LINE, {"sub/x.bin": b"1", "y.bin": b""}, {"id": "a"})
        assert results.record("a")["files"].keys() == {"sub/x.bin", "y.bin"}
    assert folder == out / "results" / "a"
    assert (folder / "sub" / "x.bin").read_bytes() == b"1"
    assert json.loads((folder / "record.json").read_text()) == {
        "id": "a",
        "files": {
            "sub/x.bin": "6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b",
            "y.bin": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        },
    }
    assert list((out / ".parts").iterdir()) == []


def test_a_failure_goes_when_the_line_is_done(out):
    with opened(out, GRAPH, resume=False) as results:
        for sentence in ("first", "second"):
            results.fail(LINE, {"sentence": sentence})
        assert results.failure("a") == {"sentence": "second"}
        results.publish(LINE, {}, {})
        assert results.failure("a") is None


def test_what_is_written_is_never_replaced(out):
    with opened(out, GRAPH, resume=False) as results:
        results.publish(LINE, {"x": b"mine"}, {})
        with pytest.raises(BatchError, match="go on with --resume"):
            results.publish(LINE, {"x": b"other"}, {})
        assert (out / "results" / "a" / "x").read_bytes() == b"mine"


def test_a_folder_is_of_one_batch(out):
    with opened(out, GRAPH, resume=False) as results:
        results.publish(LINE, {}, {"id": "a"})
        batch = results.batch
    with pytest.raises(WorkflowError, match=r"holds this batch already\. Go on with --resume"):
        opened(out, GRAPH, resume=False).__enter__()
    with pytest.raises(WorkflowError, match="holds results of another graph"):
        opened(out, {"2": {}}, resume=True).__enter__()
    with opened(out, GRAPH, resume=True) as results:
        assert results.batch == batch and results.record("a")["id"] == "a"


def test_results_of_another_version_are_not_mixed(out, monkeypatch):
    with opened(out, GRAPH, resume=False):
        pass
    other = {**results_module.versions(), "code": "0" * 16}
    monkeypatch.setattr(results_module, "versions", lambda: other)
    with pytest.raises(WorkflowError, match="begun with another version of rescore"):
        opened(out, GRAPH, resume=True).__enter__()


def test_a_folder_of_something_else_is_left_alone(out):
    out.mkdir()
    (out / "thesis.txt").write_text("mine")
    with pytest.raises(WorkflowError, match="holds other things and no batch"):
        opened(out, GRAPH, resume=True).__enter__()
    assert {entry.name for entry in out.iterdir()} == {"thesis.txt", ".lock"}


def test_a_folder_that_cannot_be(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(WorkflowError, match="Cannot make the output folder"):
        opened(tmp_path / "file" / "out", GRAPH, resume=False).__enter__()


def test_one_batch_at_a_time(out, fresh_python, root):
    code = f"""
from pathlib import Path
from rescore.headless.batch.results import opened
try:
    opened(Path({str(out)!r}), {GRAPH!r}, resume=True).__enter__()
except Exception as error:
    print(error)
"""
    with opened(out, GRAPH, resume=False):
        assert "Another batch is writing to" in fresh_python(code).stdout
    assert fresh_python(code).stdout == ""


def test_a_batch_that_was_killed_leaves_nothing_that_counts(out, fresh_python):
    code = f"""
import os
from pathlib import Path
from rescore.headless.batch import results
from rescore.headless.batch.manifest import Line
results.os.rename = lambda *_: os.kill(os.getpid(), 9)
with results.opened(Path({str(out)!r}), {GRAPH!r}, resume=False) as folder:
    folder.publish(Line(1, "a"), {{"x": b"half"}}, {{}})
"""
    if sys.platform == "win32":
        pytest.skip("POSIX signals")
    assert fresh_python(code).returncode == -9
    assert len(list((out / ".parts").iterdir())) == 1
    with opened(out, GRAPH, resume=True) as results:
        assert results.record("a") is None
        assert list((out / ".parts").iterdir()) == []
        results.publish(LINE, {"x": b"whole"}, {})


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 200 KiB; a skip where this user cannot mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = shutil.which("mount")
    if mount is None or not hasattr(os, "geteuid") or os.geteuid() != 0:
        pytest.skip("only root can mount a small file system")
    command = [mount, "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(disk)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("this system does not let root mount a small file system")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk(small_disk):
    with opened(small_disk / "out", GRAPH, resume=False) as results:
        results.publish(LINE, {"x": bytes(50_000)}, {})
        with pytest.raises(
            BatchError, match="the disk is full: make room, then go on with --resume"
        ):
            results.publish(Line(2, "b"), {"x": bytes(50_000), "y": bytes(150_000)}, {})
        assert results.record("b") is None and results.record("a") is not None
        assert list((small_disk / "out" / ".parts").iterdir()) == []
        results.publish(Line(2, "b"), {"x": bytes(50_000)}, {})


def test_a_record_that_is_no_json_is_named(out):
    with opened(out, GRAPH, resume=False) as results:
        results.publish(LINE, {}, {})
        (out / "results" / "a" / "record.json").write_text("{")
        with pytest.raises(WorkflowError, match=r"record\.json cannot be read .* Remove it"):
            results.record("a")
