"""Nodes that draw masks and change their shape."""

from dataclasses import replace

from . import host, layouts
from .live import tell
from .sockets import GUIDANCE
from .widgets import BOOLEAN, FLOAT, INT, SOCKET, Input, Node, outputs

CATEGORY = f"{host.CATEGORY}/masks"


def _edge(default: float, side: str, frame: str) -> Input:
    """The input for one edge of a box in the first or the last frame."""
    wider = "lower" if side in ("left", "upper") else "raise"
    return FLOAT(default, 0, 1, 0.01,
        f"The {side} edge in the {frame} frame, as a share of the picture. If it cuts the object "
        f"off, {wider} it."
    )  # fmt: skip


class BoxMask(Node):
    TITLE = "Box Mask"
    SEARCH_ALIASES = ["rectangle mask", "draw box", "crop mask", "moving box"]
    DESCRIPTION = (
        "Draws a white box, by its edges as shares of the picture. Over the clip it may move and "
        "change size evenly, to the end box: enough to follow an object that moves straight."
    )
    CATEGORY = CATEGORY
    FUNCTION = "draw"
    RETURN_TYPES, RETURN_NAMES, OUTPUT_TOOLTIPS = outputs(
        mask=("MASK", "One mask per frame, of the clip's size."),
    )
    REQUIRED = {
        "images": SOCKET("IMAGE", "The clip whose length and size the mask gets."),
        "left": _edge(0.25, "left", "first"),
        "top": _edge(0.25, "upper", "first"),
        "right": _edge(0.75, "right", "first"),
        "bottom": _edge(0.75, "lower", "first"),
        "moves": BOOLEAN(False,
            "Whether the box moves to the end box; if not, the four end edges below do nothing."),
        "end_left": _edge(0.25, "left", "last"),
        "end_top": _edge(0.25, "upper", "last"),
        "end_right": _edge(0.75, "right", "last"),
        "end_bottom": _edge(0.75, "lower", "last"),
    }  # fmt: skip

    def draw(
        self, images, left: float, top: float, right: float, bottom: float, moves: bool,
        end_left: float, end_top: float, end_right: float, end_bottom: float,
    ):  # fmt: skip
        from ..pipelines.masks.shapes import box_mask

        _, _, frames, height, width = layouts.clip_from_image(images).shape
        end = (end_left, end_top, end_right, end_bottom) if moves else None
        return (box_mask(frames, height, width, (left, top, right, bottom), end),)


class BoundingBoxMask(Node):
    TITLE = "Bounding Box Mask"
    SEARCH_ALIASES = ["box around mask", "mask to bbox", "rectangle mask"]
    DESCRIPTION = (
        "Replaces the white of each frame by the smallest box around all of it. Boxes give an edit "
        "room for another outline; DreamMotion masks with them."
    )
    CATEGORY = CATEGORY
    FUNCTION = "enclose"
    RETURN_TYPES, RETURN_NAMES, OUTPUT_TOOLTIPS = outputs(
        mask=("MASK", "As many masks as came in; a black one stays black."),
    )
    REQUIRED = {
        "mask": SOCKET("MASK", "The mask to enclose, such as SAM gives."),
        "margin": INT(0, 0, 4096,
            "Pixels added on each side, 0 to start with. If an edit is cut off at the edges of the "
            "box, raise it."),
    }  # fmt: skip

    def enclose(self, mask, margin: int):
        from ..pipelines.masks.shapes import bounding_boxes

        return (bounding_boxes(layouts.masks_of(mask), margin),)


class EllipseMask(Node):
    TITLE = "Ellipse Mask"
    SEARCH_ALIASES = ["round mask", "oval mask", "loosen mask"]
    DESCRIPTION = (
        "Joins the mask with the ellipse of each of its parts, the one with the same centre and "
        "second moments. It makes room for an object of another outline, where the mask alone "
        "would press the edit into the old one. From VideoDirector (supplement III)."
    )
    CATEGORY = CATEGORY
    FUNCTION = "round"
    RETURN_TYPES, RETURN_NAMES, OUTPUT_TOOLTIPS = outputs(
        mask=("MASK", "As many masks as came in, never smaller than they were."),
    )
    REQUIRED = {
        "mask": SOCKET("MASK", "The mask to round; any number of separate parts in each frame."),
    }

    def round(self, mask):
        from ..pipelines.masks.shapes import ellipse_mask

        return (ellipse_mask(layouts.masks_of(mask)),)


class GrowFeatherMask(Node):
    TITLE = "Grow and Feather Mask"
    SEARCH_ALIASES = ["expand mask", "dilate mask", "erode mask", "blur mask", "soften mask"]
    DESCRIPTION = "Widens or narrows the white of a mask by some pixels, then softens its edge."
    CATEGORY = CATEGORY
    FUNCTION = "change"
    RETURN_TYPES, RETURN_NAMES, OUTPUT_TOOLTIPS = outputs(
        mask=("MASK", "As many masks as came in."),
    )
    REQUIRED = {
        "mask": SOCKET("MASK", "The mask to change, any number of frames."),
        "grow": INT(4, -512, 512,
            "Pixels by which the white widens, 4 to start with; negative narrows it. If the old "
            "object shows around the edit, raise it; if things beside it change, lower it."),
        "feather": FLOAT(0, 0, 512, 0.5,
            "Pixels over which the edge goes from black to white; 0 keeps it hard. If the edit has "
            "a visible seam, raise it to 8 or more."),
    }  # fmt: skip

    def change(self, mask, grow: int, feather: float):
        from ..pipelines.masks import shapes as mask_shapes

        grown = mask_shapes.grow(layouts.masks_of(mask), grow)
        return (mask_shapes.feather(grown, feather),)


class EditBackground(Node):
    TITLE = "Edit Background"
    SEARCH_ALIASES = ["change background", "replace background", "invert mask"]
    DESCRIPTION = (
        "For editing the background instead of the object: inverts the mask for Attention-"
        "Controlled Sampling, and exchanges the coefficients of decoupled guidance, whose own mask "
        "stays that of the object. What is held is then the object."
    )
    CATEGORY = CATEGORY
    FUNCTION = "exchange"
    RETURN_TYPES, RETURN_NAMES, OUTPUT_TOOLTIPS = outputs(
        mask=("MASK", "White where the background is: what may change."),
        guidance=(GUIDANCE,
            "The guidance with swapped coefficients, for Null-Text Optimisation; nothing without "
            "one."),
    )  # fmt: skip
    REQUIRED = {
        "mask": SOCKET("MASK", "The object's mask, white where the object is."),
    }
    OPTIONAL = {
        "guidance": SOCKET(GUIDANCE, "From Decoupled Guidance, with the same mask of the object."),
    }

    def exchange(self, mask, guidance=None):
        mask = layouts.masks_of(mask)
        tell(layouts.if_black(mask, "The mask of the object is black: everything may change."))
        swapped = guidance and replace(guidance, settings=guidance.settings.swapped())
        return (1 - mask, swapped)


NODE_CLASS_MAPPINGS = {
    "ReScoreBoxMask": BoxMask,
    "ReScoreBoundingBoxMask": BoundingBoxMask,
    "ReScoreEllipseMask": EllipseMask,
    "ReScoreGrowFeatherMask": GrowFeatherMask,
    "ReScoreEditBackground": EditBackground,
}
