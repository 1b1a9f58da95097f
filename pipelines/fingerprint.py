"""A short name for the inputs of a run: equal for equal settings, words and tensors."""

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from hashlib import sha256
from typing import Any

import torch


def fingerprint(*parts: Any) -> str:
    """A short name of numbers, words, tensors, and dataclasses and containers of them.

    Tensors count as equal only if format, shape and every bit are equal, on whatever device.

    Raises:
        TypeError: for anything else, whose changes could go unnoticed.
    """
    digest = sha256()
    for piece in _pieces(parts):
        digest.update(piece)
    return digest.hexdigest()[:16]


def _pieces(part: Any) -> Iterator[bytes]:
    """The bytes of a part. A container begins with its length, so that no two can look the same."""
    if isinstance(part, torch.Tensor):
        yield repr((str(part.dtype), tuple(part.shape))).encode()
        yield part.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
    elif is_dataclass(part):
        yield from _pieces((type(part).__name__, *(getattr(part, f.name) for f in fields(part))))
    elif isinstance(part, dict):
        yield from _pieces(tuple(part.items()))
    elif isinstance(part, tuple | list):
        yield f"{len(part)} of ".encode()
        for inner in part:
            yield from _pieces(inner)
    elif isinstance(part, str | int | float | None):
        yield f"{part!r}, ".encode()
    else:
        raise TypeError(f"{type(part).__name__} has no fingerprint.")
