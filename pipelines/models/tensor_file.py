"""Results as files: named tensors and the words that say what they belong to, written at once."""

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor


def write_tensors(
    path: Path, what: str, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> None:
    """Write tensors and metadata to a safetensors file that holds `what`, such as "embeddings".

    The file is made beside the old one and takes its place when all of it is on the disk: whatever
    happens before leaves the old file as it was.

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
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != _format(what):
                raise ValueError(
                    f"{path.name} holds no {what} of ReScore. Choose a file that was saved as such."
                )
            return {name: file.get_tensor(name) for name in file.keys()}, metadata
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path.name} is damaged ({error}). Save the {what} again.") from error


def _format(what: str) -> str:
    return f"rescore {what} 1"
