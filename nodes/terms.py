"""The nodes of delta denoising and of gradient masks, and the base of all nodes that add a term."""

from dataclasses import replace

from . import host, layouts
from .live import tell
from .sockets import TERMS
from .widgets import BOOLEAN, COMBO, FLOAT, SOCKET, Node, outputs

CATEGORY = f"{host.CATEGORY}/terms"

# The inputs that all terms share.
WEIGHT = FLOAT(1, 0, 100, 0.01, "How much this term counts beside the others. 0 switches it off.")
START = FLOAT(0, 0, 1, 0.01,
    "Share of the steps after which the term sets in; 0 is from the first step.", advanced=True
)  # fmt: skip
END = FLOAT(1, 0, 1, 0.01,
    "Share of the steps after which the term ends; 1 is at the last step.", advanced=True
)  # fmt: skip
_NOWHERE = "The mask is black everywhere: the terms before this node act nowhere."
JOINED = SOCKET(TERMS, "Other terms to combine this one with: their gradients are added.")


class TermNode(Node):
    """A node that adds one term to the terms on the wire; its `build` makes it."""

    CATEGORY = CATEGORY
    FUNCTION = "build"
    RETURN_TYPES, RETURN_NAMES, OUTPUT_TOOLTIPS = outputs(
        terms=(TERMS, "The terms so far, for another term or for Score Distillation."),
    )
    OPTIONAL = {"terms": JOINED}


def hang(term, weight: float, start: float, end: float, terms: tuple | None) -> tuple:
    """The result of a term node: the terms on the wire and one more."""
    from ..pipelines.distillation.terms import Weighted

    return ((*(terms or ()), Weighted(term, weight, start=start, end=end)),)


class DeltaDenoising(TermNode):
    TITLE = "Delta Denoising"
    SEARCH_ALIASES = ["DDS", "V-DDS", "edit video", "delta denoising score", "DreamMotion"]
    DESCRIPTION = (
        "Video delta denoising: moves the clip from the source prompt towards the target prompt. "
        "The gradient is the difference of two noise predictions, so that what the model gets "
        "wrong about the source cancels. From DreamMotion (Jeong et al., 2024, Eq. 10)."
    )
    REQUIRED = {"weight": WEIGHT, "start": START, "end": END}
    OPTIONAL = {
        "terms": JOINED,
        "weighting": COMBO(["eps", "velocity", "x0", "bare velocity"],
            "How levels of noise count. eps: the difference of predicted noises, as in the papers "
            "for Stable Diffusion. velocity: that of velocities, for flow models such as Wan "
            "(FlowEdit, DRFS, FlowAlign). x0: that of predicted clips. bare velocity: nothing "
            "pulls to the source where eta is below 1 (DFVEdit)."),
        "eta": FLOAT(0, 0, 1, 0.05,
            "Part of the edit so far by which the noised clip is moved back. 0 keeps most of the "
            "source (DDS), 1 edits most (FlowEdit). If the edit is too weak, raise it; if too much "
            "changes, lower it."),
        "eta_rises": BOOLEAN(False,
            "Eta grows from 0 to its value along the steps, as in DRFS: it keeps first and edits "
            "later."),
    }  # fmt: skip

    def build(
        self, weight: float, start: float, end: float, terms: tuple | None = None,
        weighting: str = "eps", eta: float = 0.0, eta_rises: bool = False,
    ):  # fmt: skip
        from ..pipelines.distillation.delta_denoising import DeltaDenoising as Term

        term = Term(weighting=weighting, eta=eta, rising=eta_rises)
        return hang(term, weight, start, end, terms)


class GradientMask(Node):
    TITLE = "Gradient Mask"
    SEARCH_ALIASES = ["inpaint video", "masked edit", "regional edit", "limit edit"]
    DESCRIPTION = (
        "Confines the gradients of all terms on the wire so far to a mask; terms joined later stay "
        "unmasked, and masks of several such nodes multiply. DreamMotion masks delta denoising "
        "alone and leaves its self-similarity terms free. To keep everything outside a region "
        "untouched, use the mask of Score Distillation."
    )
    CATEGORY = CATEGORY
    FUNCTION = "apply"
    RETURN_TYPES, RETURN_NAMES, OUTPUT_TOOLTIPS = outputs(terms=(TERMS, "The same terms, masked."))
    REQUIRED = {
        "terms": SOCKET(TERMS, "The terms to confine."),
        "mask": SOCKET("MASK",
            "White is where the terms act. One mask for the whole clip or one per frame, at any "
            "resolution. Boxes around the object are what the paper uses."),
    }  # fmt: skip

    def apply(self, terms: tuple, mask):
        mask = layouts.masks_of(mask)
        tell(layouts.if_black(mask, _NOWHERE))
        return (tuple(replace(entry, masks=(*entry.masks, mask)) for entry in terms),)


class SourcePull(TermNode):
    TITLE = "Source Pull"
    SEARCH_ALIASES = ["FlowAlign", "source consistency", "keep the source", "zeta"]
    DESCRIPTION = (
        "Draws what the model takes for the edited clip back to what it takes for the source, a "
        "little in every step: paths get smoother, and more of the source stays. From FlowAlign "
        "(arXiv 2505.23145); goes with Delta Denoising of eta 1, and costs no call of the model."
    )
    REQUIRED = {
        "weight": FLOAT(0.01, 0, 1, 0.001,
            "Zeta, the share that is drawn back in each step. FlowAlign takes 0.01; with Wan "
            "0.001, behind a Gradient Mask that is white in the background. If too much changes, "
            "raise it; if the edit does not come, lower it. 0 switches it off."),
        "start": START,
        "end": END,
    }  # fmt: skip

    def build(self, weight: float, start: float, end: float, terms: tuple | None = None):
        from ..pipelines.distillation.source_pull import SourcePull as Term

        return hang(Term(), weight, start, end, terms)


class DirectionCorrection(Node):
    TITLE = "Direction Correction"
    SEARCH_ALIASES = ["FlowDirector", "direction-aware flow correction", "projection"]
    DESCRIPTION = (
        "Corrects the gradients of the terms on the wire so far: their part along the source's own "
        "velocity is dropped where it points the same way, and enlarged where it points back. So "
        "shapes and textures change more. From FlowDirector (arXiv 2506.05046); for flow models. "
        "Terms that compare attention keys stay as they are."
    )
    CATEGORY = CATEGORY
    FUNCTION = "apply"
    RETURN_TYPES, RETURN_NAMES, OUTPUT_TOOLTIPS = outputs(
        terms=(TERMS, "The same terms, corrected."),
    )
    REQUIRED = {
        "terms": SOCKET(TERMS, "The terms to correct, such as Delta Denoising."),
        "enlarged": FLOAT(1.25, 0, 10, 0.05,
            "Factor of what points against the source. FlowDirector takes 1.25. If the edit is too "
            "weak, raise it; if the picture breaks up, lower it."),
    }  # fmt: skip

    def apply(self, terms: tuple, enlarged: float):
        from ..pipelines.distillation.direction import DirectionCorrection as Correction

        more = Correction(enlarged)
        return (tuple(replace(e, corrections=(*e.corrections, more)) for e in terms),)


NODE_CLASS_MAPPINGS = {
    "ReScoreDeltaDenoising": DeltaDenoising,
    "ReScoreGradientMask": GradientMask,
    "ReScoreSourcePull": SourcePull,
    "ReScoreDirectionCorrection": DirectionCorrection,
}
