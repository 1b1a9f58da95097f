"""Files that may come from strangers: checked before they are opened, read up to a size limit.

Every JSON file of a model is opened by `open_json`, every file of tensors by
`tensor_file.open_tensors`.
"""

import json
import math
import stat
from pathlib import Path
from typing import Any

MIB = 2**20
_SETTINGS = 4 * MIB  # the longest JSON of a model's settings
_LONGEST = 400  # characters of a message


def shown(text: str) -> str:
    """A text, ready for a message: invisible characters are escaped, and long texts are cut."""
    seen = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return seen if len(seen) <= _LONGEST else f"{seen[:_LONGEST]}..."


def size_of(path: Path) -> int:
    """The size of an ordinary file; links are followed.

    Raises:
        FileNotFoundError: if there is none.
        OSError: if it cannot be read.
        ValueError: if it is a folder, a device or a pipe.
    """
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise ValueError("is no ordinary file")
    return found.st_size


def read_bytes(path: Path, limit: int) -> bytes:
    """The content of an ordinary file of at most `limit` bytes.

    Raises:
        OSError, ValueError: as `size_of`, and if the file is larger.
    """
    if (size := size_of(path)) > limit:
        raise ValueError(f"has {size:,} bytes, and {limit:,} are the most that make sense")
    return path.read_bytes()


def open_json(path: Path, limit: int = _SETTINGS) -> Any:
    """The content of a JSON file with finite numbers only, and no name twice in one object.

    Raises:
        OSError, ValueError: as `read_bytes`, and if it is no such JSON.
    """
    try:
        return json.loads(
            read_bytes(path, limit).decode("utf-8-sig"),
            parse_constant=_no_number,
            parse_float=_finite,
            object_pairs_hook=_once,
        )
    except RecursionError:
        raise ValueError("is nested too deep") from None


def _no_number(name: str) -> float:
    raise ValueError(f"has {name} for a number")


def _finite(digits: str) -> float:
    number = float(digits)
    return number if math.isfinite(number) else _no_number(digits)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"has {name!r} twice in one object")
        found[name] = value
    return found
