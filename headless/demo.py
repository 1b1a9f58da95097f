"""The demo: a shipped graph edits a shipped clip, and the result is held against the truth.

python -m rescore.headless.demo --out DIR [--steps N]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

from .runner import run_workflow
from .workflow import read_workflow

ROOT = Path(__file__).resolve().parent.parent
GRAPH = "delta_denoising"
CLIP = "red_circle"  # of shapeworld.showcase, and the file that the graph loads


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m rescore.headless.demo", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--steps", type=int, help="optimisation steps instead of the graph's own")
    return parser


def save_strip(clips: dict[str, object], file: Path, *, zoom: int = 2) -> None:
    """Write clips `[f, h, w, 3]` in 0..1 as one picture: a row each, a column for each frame."""
    import numpy as np
    from einops import rearrange
    from PIL import Image

    rows = [rearrange(clip.numpy(), "f h w c -> h (f w) c") for clip in clips.values()]
    pixels = (np.concatenate(rows).clip(0, 1) * 255).round().astype(np.uint8)
    picture = Image.fromarray(pixels)
    size = picture.width * zoom, picture.height * zoom
    picture = picture.resize(size, Image.Resampling.NEAREST)
    picture.save(file, quality=90)  # of JPEG


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the graph, save the strip, print what was done and how well."""
    options = make_parser().parse_args(arguments)
    from ..shapeworld.edits import edited
    from ..shapeworld.score import score
    from ..shapeworld.showcase import SHOWCASE

    edit = SHOWCASE[CLIP]
    truth = edited(edit)
    print(f'source: "{truth.source_prompt}"\ntarget: "{truth.target_prompt}"')

    began = time.monotonic()
    result = run_workflow(
        read_workflow(ROOT / "workflows" / "api" / f"{GRAPH}.json"),
        out=options.out,
        inputs=[ROOT / "workflows" / "input"],
        overrides={}
        if options.steps is None
        else {"ReScoreScoreDistillation.steps": options.steps},
        keep=["ReScoreEditedVideo"],
        report=print,
    )
    _, clip = result.values["ReScoreEditedVideo"]
    strip = options.out / "strip.png"
    save_strip({"source": truth.source.clip, "edit": clip, "truth": truth.target.clip}, strip)

    before, after = score(truth.source.clip, edit), score(clip, edit)
    print(f"edited in {time.monotonic() - began:.1f} s")
    print(f"    {'':32} source    edit")
    for label, name, unit in (
        ("PSNR to the truth where it differs", "psnr_edit", "dB"),
        ("PSNR to the source elsewhere", "psnr_keep", "dB"),
        (f"{edit.attribute} reads as asked for", "hit", ""),
        ("other attributes as they were", "kept", ""),
    ):
        values = (float(getattr(scores, name)) for scores in (before, after))
        print(f"    {label:36}" + "  ".join(f"{value:6.2f}" for value in values) + f" {unit}")
    print(f"rows of {strip}: source, edit, truth")


if __name__ == "__main__":
    main()
