"""What happens to files on their way: bytes and JSON trees, damaged in one of many ways."""

import struct
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from random import Random
from typing import Any, NamedTuple


class Place(NamedTuple):
    """The folders of a case, and a file and an address outside that nothing may reach."""

    root: Path
    outside: Path
    port: int

    @property
    def input(self) -> Path:
        return self.root / "input"

    @property
    def models(self) -> Path:
        return self.root / "models"

    @property
    def out(self) -> Path:
        return self.root / "out"


HOSTILE_NUMBERS = (0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xFFFF, 0x10000)


def damaged_bytes(random: Random, data: bytes, other: bytes) -> tuple[bytes, str]:
    """A file changed in one way: cut, flipped, spliced with another, or lying about sizes."""
    at, length = random.randrange(len(data)), random.randrange(1, 1 + len(data) // 2)
    way = random.choice(["cut", "flip", "number", "drop", "repeat", "splice", "empty", "zeros"])
    if way == "cut":
        return data[:at], f"cut off at byte {at}"
    if way == "flip":
        changed = bytearray(data)
        for _ in range(random.choice([1, 3, 20])):
            changed[random.randrange(len(data))] ^= 1 << random.randrange(8)
        return bytes(changed), "with flipped bits"
    if way == "number":
        # Sizes and counts stand in the first bytes of most formats.
        at = random.choice([at, at % 64, at % 512])
        number = struct.pack(random.choice(["<I", ">I", "<Q", ">H"]), random.choice([1, 0xFFFF]))
        if len(number) == 4:
            number = struct.pack(random.choice(["<I", ">I"]), random.choice(HOSTILE_NUMBERS))
        return data[:at] + number + data[at + len(number) :], f"with a number at byte {at}"
    if way == "drop":
        return data[:at] + data[at + length :], f"without {length} bytes at {at}"
    if way == "repeat":
        return data[:at] + data[at : at + length] + data[at:], f"with bytes at {at} twice"
    if way == "splice":
        return data[:at] + other[min(at, len(other) - 1) :], f"going on as another at byte {at}"
    return (b"", "empty") if way == "empty" else (bytes(len(data)), "of zeros")


def hostile_values(place: Place) -> list[Any]:
    """Values that no honest file holds in most places."""
    return [
        None, True, False, -1, 0, 1, 2, 3.5, 2**31, 2**63, 10**30, -1e308, 1e-300, "", " ", [], {},
        [[]], "a" * 100_000, "\x1b[31m\x07\0", "\u202e\ud7ff", "../" * 12 + "etc/passwd",
        "/dev/zero", "/proc/self/environ", str(place.outside), f"../../{place.outside.name}",
        f"http://127.0.0.1:{place.port}/x", f"file://{place.outside}", "CON", "a\\b", "a/b",
        "${HOME}", "%s%n", "__class__", ["1", 0], [str(place.outside)], {"": None},
    ]  # fmt: skip


def damaged_json(random: Random, tree: Any, place: Place) -> tuple[Any, str]:
    """A JSON tree with one to three entries replaced, gone, added or nested."""
    told = []
    for _ in range(random.choice([1, 1, 2, 3])):
        spots = list(_spots(tree))
        if not spots:
            return random.choice(hostile_values(place)), "another thing altogether"
        holder, key = random.choice(spots)
        way = random.choice(["value", "value", "value", "gone", "added", "nested", "swapped"])
        if way == "value":
            holder[key] = random.choice(hostile_values(place))
        elif way == "gone":
            del holder[key]
        elif way == "added" and isinstance(holder, dict):
            holder[random.choice(_ADDED)] = random.choice(hostile_values(place))
        elif way == "nested":
            for _ in range(random.choice([1, 40, 200])):
                holder[key] = [holder[key]]
        else:
            other, there = random.choice(spots)
            if key in holder if isinstance(holder, dict) else key < len(holder):
                # A copy: what holds this place would otherwise hold itself, which no file can.
                holder[key] = deepcopy(other.get(there) if isinstance(other, dict) else holder[key])
        told.append(f"{key!r} {way}")
    return tree, ", ".join(told)


_ADDED = (
    "tokenizer_file", "vocab_file", "merges_file", "_class_name", "auto_map", "_name_or_path",
    "model_type", "architectures", "torch_dtype", "quantization_config", "class_type", "inputs",
    "_meta", "is_changed", "weights", "num_train_timesteps", "trained_betas",
)  # fmt: skip


def _spots(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Every place of a tree: what holds it, and under which key."""
    keys = tree if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ()
    for key in keys:
        yield tree, key
        yield from _spots(tree[key])
