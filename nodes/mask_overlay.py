"""The node that shows a mask on its clip."""

from typing import Any

from . import layouts
from .masks import CATEGORY

_COLOURS = {
    "red": (1.0, 0.15, 0.1),
    "green": (0.1, 0.9, 0.2),
    "blue": (0.15, 0.35, 1.0),
    "yellow": (1.0, 0.9, 0.0),
    "magenta": (1.0, 0.1, 0.9),
    "white": (1.0, 1.0, 1.0),
    "black": (0.0, 0.0, 0.0),
}


class ShowMask:
    """A mask drawn over its clip."""

    DESCRIPTION = (
        "Draws a mask over its clip: a tint where it is white, and a line around it. For Preview "
        "Image or Create Video, to see whether the mask fits before it is used."
    )
    CATEGORY = CATEGORY
    FUNCTION = "draw"
    RETURN_TYPES = ("IMAGE",)
    RETURN_NAMES = ("images",)
    OUTPUT_TOOLTIPS = ("The clip with the mask drawn over it.",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "images": ("IMAGE", {"tooltip": "The clip that the mask is for."}),
                "mask": (
                    "MASK",
                    {"tooltip": "One mask for the clip or one per frame, at any resolution."},
                ),
                "colour": (
                    list(_COLOURS),
                    {
                        "default": "magenta",
                        "tooltip": "Of tint and line. Choose one that the clip does not have.",
                    },
                ),
                "opacity": (
                    "FLOAT",
                    {
                        "default": 0.4,
                        "min": 0.0,
                        "max": 1.0,
                        "step": 0.05,
                        "tooltip": "How much of the clip the tint hides. If you cannot see what is "
                        "beneath, lower it; 0 leaves the line only.",
                    },
                ),
                "outline": (
                    "INT",
                    {
                        "default": 1,
                        "min": 0,
                        "max": 64,
                        "step": 1,
                        "tooltip": "Width of the line in pixels; 0 is none. For large clips raise "
                        "it to 3.",
                    },
                ),
            }
        }

    def draw(self, images, mask, colour: str, opacity: float, outline: int):
        from ..pipelines.masks.shapes import drawn_over

        clip, masks = layouts.clip_from_image(images), layouts.masks_of(mask)
        drawn = drawn_over(clip, masks, _COLOURS[colour], opacity=opacity, outline=outline)
        return (layouts.image_from_clip(drawn),)


NODE_CLASS_MAPPINGS = {"ReScoreShowMask": ShowMask}
NODE_DISPLAY_NAME_MAPPINGS = {"ReScoreShowMask": "Show Mask"}
