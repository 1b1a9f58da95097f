"""Nodes that hang a reason to change the clip on the terms wire, and nodes that confine them."""

from dataclasses import replace
from typing import Any

from . import host, layouts
from .sockets import TERMS

CATEGORY = f"{host.CATEGORY}/terms"

# What every term node ends with: how much it counts, when, and the terms it joins.
WEIGHT = (
    "FLOAT",
    {
        "default": 1.0,
        "min": 0.0,
        "max": 100.0,
        "step": 0.01,
        "tooltip": "How much this term counts beside the others. 0 switches it off.",
    },
)
START = (
    "FLOAT",
    {
        "default": 0.0,
        "min": 0.0,
        "max": 1.0,
        "step": 0.01,
        "tooltip": "Share of the steps after which the term sets in; 0 is from the first step.",
    },
)
END = (
    "FLOAT",
    {
        "default": 1.0,
        "min": 0.0,
        "max": 1.0,
        "step": 0.01,
        "tooltip": "Share of the steps after which the term ends; 1 is at the last step.",
    },
)
JOINED = (
    TERMS,
    {"tooltip": "Other terms to combine this one with: their gradients are added."},
)


class TermNode:
    """What all nodes share that hang one term on the wire; `build` gives it."""

    CATEGORY = CATEGORY
    FUNCTION = "build"
    RETURN_TYPES = (TERMS,)
    RETURN_NAMES = ("terms",)
    OUTPUT_TOOLTIPS = ("The terms so far, for another term or for Score Distillation.",)


def hang(term, weight: float, start: float, end: float, terms: tuple | None) -> tuple:
    """The wire's terms and one more."""
    from ..pipelines.distillation.terms import Weighted

    return ((*(terms or ()), Weighted(term, weight, start=start, end=end)),)


class DeltaDenoising(TermNode):
    """Video delta denoising (V-DDS)."""

    DESCRIPTION = (
        "Video delta denoising: moves the clip from the source prompt towards the target prompt. "
        "The gradient is the difference of two noise predictions, so that what the model gets "
        "wrong about the source cancels. From DreamMotion (Jeong et al., 2024, Eq. 10)."
    )

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {"weight": WEIGHT, "start": START, "end": END},
            "optional": {"terms": JOINED},
        }

    def build(self, weight: float, start: float, end: float, terms: tuple | None = None):
        from ..pipelines.distillation.delta_denoising import DeltaDenoising as Term

        return hang(Term(), weight, start, end, terms)


class GradientMask:
    """A mask on the gradients of the terms before it."""

    DESCRIPTION = (
        "Confines the gradients of all terms on the wire so far to a mask; terms joined later stay "
        "unmasked, and masks of several such nodes multiply. DreamMotion masks delta denoising "
        "alone and leaves its self-similarity terms free. To keep everything outside a region "
        "untouched, use the mask of Score Distillation."
    )
    CATEGORY = CATEGORY
    FUNCTION = "apply"
    RETURN_TYPES = (TERMS,)
    RETURN_NAMES = ("terms",)
    OUTPUT_TOOLTIPS = ("The same terms, masked.",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "terms": (TERMS, {"tooltip": "The terms to confine."}),
                "mask": (
                    "MASK",
                    {
                        "tooltip": "White is where the terms act. One mask for the whole clip or "
                        "one per frame, at any resolution. Boxes around the object are what the "
                        "paper uses."
                    },
                ),
            }
        }

    def apply(self, terms: tuple, mask):
        mask = layouts.masks_of(mask)
        return (tuple(replace(entry, masks=(*entry.masks, mask)) for entry in terms),)


NODE_CLASS_MAPPINGS = {
    "ReScoreDeltaDenoising": DeltaDenoising,
    "ReScoreGradientMask": GradientMask,
}
NODE_DISPLAY_NAME_MAPPINGS = {
    "ReScoreDeltaDenoising": "Delta Denoising",
    "ReScoreGradientMask": "Gradient Mask",
}
