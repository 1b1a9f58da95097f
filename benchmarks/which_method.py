"""Which method when: one page with a picture and the measured figures of each method.

python benchmarks/which_method.py       writes benchmarks/which_method/README.md

Nothing is measured here: the figures are those of the other reports, and the pictures those of the
graphs. Run it after a report has been written anew.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from measuring import FIGURES, markdown
from rescore.shapeworld.score import estimate

ROOT = Path(__file__).resolve().parents[1]
HEAD = ("method", "when", "target read, %", "PSNR outside, dB", "flicker, x 1000", "clips")


class Method(NamedTuple):
    """A row: where its figures stand, which graph shows it, and when to take it."""

    title: str
    report: str
    row: str
    graph: str
    when: str


METHODS = (
    Method("Delta denoising, masked", "distillation", "+ mask", "delta_denoising",
        "To begin with: a colour, a material, an object for another, where you can paint a mask."),
    Method("DreamMotion", "distillation", "+ T-SSM", "dreammotion",
        "Shapes and motion must stay as they are while the look changes."),
    Method("ASSD", "distillation", "ASSD + fusion + joint", "assd",
        "No mask can be painted, and an image model knows the object better than the video model."),
    Method("Flow-enhanced", "distillation", "+ consistency", "flow_enhanced",
        "The clip moves smoothly and the edit flickers."),
    Method("VideoDirector", "videodirector", "full", "videodirector",
        "The edit must follow the words closely, and Stable Diffusion 1.5 knows what you want."),
    Method("Tune-A-Video", "ei2", "tune-a-video", "tune_a_video",
        "Only an image model is at hand, and there is time to tune it on the clip. "
        "(The figures are those of its variant `layer-norm`.)"),
    Method("EI2", "ei2", "ei2", "ei2",
        "As Tune-A-Video, with less flicker."),
    Method("Delta denoising on Wan", "flow_models", "+ flow smoothing", "wan_edit",
        "A flow model such as Wan is at hand: the first thing to try, in half the calls."),
    Method("Removal", "removal", "remove", "remove_object",
        "An object shall go: the source text names it, the target text does not."),
    Method("Addition", "removal", "add", "add_object",
        "An object shall come: the mask says where, the target text what."),
)  # fmt: skip


def clips_of(method: Method, reports: Path) -> list[Mapping[str, Any]]:
    """What was measured of a method, clip by clip.

    Raises:
        ValueError: if its report has no such row.
    """
    file = reports / f"{method.report}_report" / FIGURES
    edits = json.loads(file.read_text("utf-8"))["edits"]
    if method.row not in edits:
        raise ValueError(
            f"{file} has no row {method.row!r} for {method.title}; it has {', '.join(edits)}."
        )
    return edits[method.row]


def _shown(values: list[float], factor: float, digits: int) -> str:
    mean, error, *_ = estimate([float(value) for value in values])
    return f"{mean * factor:.{digits}f} ± {error * factor:.{digits}f}"


def page(reports: Path = ROOT / "benchmarks") -> str:
    """The whole page."""
    rows, shown = [], []
    for method in METHODS:
        clips = clips_of(method, reports)
        figures = [
            _shown([clip[name] for clip in clips], factor, digits)
            for name, factor, digits in (("hit", 100, 0), ("psnr_keep", 1, 1), ("flicker", 1000, 1))
        ]
        link = f"[{method.title}](../{method.report}_report/README.md)"
        rows.append((link, method.when, *figures, str(len(clips))))
        shown += [
            f"## {method.title}",
            "",
            f"{method.when} Graph: `{method.graph}`.",
            "",
            f"![source above, edit below](../../workflows/{method.graph}.jpg)",
            "",
        ]
    return "\n".join(
        [
            "# Which method when",
            "",
            "Measured on the shape world with the tiny models that come with the pack: means over",
            "clips with their standard errors. The reports differ in clips and models, so compare",
            "rows of one report; with real models nothing has been measured yet. Written by",
            "`python benchmarks/which_method.py` from the reports' figures.",
            "",
            *markdown(HEAD, rows),
            "",
            *shown,
        ]
    )


if __name__ == "__main__":
    folder = ROOT / "benchmarks" / "which_method"
    folder.mkdir(exist_ok=True)
    (folder / "README.md").write_text(page(), "utf-8")
