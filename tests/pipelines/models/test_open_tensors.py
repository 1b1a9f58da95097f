"""Files of tensors from strangers: what lies, has no end, or would take more than it holds."""

import json
import os
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from rescore.pipelines.models.tensor_file import open_tensors
from torch import nn


def pickled(path, content, **options):
    torch.save(content, path, **options)
    return path


def test_pickles_are_tensors_by_name_and_mapped(tmp_path):
    weights = {"a": torch.arange(7.0), "b": nn.Parameter(torch.ones(2, 3)), "step": 5, 3: "c"}
    for wrapped in (weights, {"state_dict": weights, "epoch": 2}, {"model": {"module": weights}}):
        found, metadata = open_tensors(pickled(tmp_path / "x.ckpt", wrapped))
        assert metadata == {} and list(found) == ["a", "b"]
        assert all(torch.equal(found[name], weights[name]) for name in found)
        if sys.platform == "linux":
            assert str(tmp_path / "x.ckpt") in Path("/proc/self/maps").read_text()
    old = pickled(tmp_path / "x.pth", weights, _use_new_zipfile_serialization=False)
    assert torch.equal(open_tensors(old)[0]["a"], weights["a"])


def endless():
    found = {"a": torch.ones(1)}
    found["state_dict"] = found
    return found


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (endless(), "only dictionaries in dictionaries"),
        ({"state_dict": endless()}, "only dictionaries in dictionaries"),
        ([torch.ones(1)], "holds a list and no weights by name"),
        (torch.ones(1), "holds a Tensor and no weights by name"),
        ({"a": torch.ones(1).expand(2**40)}, "has a larger than what is stored of it"),
        ({"a": torch.ones(2, 2).to_sparse()}, "has a as no plain tensor"),
        ({"a": torch.ones(2**40, device="meta")}, "has a as no plain tensor"),
        ({"a": Path()}, "a pickle that holds more than tensors"),
    ],
)
def test_hostile_pickles_are_told(tmp_path, content, complaint):
    with pytest.raises(ValueError, match=rf"^x\.ckpt .*{complaint}"):
        open_tensors(pickled(tmp_path / "x.ckpt", content))


def test_a_zip_bomb_is_not_unpacked(tmp_path):
    """A thousandth of what is in it; also where the list of what is in it says otherwise."""
    file = pickled(tmp_path / "x.bin", {"a": torch.zeros(2**22)})
    with (
        zipfile.ZipFile(file) as archive,
        zipfile.ZipFile(tmp_path / "bomb.bin", "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for entry in archive.infolist():
            bomb.writestr(entry.filename, archive.read(entry))
    assert (tmp_path / "bomb.bin").stat().st_size < 2**16
    with pytest.raises(ValueError, match="is compressed, as weights never are"):
        open_tensors(tmp_path / "bomb.bin")
    data = bytearray(file.read_bytes())
    at = data.index(b"PK\x01\x02")  # the first entry in the list of what is in it
    data[at + 24 : at + 28] = (2**32 - 2).to_bytes(4, "little")
    (tmp_path / "lying.bin").write_bytes(data)
    with pytest.raises(ValueError, match=r"^lying\.bin "):
        open_tensors(tmp_path / "lying.bin")
    data[at : at + 4] = b"PK\x00\x00"
    (tmp_path / "broken.bin").write_bytes(data)
    with pytest.raises(ValueError, match=r"^broken\.bin is damaged, or a pickle"):
        open_tensors(tmp_path / "broken.bin")


def test_a_legacy_pickle_that_lies_about_its_sizes_is_told(tmp_path):
    file = pickled(tmp_path / "x.pt", {"a": torch.ones(5)}, _use_new_zipfile_serialization=False)
    data = file.read_bytes()
    assert data.count(b"K\x05") >= 1  # the number of elements
    file.write_bytes(data.replace(b"K\x05", b"\x8a\x06\x00\x00\x00\x00\x00\x01"))
    with pytest.raises(ValueError, match=r"^x\.pt is damaged, or a pickle"):
        open_tensors(file)


def safetensors(path, header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((length or len(text)).to_bytes(8, "little") + text + data)
    return path


def entry(shape, begin, end, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    ("header", "complaint"),
    [
        ({"a": entry([8], 0, 32)}, "bytes. is damaged"),  # of which 16 are there
        ({"a": entry([2**40], 0, 2**42)}, "bytes. is damaged"),
        ({"a": entry([2**62, 2**62], 0, 16)}, "bytes. is damaged .*overflow"),
        ({"a": entry([-4], 0, 16)}, "bytes. is damaged"),
        ({"a": entry([4], 16, 0)}, "bytes. is damaged"),
        ({"a": entry([4], 0, 16), "b": entry([4], 0, 16)}, "bytes. is damaged"),
        ({"a": entry([4], 0, 16, "F9\x1b[31m")}, r"F9\\x1b\[31m"),
        (b'{"a": {', "bytes. is damaged"),
        (b"[" * 100_000, "bytes. is damaged"),
        ([], "bytes. is damaged"),
    ],
)
def test_lying_headers_are_told(tmp_path, header, complaint):
    with pytest.raises(ValueError, match=rf"^x\.safetensors .*{complaint}"):
        open_tensors(safetensors(tmp_path / "x.safetensors", header, b"\x00" * 16))


@pytest.mark.parametrize("length", [2**24 + 1, 2**63 - 1, 2**64 - 1])
def test_a_header_without_end_is_not_read(tmp_path, length):
    file = safetensors(tmp_path / "x.safetensors", b"{}", length=length)
    with file.open("ab") as opened:
        opened.truncate(2**25)
    with pytest.raises(ValueError, match=r"on the disk|a header of [\d,]+ bytes"):
        open_tensors(file)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows writes what is between holes")
@pytest.mark.parametrize("size", [2**30, 2**42])
def test_a_file_of_holes_is_told(tmp_path, size):
    header = {"a": entry([size // 4], 0, size)}
    file = safetensors(tmp_path / "x.safetensors", header)
    with file.open("ab") as opened:
        opened.truncate(file.stat().st_size + size)
    with pytest.raises(ValueError, match=r"bytes, of which only [\d,]+ are on the disk"):
        open_tensors(file)


def test_only_ordinary_files_are_opened(tmp_path):
    with pytest.raises(ValueError, match=r"none cannot be opened"):
        open_tensors(tmp_path / "none")
    with pytest.raises(ValueError, match="is no ordinary file"):
        open_tensors(tmp_path)
    if sys.platform != "win32":
        os.mkfifo(tmp_path / "x.ckpt")
        with pytest.raises(ValueError, match="is no ordinary file"):
            open_tensors(tmp_path / "x.ckpt")
