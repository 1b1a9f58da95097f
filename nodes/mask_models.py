"""Nodes that make masks: Grounding DINO finds objects, SAM 2 follows them."""

from typing import Any

from . import host, layouts
from .files import FolderNode
from .masks import CATEGORY
from .prompts import warn_of_host_syntax
from .sockets import BOXES, DETECTOR, TRACKER
from .widgets import COMBO, FLOAT, INT, SOCKET, STRING, Node, outputs

_TOOLTIP = (
    "A folder under models/{} with config.json and model.safetensors. If none is listed, run this "
    "node: its error has the command that fetches one."
)


class LoadGroundingDino(FolderNode):
    TITLE = "Load Grounding DINO"
    SEARCH_ALIASES = ["object detector", "grounding dino loader", "detection model"]
    DESCRIPTION = (
        "Loads a Grounding DINO model for Mask from Prompt: a folder as transformers saves it, "
        "under models/grounding-dino, such as grounding-dino-tiny. Nothing is downloaded; without "
        "one the error tells the command that fetches it."
    )
    CATEGORY = CATEGORY
    FOLDER, KIND, EXAMPLE = "grounding-dino", "grounding-dino", "grounding-dino-tiny"
    TOOLTIP = _TOOLTIP.format(FOLDER)
    RETURN_TYPES, RETURN_NAMES, OUTPUT_TOOLTIPS = outputs(
        detector=(DETECTOR, "The model, for Mask from Prompt."),
    )

    def load(self, folder: str):
        from ..pipelines.models.vision.grounding_dino import load_grounding_dino

        return (load_grounding_dino(self.path(folder)),)


class LoadSam2(FolderNode):
    TITLE = "Load SAM 2"
    SEARCH_ALIASES = ["SAM2 loader", "segment anything", "segmentation model"]
    DESCRIPTION = (
        "Loads a SAM 2 video model for Mask through Clip: a folder as transformers saves it, under "
        "models/sam2, such as sam2.1-hiera-small. Needs transformers 4.56 or newer. Nothing is "
        "downloaded; without one the error tells the command that fetches it."
    )
    CATEGORY = CATEGORY
    FOLDER, KIND, EXAMPLE = "sam2", "sam2-video", "sam2.1-hiera-small"
    TOOLTIP = _TOOLTIP.format(FOLDER)
    RETURN_TYPES, RETURN_NAMES, OUTPUT_TOOLTIPS = outputs(
        tracker=(TRACKER, "The model, for Mask through Clip."),
    )

    def load(self, folder: str):
        from ..pipelines.models.vision.sam2_video import load_sam2

        return (load_sam2(self.path(folder)),)


class MaskFromPrompt(Node):
    TITLE = "Mask from Prompt"
    SEARCH_ALIASES = ["text to mask", "detect object", "find object", "segment by text"]
    DESCRIPTION = (
        "Finds what a prompt names, such as: a dog. Grounding DINO (Liu et al., 2023) looks at "
        "each frame, or at one; the boxes it is sure of become white. Wire them to Mask through "
        "Clip for outlines that follow the object."
    )
    CATEGORY = CATEGORY
    FUNCTION = "find"
    RETURN_TYPES, RETURN_NAMES, OUTPUT_TOOLTIPS = outputs(
        mask=("MASK", "White boxes, one mask per frame, of the clip's size."),
        boxes=(BOXES, "The boxes themselves, for Mask through Clip."),
        report=("STRING", "What was found in which frame, and how sure the model is."),
    )
    REQUIRED = {
        "detector": SOCKET(DETECTOR, "From Load Grounding DINO."),
        "images": SOCKET("IMAGE", "The clip in which the thing is looked for."),
        "prompt": STRING("a person",
            "What to find: a short noun phrase. Full stops or commas separate several things. If "
            "something else is found, describe it better."),
        "threshold": FLOAT(0.3, 0, 1, 0.01,
            "How sure the model must be of a box. If nothing is found, lower it to 0.2; if too "
            "much is, raise it."),
        "which": COMBO(["best", "all"],
            "best: the surest box of each frame. all: every one above the threshold, for several "
            "objects."),
        "look_at": COMBO(["every frame", "one frame"],
            "one frame looks at key_frame only, and its boxes hold for the whole clip: right for "
            "Mask through Clip, and for what stands still."),
        "key_frame": INT(0, 0, 100000,
            "Used only with one frame: its number, from 0. Choose one in which the object is seen "
            "well."),
        "largest": FLOAT(1, 0.01, 1, 0.01,
            "Boxes that cover more than this share of the picture are left out. If the whole "
            "picture is found, lower it to 0.8.", advanced=True),
    }  # fmt: skip

    def find(
        self, detector, images, prompt: str, threshold: float, which: str, look_at: str,
        key_frame: int, largest: float,
    ):  # fmt: skip
        from ..pipelines.masks.boxes import chosen_boxes, frames_with_boxes, listed, no_boxes
        from ..pipelines.masks.shapes import boxes_mask

        warn_of_host_syntax(prompt)
        clip = layouts.clip_from_image(images)
        frames, height, width = clip.shape[2:]
        host.load(detector, "network")
        looked = list(range(frames)) if look_at == "every frame" else [key_frame]
        if looked[-1] >= frames:
            raise ValueError(
                f"key_frame is {key_frame}, and the clip has frames 0 to {frames - 1}. Choose one "
                "of them."
            )
        boxes, surest = list(no_boxes(frames)), []
        bar = host.progress(len(looked))
        for done, frame in enumerate(looked, start=1):
            found = detector.detect(clip[0, :, frame], prompt)
            surest.append(float(found.scores[0]))
            boxes[frame] = chosen_boxes(
                *found, threshold=threshold, best=which == "best", largest=largest,
                size=(height, width),
            )  # fmt: skip
            bar(done)
        seen = frames_with_boxes(boxes)
        if not seen:
            raise ValueError(
                f'Nothing in the clip fits "{prompt}": the surest box scores {max(surest):.2f}, '
                f"and the threshold is {threshold:.2f}. Lower the threshold, raise largest, or "
                "describe it in other words."
            )
        drawn = boxes if look_at == "every frame" else [boxes[key_frame]] * frames
        report = (
            f"{sum(map(len, boxes))} boxes in frames {listed(seen)}; the surest of a frame scores "
            f"{min(surest):.2f} to {max(surest):.2f}."
        )
        return (boxes_mask(drawn, height, width), tuple(boxes), report)


class MaskThroughClip(Node):
    TITLE = "Mask through Clip"
    SEARCH_ALIASES = ["track mask", "segment video", "video segmentation", "rotoscope", "SAM2"]
    DESCRIPTION = (
        "Point at an object in one frame, with a box, with points, or with the boxes of Mask from "
        "Prompt, and SAM 2 (Ravi et al., 2024) outlines it in every frame, forwards and backwards "
        "from there. Memory does not grow with the length of the clip."
    )
    CATEGORY = CATEGORY
    FUNCTION = "follow"
    RETURN_TYPES, RETURN_NAMES, OUTPUT_TOOLTIPS = outputs(
        mask=("MASK", "White where the object is, one mask per frame, of the clip's size."),
        report=("STRING", "In which frames it is seen, and how much of them it covers."),
    )
    REQUIRED = {
        "tracker": SOCKET(TRACKER, "From Load SAM 2, such as sam2.1-hiera-small."),
        "images": SOCKET("IMAGE", "The clip to follow the object through."),
        "frame": INT(0, 0, 100000,
            "The number of the frame pointed at, from 0. Choose one that shows all of the object."),
        "box": STRING("",
            "A box around the object in that frame, in pixels: x, y, width, height, such as 120, "
            "80, 200, 150. Empty is none. A tight box works best."),
        "points": STRING("",
            "Points on the object, in pixels: x, y; x, y, such as 160, 120; 200, 140. Empty is "
            "none. If a part of it is missing, point at that, too."),
        "negative_points": STRING("",
            "Points on what does not belong to it, written alike. If the mask spills over, point "
            "at where it should not be."),
    }  # fmt: skip
    OPTIONAL = {
        "boxes": SOCKET(BOXES,
            "From Mask from Prompt: each of its boxes in that frame is an object of its own. Then "
            "box and points may stay empty."),
    }  # fmt: skip

    def follow(
        self, tracker, images, frame: int, box: str, points: str, negative_points: str, boxes=None
    ):
        from ..pipelines.masks.boxes import listed, parse_box, parse_points

        clip = layouts.clip_from_image(images)
        drawn, inside = parse_box(box), parse_points(points)
        things = _things(drawn, inside, parse_points(negative_points), boxes, clip.shape[2], frame)
        host.load(tracker, "network")
        mask = tracker.follow(clip, things, frame, on_frame=host.progress(clip.shape[2]))
        shares = mask.mean(dim=(1, 2))
        if not bool(mask.any()):
            raise ValueError(
                f"SAM 2 sees no object where frame {frame} is pointed at. Draw the box closer, "
                "point at the middle of the object, or choose another frame."
            )
        report = (
            f"Seen in frames {listed(shares.nonzero()[:, 0].tolist())} of 0 to {len(mask) - 1}, "
            f"covering up to {100 * shares.max():.1f} % of the picture."
        )
        return (mask, report)


def _things(drawn, inside, outside, boxes, frames: int, frame: int) -> list[Any]:
    """The objects to follow: one from the node's own box and points, one for each wired box."""
    from ..pipelines.masks.boxes import frames_with_boxes, listed
    from ..pipelines.models.vision.sam2_video import Pointed

    things = []
    if drawn is not None or inside:
        things.append(Pointed(drawn, inside, outside))
    if boxes is not None:
        if len(boxes) != frames:
            raise ValueError(
                f"The boxes were found in a clip of {len(boxes)} frames, and this one has {frames}."
                " Wire the same clip to both nodes."
            )
        there = boxes[frame] if frame < frames else ()
        if not len(there) and not things:
            raise ValueError(
                f"Frame {frame} has no box. Choose one that has: "
                f"{listed(frames_with_boxes(boxes))}."
            )
        # Negative points also apply to the boxes.
        things += [Pointed(tuple(found.tolist()), (), outside) for found in there]
    if not things:
        raise ValueError(
            "Nothing is pointed at. Fill in box or points, or wire the boxes of Mask from Prompt."
        )
    return things


NODE_CLASS_MAPPINGS = {
    "ReScoreLoadGroundingDino": LoadGroundingDino,
    "ReScoreLoadSam2": LoadSam2,
    "ReScoreMaskFromPrompt": MaskFromPrompt,
    "ReScoreMaskThroughClip": MaskThroughClip,
}
