"""Worlds in which the papers' claims can be true, and whether they are true there.

    python benchmarks/worlds.py                     16 clips a world; goes on where it was stopped
    python benchmarks/worlds.py --worlds slow camera --rows DDS "+ flow smoothing" --clips 2
    python benchmarks/worlds.py --clips 0           writes the page from what is there

For every claim of a paper there is a row with what it is about and one without, in each world that
leaves it something to do. Settings are those of the shipped graphs, edits those of colour, shape
and background of the split "test" whose object moves straight on; all move by whole pixels, so that
the truth is exact and does not flicker.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from against_peers import runs_of_methods
from kept import Kept, asking, compute
from measuring import (
    Column,
    beyond_chance,
    change,
    each,
    made,
    markdown,
    means,
    shown,
    write_page,
)
from rescore.headless.demo import save_strip
from rescore.shapeworld.edits import Edit, edited
from rescore.shapeworld.oracle import read
from rescore.shapeworld.scene import Scene, path
from rescore.shapeworld.score import Estimate, estimate, score
from torch import Tensor
from worlds_rows import (
    LEVELS,
    WORLDS,
    barely_trained,
    directed,
    distilled,
    edit_of,
    errors,
    inflated,
)

REPORT = Path(__file__).resolve().parent / "worlds_report"
ENOUGH = 4  # clips, below which no verdict is given
PICTURED = 4  # the first clip that has a checker in every world
UNJUDGED = "not measured", "too few clips"


COLUMNS = {
    "hit": Column("target read, %", 0, 100),
    "psnr_edit": Column("PSNR to the truth inside, dB", 1),
    "contamination": Column("change outside the object, x 1000", 1, 1000),
    "flicker": Column("flicker, x 1000", 1, 1000),
    "iou": Column("IoU of the object, %", 0, 100),
    "strays": Column("object off its course, pixels", 2),
}
LESS_IS_BETTER = "contamination", "flicker", "strays"


class Claim(NamedTuple):
    """What a paper says: its part, by the rows without and with it, improves a figure."""

    said: str
    without: str
    having: str
    figure: str
    worlds: tuple[str, ...]


CLAIMS = (
    Claim("DreamMotion: the mask keeps the background (Sec. 3.1)",
          "DDS", "+ mask", "contamination", ("textured", "camera", "usual")),
    Claim("DreamMotion: S-SSM keeps the structure (Fig. 9)",
          "+ mask", "+ S-SSM", "iou", ("textured", "camera", "usual")),
    Claim("DreamMotion: T-SSM keeps the motion (Fig. 9)",
          "+ mask", "+ mask, T-SSM", "strays", ("slow", "camera", "usual")),
    Claim("DreamMotion: T-SSM smooths the motion (Fig. 9)",
          "+ mask", "+ mask, T-SSM", "flicker", ("slow", "camera", "usual")),
    Claim("ASSD: the sliding window, a prior of continuity, steadies the frames (Sec. 1)",
          "DDS", "ASSD", "flicker", ("slow", "weak model", "usual")),
    Claim("ASSD: the sliding window contaminates less (Fig. 5)",
          "DDS", "ASSD", "contamination", ("slow", "weak model", "usual")),
    Claim("ASSD: attention fusion contaminates less still (Fig. 5)",
          "ASSD", "ASSD + fusion", "contamination", ("textured", "weak model", "usual")),
    Claim("ASSD: the image model adds detail where the video model is weak (Fig. 5)",
          "ASSD", "ASSD + joint", "psnr_edit", ("weak model", "usual")),
    Claim("ASSD: the image model contaminates less still (Fig. 5)",
          "ASSD", "ASSD + joint", "contamination", ("weak model", "usual")),
    Claim("Flow-enhanced: smoothing along the flow cuts flicker",
          "DDS", "+ flow smoothing", "flicker", ("slow", "camera", "usual")),
    Claim("Flow-enhanced: preservation keeps the rest",
          "+ flow smoothing", "+ preservation", "contamination", ("textured", "camera", "usual")),
    Claim("Flow-enhanced: global consistency cuts flicker",
          "+ preservation", "+ consistency", "flicker", ("textured", "camera", "usual")),
    Claim("VideoDirector: STDG keeps the background (Fig. 9)",
          "VideoDirector: without STDG", "VideoDirector: full", "contamination",
          ("textured", "camera")),
    Claim("VideoDirector: SA-I keeps the layout (Fig. 7)",
          "VideoDirector: without SA-I", "VideoDirector: full", "iou", ("textured", "camera")),
    Claim("VideoDirector: SA-II keeps the background (Fig. 7)",
          "VideoDirector: without SA-II", "VideoDirector: full", "contamination",
          ("textured", "camera")),
    Claim("EI2: STAM raises textual alignment (Fig. 4)",
          "EI2: layer-norm", "EI2: stam", "hit", ("slow", "textured")),
    Claim("EI2: FFAM takes flicker away (Fig. 5)",
          "EI2: stam", "EI2: ei2", "flicker", ("slow", "textured")),
)  # fmt: skip

# --- rows ---------------------------------------------------------------------------------------


def ways() -> dict[str, Callable[[str, int], Tensor]]:
    """How the clip of every row that a claim needs is made."""
    makers = {"VideoDirector": directed, "EI2": inflated}
    rows = dict.fromkeys(row for claim in CLAIMS for row in (claim.without, claim.having))
    found = {}
    for row in ("no edit", *rows):
        group, _, name = row.rpartition(": ")
        found[row] = partial(makers.get(group, distilled), name)
    return found


ROWS = ways()
ERRORS = "errors of the models"  # no row of a table: figures of their own


def needed(world: str) -> list[str]:
    """The rows of a world, in the order in which a model remembers most."""
    claims = [claim for claim in CLAIMS if world in claim.worlds]
    rows = {row for claim in claims for row in (claim.without, claim.having)}
    found = [row for row in ROWS if row in rows or row == "no edit"]
    return [*found, ERRORS] if WORLDS[world].trained else found


# --- figures ------------------------------------------------------------------------------------


def measured(name: str, clip: int) -> dict[str, Any]:
    """The figures of one row, named with its world, on one clip."""
    world, row = name.split(" | ")
    if row == ERRORS:
        return errors(world, clip)
    edit = edit_of(world, clip)
    return figures_of(ROWS[row](world, clip).clamp(0, 1), edit)


def figures_of(clip: Tensor, edit: Edit) -> dict[str, float]:
    scores = score(clip, edit)
    found = {name: float(getattr(scores, name)) for name in COLUMNS if name != "strays"}
    return found | {"strays": strays(clip, edit.target)}


def strays(clip: Tensor, scene: Scene) -> float:
    """How far the object moves otherwise than it should: root mean square, in pixels.

    Both paths about their own middles. An object that is not seen stands still.
    """
    found, true = read(clip).centres, path(scene)
    seen = ~np.isnan(found).any(axis=1)
    if seen.sum() < 2:
        found, seen = np.zeros_like(true), np.ones(len(true), dtype=bool)
    apart = found[seen] - true[seen]
    return float(np.sqrt(((apart - apart.mean(axis=0)) ** 2).sum(axis=1).mean()))


def gain(kept: Kept, claim: Claim, world: str) -> Estimate | None:
    """What a part changes, clip by clip; None where nothing was measured."""
    names = [f"{world} | {row}" for row in (claim.without, claim.having)]
    clips = kept.shared(names)
    if not clips:
        return None
    return change(*([kept.figures[name][clip][claim.figure] for clip in clips] for name in names))


def verdict(found: Estimate | None, figure: str) -> str:
    """Whether a claim holds, where it is judged at all."""
    if found is None:
        return "not measured"
    if found.count < ENOUGH:
        return "too few clips"
    if not beyond_chance(found):
        return "within chance"
    return "holds" if (found.mean < 0) == (figure in LESS_IS_BETTER) else "the contrary"


def summary(verdicts: Mapping[str, str]) -> str:
    """One claim over its worlds, by the verdict in each."""
    open_ = [world for world, said in verdicts.items() if said in UNJUDGED]
    holds = [world for world, said in verdicts.items() if said == "holds"]
    judged = len(verdicts) - len(open_)
    if not judged:
        return "not measured on enough clips"
    found = "holds" if len(holds) == judged else f"holds only where: {', '.join(holds)}"
    if not holds:
        contrary = "the contrary" in verdicts.values()
        found = "does not hold here" if contrary else "not beyond chance here"
    return f"{found} (not measured yet: {', '.join(open_)})" if open_ else found


# --- page ---------------------------------------------------------------------------------------


def claims_table(kept: Kept) -> list[str]:
    cells = []
    for claim in CLAIMS:
        found = {world: verdict(gain(kept, claim, world), claim.figure) for world in claim.worlds}
        cells.append((claim.said, summary(found)))
    return markdown(("the paper", "here"), cells)


def changes_table(kept: Kept) -> list[str]:
    cells = []
    for claim in CLAIMS:
        column = COLUMNS[claim.figure]
        for world in claim.worlds:
            found = gain(kept, claim, world)
            if found is not None:
                changed = shown(found, column.digits, column.factor)
                rows = f"{claim.without} to {claim.having}"
                told = str(found.count), changed, verdict(found, claim.figure)
                cells.append((claim.said, world, rows, column.title, *told))
    return markdown(("the paper", "world", "rows", "figure", "clips", "change", ""), cells)


def world_table(kept: Kept, world: str) -> list[str]:
    """All rows of a world, each over the clips that it has."""
    cells = []
    for row in needed(world):
        clips = kept.figures.get(f"{world} | {row}")
        if clips and row != ERRORS:
            cells.append((row, str(len(clips)), *means(COLUMNS, partial(each, clips.values()))))
    different = ", ".join(f"{name} {value:g}" for name, value in asdict(WORLDS[world]).items())
    head = ("", "clips", *(column.title for column in COLUMNS.values()))
    lines = [f"## {world}", "", f"{different}.", "", *markdown(head, cells), ""] if cells else []
    return [*lines, *errors_table(kept.figures.get(f"{world} | {ERRORS}", {}))]


def errors_table(clips: Mapping[str, Mapping[str, Sequence[float]]]) -> list[str]:
    """How wrong the models are, level by level: whether the image model has something to mend."""
    if not clips:
        return []
    cells = []
    for name in next(iter(clips.values())):
        levels = zip(*(one[name] for one in clips.values()), strict=True)
        cells.append((name, *(shown(estimate(level), 1, 1000) for level in levels)))
    said = "Mean squared error of the noise that each predicts in the source, x 1000"
    head = ("", *(f"at {level:g} of the schedule" for level in LEVELS))
    return [f"{said}, {len(clips)} clips.", "", *markdown(head, cells), ""]


def report(kept: Kept) -> list[str]:
    """The page, from what is there, with a picture of the worlds."""
    clips = {world: edited(edit_of(world, PICTURED)).source.clip for world in WORLDS}
    save_strip(clips, REPORT / "worlds.png", zoom=1)
    return [
        "# Worlds in which the papers' claims can be true",
        "",
        made("python benchmarks/worlds.py"),
        "Clips of 8 frames; means with their standard errors. Settings of the shipped graphs.",
        "",
        f"A clip of each world, from above: {', '.join(WORLDS)}.",
        "",
        "![worlds](worlds.png)",
        "",
        "## The papers' claims",
        "",
        "A claim holds where the change from the row without to the row with its part is for the "
        f"better, clip by clip, beyond chance (Student's t, 95 %), on {ENOUGH} clips or more.",
        "",
        *claims_table(kept),
        "",
        "## The changes, clip by clip",
        "",
        *changes_table(kept),
        "",
        *(line for world in WORLDS for line in world_table(kept, world)),
    ]


def main() -> None:
    parser = asking(__doc__, clips=16, of="of each world")
    parser.add_argument("--worlds", nargs="+", choices=WORLDS, default=list(WORLDS))
    parser.add_argument("--rows", nargs="+", choices=[*ROWS, ERRORS], default=[*ROWS, ERRORS])
    options = parser.parse_args()
    torch.set_num_threads(1)
    settings = runs_of_methods() | WORLDS
    kept = Kept(REPORT / "figures.json", {name: asdict(run) for name, run in settings.items()})
    tasks = [
        (f"{world} | {row}", clip)
        for clip in range(options.clips)
        for world in options.worlds
        for row in needed(world)
        if row in options.rows
    ]
    for steps in {WORLDS[name.split(" | ")[0]].trained for name, _ in kept.missing(tasks)} - {0}:
        barely_trained(steps)  # once, before processes ask for it
    compute(kept, measured, tasks, jobs=options.jobs)
    write_page(REPORT, report(kept))


if __name__ == "__main__":
    main()
