"""Files of named tensors: opened for every model; written and read for saved results."""

import os
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from .files import MIB, shown, size_of

PICKLES = (".bin", ".ckpt", ".pt", ".pth")
_HEADER = 16 * MIB  # the longest list of the tensors in a file
# Entries under which training scripts store the weights.
_WRAPPERS = ("state_dict", "model_state_dict", "module", "model")


def open_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a safetensors file or a pickle, on the CPU, and a safetensors file's metadata.

    The file is memory-mapped: a tensor takes memory only when it is used. From pickles only
    tensors are loaded.

    Raises:
        ValueError: if it is no such file or is incomplete; the message says what is wrong.
    """
    try:
        size = size_of(path)
        # In blocks of 512 bytes, if the system counts them. A broken download can have holes.
        on_disk = 512 * getattr(path.stat(), "st_blocks", 0)
        if 0 < on_disk < size // 8:
            raise ValueError(f"has {size:,} bytes, of which only {on_disk:,} are on the disk")
        if path.suffix in PICKLES:
            return _open_pickle(path, size), {}
        return _open_safetensors(path, size)
    except OSError as error:
        raise ValueError(f"{path.name} cannot be opened ({error.strerror})") from error
    except ValueError as error:
        raise ValueError(shown(f"{path.name} {error}")) from error


def _open_safetensors(path: Path, size: int) -> tuple[dict[str, Tensor], dict[str, str]]:
    with path.open("rb") as file:
        header = int.from_bytes(file.read(8), "little")
    if header > min(size, _HEADER):
        raise ValueError(f"({size:,} bytes) is damaged (a header of {header:,} bytes)")
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}
    # The library raises its own exception for bad contents, and built-in ones for mapping a file.
    except Exception as error:
        raise ValueError(f"({size:,} bytes) is damaged ({error})") from error


def _open_pickle(path: Path, size: int) -> dict[str, Tensor]:
    packed = zipfile.is_zipfile(path)
    try:
        plain = not packed or _is_stored(path, size)
        found = (
            torch.load(path, map_location="cpu", weights_only=True, mmap=packed) if plain else {}
        )
    # torch and zipfile raise a different exception for each kind of damage.
    except Exception as error:
        raise ValueError("is damaged, or a pickle that holds more than tensors") from error
    if not plain:
        raise ValueError("is compressed, as weights never are")
    tensors = {name: value for name, value in _unwrapped(found).items() if isinstance(name, str)}
    return {name: _whole(name, x) for name, x in tensors.items() if isinstance(x, Tensor)}


def _is_stored(path: Path, size: int) -> bool:
    """Whether the files of an archive are uncompressed, and together no larger than it."""
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    stored = all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)
    return stored and sum(entry.file_size for entry in entries) <= size


def _unwrapped(found: Any) -> dict[Any, Any]:
    """The weights themselves, which may be one or two dictionaries deep."""
    for _ in range(3):
        if not isinstance(found, dict):
            raise ValueError(f"holds a {type(found).__name__} and no weights by name")
        inner = [found[name] for name in _WRAPPERS if isinstance(found.get(name), dict)]
        if not inner:
            return found
        found = inner[0]
    raise ValueError("holds no weights by name, only dictionaries in dictionaries")


def _whole(name: str, tensor: Tensor) -> Tensor:
    """The tensor, if all of its numbers are stored in the file."""
    tensor = tensor.detach()
    if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
        raise ValueError(f"has {name} as no plain tensor")
    if tensor.nbytes > tensor.untyped_storage().nbytes():
        raise ValueError(f"has {name} larger than what is stored of it")
    return tensor


def write_tensors(
    path: Path, what: str, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> None:
    """Write tensors and metadata to a safetensors file that holds `what`, such as "embeddings".

    A temporary file is written first, and replaces the old file when all of it is on the disk. If
    anything fails before that, the old file stays as it was.

    Raises:
        OSError: if it cannot be written, with what to do.
    """
    content = save(
        {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
        metadata={**metadata, "format": _format(what)},
    )
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".part")
        temporary = Path(name)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        kept = " The file that was there is as it was." if path.is_file() else ""
        raise OSError(
            f"The {what} ({len(content) / 2**20:.1f} MiB) cannot be written to {path}: "
            f"{error.strerror or error}.{kept} Make room or choose another name, and queue again."
        ) from error


def read_tensors(path: Path, what: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors, on the CPU, and the metadata of a file that `write_tensors` has written.

    Raises:
        ValueError: if it is missing, damaged, or holds something else.
    """
    if not path.is_file():
        raise ValueError(f"There is no file {path.name} in {path.parent}. Save the {what} first.")
    try:
        tensors, metadata = open_tensors(path)
    except ValueError as error:
        raise ValueError(f"{error}. Save the {what} again.") from error
    if metadata.get("format") != _format(what):
        raise ValueError(
            f"{path.name} holds no {what} of ReScore. Choose a file that was saved as such."
        )
    return tensors, metadata


def _format(what: str) -> str:
    return f"rescore {what} 1"
