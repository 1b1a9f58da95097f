"""Tuned weights as files: tensors and the words that say what they belong to, written at once."""

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

FORMAT = "rescore tuned weights 1"


def write_tuned(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors and metadata to a safetensors file.

    The file is made beside the old one and takes its place when all of it is on the disk: whatever
    happens before leaves the old file as it was.

    Raises:
        OSError: if it cannot be written, with what to do.
    """
    ready = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    content = save(ready, metadata={**metadata, "format": FORMAT})
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
            f"The tuned weights ({len(content) / 2**20:.1f} MiB) cannot be written to {path}: "
            f"{error.strerror or error}.{kept} Make room or choose another name, and queue again; "
            "nothing learned is lost while the graph stays open."
        ) from error


def read_tuned(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors, on the CPU, and the metadata of a file that `write_tuned` has written.

    Raises:
        ValueError: if it is missing, damaged, or something else.
    """
    wanted = "Choose a file that Save Tuned Weights has written."
    if not path.is_file():
        raise ValueError(f"There is no file {path}. {wanted}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise ValueError(f"{path.name} holds no tuned weights of ReScore. {wanted}")
            return {name: file.get_tensor(name) for name in file.keys()}, metadata
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path.name} is damaged ({error}). {wanted}") from error
