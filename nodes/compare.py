"""The node that puts two clips side by side."""

from . import host, layouts
from .widgets import COMBO, INT, SOCKET, Node, outputs


class CompareClips(Node):
    TITLE = "Compare Clips"
    SEARCH_ALIASES = ["side by side", "before after", "compare videos", "comparison"]
    DESCRIPTION = (
        "Puts two clips side by side, or one above the other, frame by frame: source against edit."
    )
    CATEGORY = f"{host.CATEGORY}/compare"
    FUNCTION = "compare"
    RETURN_TYPES, RETURN_NAMES, OUTPUT_TOOLTIPS = outputs(
        images=("IMAGE", "One picture per frame, for Create Video or Preview Image."),
    )
    REQUIRED = {
        "source": SOCKET("IMAGE", "The clip shown first: left, or above."),
        "edited": SOCKET("IMAGE", "The clip shown second, of the same size."),
        "layout": COMBO(["side by side", "one above the other"],
            "How the two are put together. Wide clips read better one above the other."),
        "gap": INT(4, 0, 256, "White pixels between the two.", step=2),
    }  # fmt: skip

    def compare(self, source, edited, layout: str, gap: int):
        from ..pipelines.compare import side_by_side

        clips = layouts.clip_from_image(source), layouts.clip_from_image(edited)
        together = side_by_side(*clips, vertical=layout == "one above the other", gap=gap)
        return (layouts.image_from_clip(together),)


NODE_CLASS_MAPPINGS = {"ReScoreCompareClips": CompareClips}
