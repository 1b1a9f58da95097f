"""Nodes that draw masks and change their shape."""

from dataclasses import replace
from typing import Any

from . import host, layouts
from .sockets import GUIDANCE

CATEGORY = f"{host.CATEGORY}/masks"


def _share(default: float, what: str) -> tuple[str, dict[str, Any]]:
    """A widget for an edge of a box."""
    options = {"default": default, "min": 0.0, "max": 1.0, "step": 0.01}
    wider = "lower" if "left" in what or "upper" in what else "raise"
    remedy = f"If it cuts the object off, {wider} it."
    return "FLOAT", {**options, "tooltip": f"{what}, as a share of the picture. {remedy}"}


class BoxMask:
    """A box drawn by hand, which may move."""

    DESCRIPTION = (
        "Draws a white box, by its edges as shares of the picture. Over the clip it may move and "
        "change size evenly, to the end box: enough to follow an object that moves straight."
    )
    CATEGORY = CATEGORY
    FUNCTION = "draw"
    RETURN_TYPES = ("MASK",)
    RETURN_NAMES = ("mask",)
    OUTPUT_TOOLTIPS = ("One mask per frame, of the clip's size.",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "images": ("IMAGE", {"tooltip": "The clip whose length and size the mask gets."}),
                "left": _share(0.25, "The left edge in the first frame"),
                "top": _share(0.25, "The upper edge in the first frame"),
                "right": _share(0.75, "The right edge in the first frame"),
                "bottom": _share(0.75, "The lower edge in the first frame"),
                "moves": (
                    "BOOLEAN",
                    {
                        "default": False,
                        "tooltip": "Whether the box moves to the end box; if not, the four end "
                        "edges below do nothing.",
                    },
                ),
                "end_left": _share(0.25, "The left edge in the last frame"),
                "end_top": _share(0.25, "The upper edge in the last frame"),
                "end_right": _share(0.75, "The right edge in the last frame"),
                "end_bottom": _share(0.75, "The lower edge in the last frame"),
            }
        }

    def draw(
        self, images, left: float, top: float, right: float, bottom: float, moves: bool,
        end_left: float, end_top: float, end_right: float, end_bottom: float,
    ):  # fmt: skip
        from ..pipelines.masks.shapes import box_mask

        _, _, frames, height, width = layouts.clip_from_image(images).shape
        end = (end_left, end_top, end_right, end_bottom) if moves else None
        return (box_mask(frames, height, width, (left, top, right, bottom), end),)


class BoundingBoxMask:
    """The box around a mask."""

    DESCRIPTION = (
        "Replaces the white of each frame by the smallest box around all of it. Boxes give an edit "
        "room for another outline; DreamMotion masks with them."
    )
    CATEGORY = CATEGORY
    FUNCTION = "enclose"
    RETURN_TYPES = ("MASK",)
    RETURN_NAMES = ("mask",)
    OUTPUT_TOOLTIPS = ("As many masks as came in; a black one stays black.",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "mask": ("MASK", {"tooltip": "The mask to enclose, such as SAM gives."}),
                "margin": (
                    "INT",
                    {
                        "default": 0,
                        "min": 0,
                        "max": 4096,
                        "step": 1,
                        "tooltip": "Pixels added on each side, 0 to start with. If an edit is cut "
                        "off at the edges of the box, raise it.",
                    },
                ),
            }
        }

    def enclose(self, mask, margin: int):
        from ..pipelines.masks.shapes import bounding_boxes

        return (bounding_boxes(layouts.masks_of(mask), margin),)


class EllipseMask:
    """Ellipses around the parts of a mask."""

    DESCRIPTION = (
        "Joins the mask with the ellipse of each of its parts, the one with the same centre and "
        "second moments. It makes room for an object of another outline, where the mask alone "
        "would press the edit into the old one. VideoDirector does so for strong changes of shape."
    )
    CATEGORY = CATEGORY
    FUNCTION = "round"
    RETURN_TYPES = ("MASK",)
    RETURN_NAMES = ("mask",)
    OUTPUT_TOOLTIPS = ("As many masks as came in, never smaller than they were.",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "mask": (
                    "MASK",
                    {"tooltip": "The mask to round; any number of separate parts in each frame."},
                ),
            }
        }

    def round(self, mask):
        from ..pipelines.masks.shapes import ellipse_mask

        return (ellipse_mask(layouts.masks_of(mask)),)


class GrowFeatherMask:
    """Wider, narrower, softer."""

    DESCRIPTION = "Widens or narrows the white of a mask by some pixels, then softens its edge."
    CATEGORY = CATEGORY
    FUNCTION = "change"
    RETURN_TYPES = ("MASK",)
    RETURN_NAMES = ("mask",)
    OUTPUT_TOOLTIPS = ("As many masks as came in.",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "mask": ("MASK", {"tooltip": "The mask to change, any number of frames."}),
                "grow": (
                    "INT",
                    {
                        "default": 4,
                        "min": -512,
                        "max": 512,
                        "step": 1,
                        "tooltip": "Pixels by which the white widens, 4 to start with; negative "
                        "narrows it. If the old object shows around the edit, raise it; if things "
                        "beside it change, lower it.",
                    },
                ),
                "feather": (
                    "FLOAT",
                    {
                        "default": 0.0,
                        "min": 0.0,
                        "max": 512.0,
                        "step": 0.5,
                        "tooltip": "Pixels over which the edge goes from black to white; 0 keeps "
                        "it hard. If the edit has a visible seam, raise it to 8 or more.",
                    },
                ),
            }
        }

    def change(self, mask, grow: int, feather: float):
        from ..pipelines.masks import shapes as mask_shapes

        grown = mask_shapes.grow(layouts.masks_of(mask), grow)
        return (mask_shapes.feather(grown, feather),)


class EditBackground:
    """Foreground and background exchanged."""

    DESCRIPTION = (
        "For editing the background instead of the object: inverts the mask for Attention-"
        "Controlled Sampling, and exchanges the coefficients of decoupled guidance, whose own mask "
        "stays that of the object. What is held is then the object."
    )
    CATEGORY = CATEGORY
    FUNCTION = "exchange"
    RETURN_TYPES = ("MASK", GUIDANCE)
    RETURN_NAMES = ("mask", "guidance")
    OUTPUT_TOOLTIPS = (
        "White where the background is: what may change.",
        "The guidance with swapped coefficients, for Null-Text Optimisation; nothing without one.",
    )

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "mask": ("MASK", {"tooltip": "The object's mask, white where the object is."}),
            },
            "optional": {
                "guidance": (
                    GUIDANCE,
                    {"tooltip": "From Decoupled Guidance, with the same mask of the object."},
                ),
            },
        }

    def exchange(self, mask, guidance=None):
        swapped = guidance and replace(guidance, settings=guidance.settings.swapped())
        return (1 - layouts.masks_of(mask), swapped)


NODE_CLASS_MAPPINGS = {
    "ReScoreBoxMask": BoxMask,
    "ReScoreBoundingBoxMask": BoundingBoxMask,
    "ReScoreEllipseMask": EllipseMask,
    "ReScoreGrowFeatherMask": GrowFeatherMask,
    "ReScoreEditBackground": EditBackground,
}
NODE_DISPLAY_NAME_MAPPINGS = {
    "ReScoreBoxMask": "Box Mask",
    "ReScoreBoundingBoxMask": "Bounding Box Mask",
    "ReScoreEllipseMask": "Ellipse Mask",
    "ReScoreGrowFeatherMask": "Grow and Feather Mask",
    "ReScoreEditBackground": "Edit Background",
}
