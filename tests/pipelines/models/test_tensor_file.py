"""Tensors on disk: exactly what was saved, and never half of it."""

import os
import subprocess
import sys
import time

import pytest
import torch
from rescore.pipelines.models.tensor_file import read_tensors, write_tensors
from safetensors.torch import save_file

WHAT = "tuned weights"
TENSORS = {
    "a.weight": torch.arange(12.0).view(3, 4),
    "b": torch.tensor([float("nan"), -0.0, 1e-40]),
}


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().numpy().tobytes()


def test_what_is_written_is_read_back_bit_for_bit(tmp_path):
    path = tmp_path / "new folder" / "tuned.safetensors"
    write_tensors(path, WHAT, TENSORS, {"prompt": "a red circle, 50 % \u00e9"})
    tensors, metadata = read_tensors(path, WHAT)
    assert tensors.keys() == TENSORS.keys()
    assert all(bits(tensor) == bits(TENSORS[name]) for name, tensor in tensors.items())
    assert metadata["prompt"] == "a red circle, 50 % \u00e9"
    assert [file.name for file in path.parent.iterdir()] == ["tuned.safetensors"]


def test_views_and_transposed_tensors_are_written(tmp_path):
    wide = torch.arange(12.0).view(3, 4)
    write_tensors(tmp_path / "t", WHAT, {"a": wide.T, "b": wide[1:]}, {})
    tensors, _ = read_tensors(tmp_path / "t", WHAT)
    assert torch.equal(tensors["a"], wide.T)
    assert torch.equal(tensors["b"], wide[1:])


def test_a_new_file_takes_the_place_of_the_old(tmp_path):
    path = tmp_path / "tuned"
    write_tensors(path, WHAT, TENSORS, {"step": "1"})
    write_tensors(path, WHAT, {"c": torch.ones(2)}, {"step": "2"})
    tensors, metadata = read_tensors(path, WHAT)
    assert (list(tensors), metadata["step"]) == (["c"], "2")


@pytest.mark.parametrize("stage", ["fsync", "replace"])
def test_a_failure_leaves_the_old_file_whole(tmp_path, monkeypatch, stage):
    path = tmp_path / "tuned"
    write_tensors(path, WHAT, TENSORS, {"step": "1"})
    before = path.read_bytes()

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, stage, fail)
    with pytest.raises(OSError, match=r"No space left on device\. The file that was there is as"):
        write_tensors(path, WHAT, {"c": torch.ones(2)}, {})
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["tuned"]


@pytest.mark.skipif(sys.platform == "win32", reason="limits of a process are POSIX")
def test_a_disk_that_is_full(tmp_path, fresh_python):
    """A real one as far as the writer can tell: the system refuses to let the file grow."""
    path = tmp_path / "tuned"
    write_tensors(path, WHAT, TENSORS, {"step": "1"})
    before = path.read_bytes()
    done = fresh_python(
        "import resource, sys, torch, pathlib\n"
        "from rescore.pipelines.models.tensor_file import write_tensors\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "try:\n"
        "    file = pathlib.Path(sys.argv[1])\n"
        "    write_tensors(file, 'tuned weights', {'a': torch.ones(10_000)}, {})\n"
        "except OSError as error:\n"
        "    print(error)\n",
        str(path),
    )
    assert "cannot be written" in done.stdout and "Make room" in done.stdout, done.stderr
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["tuned"]


ENDLESS_WRITER = """
import pathlib, runpy, sys
runpy.run_path(sys.argv[2])
import torch
from rescore.pipelines.models.tensor_file import write_tensors
step = 0
while True:
    step += 1
    tensor = torch.full((500_000,), float(step))
    write_tensors(pathlib.Path(sys.argv[1]), "tuned weights", {"a": tensor}, {"step": str(step)})
"""


@pytest.mark.parametrize("delay", [0.0, 0.013, 0.031])
def test_a_writer_that_is_killed(tmp_path, root, delay):
    """Whenever the kill comes, the file is one of those that were written as a whole."""
    path = tmp_path / "tuned"
    importable = root / "tests" / "importable.py"
    with subprocess.Popen([sys.executable, "-c", ENDLESS_WRITER, path, importable]) as writer:
        while not path.is_file() and writer.poll() is None:
            time.sleep(0.01)
        time.sleep(delay)
        writer.kill()
    tensors, metadata = read_tensors(path, WHAT)
    assert torch.equal(tensors["a"], torch.full((500_000,), float(metadata["step"])))


def test_what_is_something_else_is_told(tmp_path):
    with pytest.raises(ValueError, match="There is no file"):
        read_tensors(tmp_path / "none", WHAT)
    save_file(TENSORS, tmp_path / "other")
    with pytest.raises(ValueError, match="other holds no tuned weights of ReScore"):
        read_tensors(tmp_path / "other", WHAT)
    (tmp_path / "text").write_text("not a tensor")
    with pytest.raises(ValueError, match=r"text \(12 bytes\) is damaged .a header of 7,310"):
        read_tensors(tmp_path / "text", WHAT)
    write_tensors(tmp_path / "cut", WHAT, TENSORS, {})
    (tmp_path / "cut").write_bytes((tmp_path / "cut").read_bytes()[:-5])
    with pytest.raises(ValueError, match=r"cut \([\d,]+ bytes\) is damaged"):
        read_tensors(tmp_path / "cut", WHAT)
    write_tensors(tmp_path / "embeddings", "embeddings", TENSORS, {})
    with pytest.raises(ValueError, match="embeddings holds no tuned weights of ReScore"):
        read_tensors(tmp_path / "embeddings", WHAT)
