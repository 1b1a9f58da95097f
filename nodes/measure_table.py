"""Nodes that collect measures of several edits in a table, as a picture, CSV and JSON."""

import json
import re

from . import host
from .measures import CATEGORY
from .sockets import MEASURE, MEASURES
from .widgets import SOCKET, STRING, Node, outputs

FOLDER = "rescore_measures"  # in the host's output folder
_SOCKETS = 8
_A_MEASURE = SOCKET(MEASURE, "A measure of this edit, from any of the measure nodes.")
_NAME = r"\w[\w. -]{0,79}"


class CollectMeasures(Node):
    TITLE = "Collect Measures"
    SEARCH_ALIASES = ["gather metrics", "list scores", "benchmark"]
    DESCRIPTION = (
        "Gathers the measures of one edit under a label. Chain one of these for each edit, and one "
        "for the source, through measures, and end with Measures Table. More than eight measures "
        "of an edit: chain another with the same label."
    )
    CATEGORY = CATEGORY
    FUNCTION = "collect"
    RETURN_TYPES, RETURN_NAMES, OUTPUT_TOOLTIPS = outputs(
        measures=(MEASURES, "The measures so far, for the next edit's or for Measures Table."),
    )
    REQUIRED = {
        "label": STRING("edit",
            "What the row is called: the method, or what was changed. One label for each edit; "
            "`source` for the clip before the edit."),
    }  # fmt: skip
    OPTIONAL = {
        "measures": SOCKET(MEASURES, "The measures of other edits, from another Collect Measures."),
        **{f"measure_{i}": _A_MEASURE for i in range(1, _SOCKETS + 1)},
    }

    def collect(self, label: str, measures=(), **given):
        from ..pipelines.measures.table import collect

        # In the order of the sockets; a graph file may have another order.
        found = [given.get(f"measure_{i}") for i in range(1, _SOCKETS + 1)]
        found = [measure for measure in found if measure is not None]
        if not found:
            raise ValueError(
                f"No measure is wired to the Collect Measures of {label!r}. Wire at least one."
            )
        return (collect(measures or (), label, found),)


class MeasuresTable(Node):
    TITLE = "Measures Table"
    SEARCH_ALIASES = ["save metrics", "CSV", "results table", "export scores"]
    DESCRIPTION = (
        "Shows the measures of all edits side by side, one row for each, the best of each column "
        "marked, and writes them to output/rescore_measures as CSV (the table) and JSON (with the "
        "values over time). Nothing is overwritten: files are numbered."
    )
    CATEGORY = CATEGORY
    FUNCTION = "show"
    OUTPUT_NODE = True
    RETURN_TYPES, RETURN_NAMES, OUTPUT_TOOLTIPS = outputs(
        table=("IMAGE", "The table as a picture, for Preview Image or Save Image."),
        csv=("STRING", "What is in the CSV file."),
        json=("STRING", "What is in the JSON file."),
    )
    REQUIRED = {
        "measures": SOCKET(MEASURES, "From the last Collect Measures."),
        "reference": STRING("source",
            "The label of the row that edits are held against: it comes first, in grey, and is "
            "never marked as best."),
        "name": STRING("measures",
            "What the files in output/rescore_measures begin with; letters, digits, dots, dashes "
            "and blanks."),
    }  # fmt: skip

    def show(self, measures, reference: str, name: str):
        from ..pipelines.measures.table import to_csv, to_json
        from .table_picture import table_picture

        texts = {".csv": to_csv(measures), ".json": to_json(measures)}
        file = _write(name, texts)
        ui = {
            "text": [f"Saved {file}.csv and {file}.json\n\n{texts['.csv']}"],
            FOLDER: [json.loads(texts[".json"])],  # for the report of a batch
        }
        picture = table_picture(measures, reference.strip())
        return {"ui": ui, "result": (picture, *texts.values())}


def _write(name: str, texts: dict[str, str]) -> str:
    """Write each text to a new file with its suffix; return the name without suffix."""
    if not re.fullmatch(_NAME, name):
        raise ValueError(
            f"{name[:80]!r} is no name for a file. Use up to 80 letters, digits, dots, dashes and "
            "blanks, beginning with a letter or digit; the files lie in output/rescore_measures."
        )
    folder = host.output_folder() / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    number = 1
    while any((folder / f"{name}_{number:05d}{suffix}").exists() for suffix in texts):
        number += 1
    for suffix, text in texts.items():
        # "x" fails if another program has made the file in between.
        with open(folder / f"{name}_{number:05d}{suffix}", "x", encoding="utf-8") as file:
            file.write(text)
    return f"{FOLDER}/{name}_{number:05d}"


NODE_CLASS_MAPPINGS = {
    "ReScoreCollectMeasures": CollectMeasures,
    "ReScoreMeasuresTable": MeasuresTable,
}
