"""Which method when: one page with a picture and the measured figures of each method.

python benchmarks/which_method.py       writes benchmarks/which_method/README.md, and the tables of
                                        the first page anew

Nothing is measured here: the figures are those of the other reports, and the pictures those of the
graphs. Run it after a report has been written anew.
"""

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import first_page
from first_page import made_on
from measuring import FIGURES, Column, each, markdown, means

ROOT = Path(__file__).resolve().parents[1]
HEAD = ("method", "when")
# What the reports on edits call their figures, and the one on whole objects.
EDITS = {
    "hit": Column("target read, %", 0, 100),
    "psnr_keep": Column("PSNR outside the edit, dB", 1),
    "flicker": Column("flicker, x 1000", 1, 1000),
}
OBJECTS = {
    "hit": Column("nearer to the truth than to the clip, %", 0, 100),
    "psnr_edit": Column("PSNR to the truth inside, dB", 1),
    "psnr_keep": Column("PSNR outside the object, dB", 1),
    "flicker": Column("flicker, x 1000", 1, 1000),
}


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
        "No mask can be painted, the run is long, and an image model knows far more than the video "
        "model: where it does not, leave it out."),
    Method("Flow-enhanced", "distillation", "+ consistency", "flow_enhanced",
        "No mask can be painted, or the clip moves smoothly and the edit flickers."),
    Method("VideoDirector", "videodirector", "full", "videodirector",
        "Words are to be swapped, added or weighted, and Stable Diffusion 1.5 knows them."),
    Method("Tune-A-Video", "ei2", "tune-a-video", "tune_a_video",
        "Only an image model is at hand, and there is time to tune it on the clip."),
    Method("EI2", "ei2", "ei2", "ei2",
        "As Tune-A-Video, with less flicker."),
    Method("Delta denoising on Wan", "flow_models", "+ flow smoothing", "wan_edit",
        "A flow model such as Wan is at hand: the first thing to try, in a third of the calls."),
    Method("Removal", "removal", "remove", "remove_object",
        "An object is to go: the source text names it, the target text does not."),
    Method("Addition", "removal", "add", "add_object",
        "An object is to come: the mask says where, the target text what."),
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


def table(methods: Sequence[Method], columns: Mapping[str, Column], reports: Path) -> list[str]:
    """A row for each method: when to take it, its figures, and where they come from."""
    rows = []
    for method in methods:
        clips = clips_of(method, reports)
        figures = means(columns, partial(each, clips))
        report = (reports / f"{method.report}_report" / "README.md").read_text("utf-8")
        day, commit = made_on(report)
        link = f"[{method.title}](../{method.report}_report/README.md)"
        rows.append((link, method.when, *figures, str(len(clips)), f"{day}, {commit}"))
    titles = (column.title for column in columns.values())
    return markdown((*HEAD, *titles, "clips", "report of, at commit"), rows)


def page(reports: Path = ROOT / "benchmarks") -> str:
    """The whole page."""
    pictures = []
    for method in METHODS:
        pictures += [
            f"## {method.title}",
            "",
            f"{method.when} Graph: `{method.graph}`.",
            "",
            f"![source above, edit below](../../workflows/{method.graph}.jpg)",
            "",
        ]
    objects = [method for method in METHODS if method.report == "removal"]
    edits = [method for method in METHODS if method not in objects]
    return "\n".join(
        [
            "# Which method when",
            "",
            "Measured on the shape world with the tiny models that come with the pack: means over",
            "clips with their standard errors. The reports differ in clips, models and settings:",
            "compare rows of one report only. Nothing has been measured with real models yet.",
            "`python benchmarks/which_method.py` writes this page from the reports' figures.",
            "",
            "*Target read*: in how many clips the result shows what the target text asks for.",
            "*PSNR outside the edit*: how near to the source the clip stays where the true edit",
            "changes nothing; nothing is pasted back, and the autoencoder loses a part.",
            "*Flicker*: how much colours change from one frame to the next along the true motion;",
            "the true edit has none.",
            "",
            *table(edits, EDITS, reports),
            "",
            "For a whole object that goes or comes, the result is compared with the exact clip",
            "that lacks or has it. Outside the mask every pixel is the clip's own, as in the",
            "graphs. The mask is 3 pixels wider than the object, and in these 3 pixels around it",
            "lies all that lowers *PSNR outside the object*.",
            "",
            *table(objects, OBJECTS, reports),
            "",
            *pictures,
        ]
    )


def main() -> None:
    folder = ROOT / "benchmarks" / "which_method"
    folder.mkdir(exist_ok=True)
    (folder / "README.md").write_text(page(), "utf-8")
    first_page.main()


if __name__ == "__main__":
    main()
