"""Digests of the fixed suites and of what seeds draw. Run this file to write golden.json anew.

A changed digest means that old figures, and models trained on the old world, no longer apply.
"""

import hashlib
import json
import runpy
from dataclasses import asdict
from pathlib import Path

HERE = Path(__file__).resolve().parent
FILE = HERE / "golden.json"
_STILL = [("pan", (0.0, 0.0)), ("texture", 0.0)]  # as in every scene before there were others


def digests() -> dict[str, str]:
    """A digest of every suite, of the prompts and of training scenes; means of rendered pixels."""
    from rescore.shapeworld.edits import HELD_OUT_SEEDS, SPLITS, SUITES, prompts, suite
    from rescore.shapeworld.render import render
    from rescore.shapeworld.scene import sample_scene

    found = {
        f"{name}/{split}": digest(asdict(edit) for edit in suite(name, 24, split=split))
        for name in SUITES
        for split in SPLITS
    }
    training = [sample_scene(HELD_OUT_SEEDS + index) for index in range(24)]
    found["prompts"] = digest(asdict(scene) for scene in prompts(24))
    found["training"] = digest(asdict(scene) for scene in training)
    # Blocks of a few scenes: coarse enough for another machine's last bit, not for another picture.
    for scene in training[:6]:
        rendering = render(scene)
        found[f"pixels of {rendering.caption}"] = f"{float(rendering.clip.double().mean()):.5f}"
    return found


def digest(items) -> str:
    """SHA-256 of plain data, with numbers to six places."""
    text = json.dumps([rounded(item) for item in items], sort_keys=True)
    return hashlib.sha256(text.encode("ascii")).hexdigest()[:16]


def rounded(item):
    """Numbers to six places, without what came into the world later and is not seen."""
    if isinstance(item, float):
        return f"{item:.6f}"
    if isinstance(item, dict):
        return {key: rounded(value) for key, value in item.items() if (key, value) not in _STILL}
    return [rounded(value) for value in item] if isinstance(item, (list, tuple)) else item


if __name__ == "__main__":
    runpy.run_path(str(HERE.parent / "importable.py"))
    FILE.write_text(json.dumps(digests(), indent=1) + "\n", "utf-8")
