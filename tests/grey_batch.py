"""A graph that runs in no time, lines for it, and what a batch of them has written."""

from pathlib import Path

from rescore.headless.batch.manifest import Line

# Nothing is told to anybody, and workers wait for other processes no longer than the tests do.
QUIET_RAY = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
# A grey picture: of core nodes alone, so that a line takes milliseconds.
GREY = {
    "1": {
        "class_type": "SolidMask",
        "inputs": {"value": 0.5, "width": 11, "height": 7},
        "_meta": {"title": "Grey"},
    },
    "2": {"class_type": "MaskToImage", "inputs": {"mask": ["1", 0]}},
    "3": {
        "class_type": "SaveImage",
        "inputs": {"images": ["2", 0], "filename_prefix": "grey"},
        "_meta": {"title": "Save"},
    },
}


def grey_lines(count: int) -> list[Line]:
    """Lines of `GREY`, each of another grey."""
    return [Line(i + 1, f"g{i}", "", {"Grey.value": (i + 1) / 100}) for i in range(count)]


def files_of(out: Path) -> dict[str, bytes]:
    """What the lines of a batch have written, by path; records left out."""
    folder = out / "results"
    files = (file for file in sorted(folder.rglob("*")) if file.is_file())
    return {
        file.relative_to(folder).as_posix(): file.read_bytes()
        for file in files
        if file.name != "record.json"
    }
