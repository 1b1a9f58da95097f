"""The node that shows a mask on its clip."""

from . import layouts
from .masks import CATEGORY
from .widgets import COMBO, FLOAT, INT, SOCKET, Node, outputs

_COLOURS = {
    "red": (1.0, 0.15, 0.1),
    "green": (0.1, 0.9, 0.2),
    "blue": (0.15, 0.35, 1.0),
    "yellow": (1.0, 0.9, 0.0),
    "magenta": (1.0, 0.1, 0.9),
    "white": (1.0, 1.0, 1.0),
    "black": (0.0, 0.0, 0.0),
}


class ShowMask(Node):
    TITLE = "Show Mask"
    SEARCH_ALIASES = ["mask overlay", "preview mask", "visualize mask", "mask on video"]
    DESCRIPTION = (
        "Draws a mask over its clip: a tint where it is white, and a line around it. For Preview "
        "Image or Create Video, to see whether the mask fits before it is used."
    )
    CATEGORY = CATEGORY
    FUNCTION = "draw"
    RETURN_TYPES, RETURN_NAMES, OUTPUT_TOOLTIPS = outputs(
        images=("IMAGE", "The clip with the mask drawn over it."),
    )
    REQUIRED = {
        "images": SOCKET("IMAGE", "The clip that the mask is for."),
        "mask": SOCKET("MASK", "One mask for the clip or one per frame, at any resolution."),
        "colour": COMBO(list(_COLOURS),
            "Of tint and line. Choose one that the clip does not have.", default="magenta"),
        "opacity": FLOAT(0.4, 0, 1, 0.05,
            "How much of the clip the tint hides. If you cannot see what is beneath, lower it; 0 "
            "leaves the line only."),
        "outline": INT(1, 0, 64,
            "Width of the line in pixels; 0 is none. For large clips raise it to 3."),
    }  # fmt: skip

    def draw(self, images, mask, colour: str, opacity: float, outline: int):
        from ..pipelines.masks.shapes import drawn_over

        clip, masks = layouts.clip_from_image(images), layouts.masks_of(mask)
        drawn = drawn_over(clip, masks, _COLOURS[colour], opacity=opacity, outline=outline)
        return (layouts.image_from_clip(drawn),)


NODE_CLASS_MAPPINGS = {"ReScoreShowMask": ShowMask}
