"""A short name for whatever shapes a result: equal for equal settings, words and tensors."""

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from hashlib import sha256
from typing import Any

import torch


def fingerprint(*parts: Any) -> str:
    """The name of some numbers, words, tensors, and of dataclasses and containers of them.

    Tensors are equal only bit for bit, and in the same format and shape; where they lie is one.

    Raises:
        TypeError: for anything else, which could differ without being seen.
    """
    digest = sha256()
    for piece in _pieces(parts):
        digest.update(piece)
    return digest.hexdigest()[:16]


def _pieces(part: Any) -> Iterator[bytes]:
    """The bytes of a part. A container tells its length first: none runs into what follows it."""
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
