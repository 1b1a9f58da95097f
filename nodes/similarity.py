"""Terms that keep a clip's structure: those of DreamMotion and of flow-enhanced distillation."""

from dataclasses import replace

from . import layouts
from .live import tell
from .terms import END, JOINED, START, WEIGHT, TermNode, hang
from .widgets import FLOAT, SOCKET, STRING

# The inputs after the weight, of all terms that compare attention keys.
_LAYERS_AND_TIME = {
    "sites": STRING("decoder",
        "Which self-attention layers are compared. decoder is the whole decoder, as in "
        "DreamMotion, late its blocks 1 and 2; or name patterns, separated by commas. If memory "
        "runs out, name fewer: up_blocks.1.* costs least. A pattern that matches nothing is an "
        "error that lists the layers.", advanced=True),
    "start": START,
    "end": END,
}  # fmt: skip


class SpatialSelfSimilarity(TermNode):
    TITLE = "Spatial Self-Similarity"
    SEARCH_ALIASES = ["keep layout", "keep structure", "DreamMotion", "S-SSM"]
    DESCRIPTION = (
        "Spatial self-similarity matching: in every frame, what is alike in the source stays alike "
        "in the edit, so shapes and layout are kept while colours and textures change. Compares "
        "keys of self-attention. From DreamMotion (Jeong et al., 2024, Eq. 11 and 12). Costs one "
        "model call with gradients a step."
    )
    REQUIRED = {
        "weight": FLOAT(1, 0, 10000, 0.1,
            "How firmly the layout is held, alike at every size; ours, the paper gives none. 0.3 "
            "to 1 work (from 3 on, fewer edits come), and about 300 in descending order, as the "
            "graphs with Wan have it. If shapes drift, raise it; if the edit does not come, lower "
            "it. 0 switches it off.",
            round=0.001),
        **_LAYERS_AND_TIME,
    }  # fmt: skip

    def build(self, weight: float, sites: str, start: float, end: float, terms=None):
        from ..pipelines.distillation.self_similarity import SpatialSelfSimilarity as Term

        return hang(Term(sites), weight, start, end, terms)


class TemporalSelfSimilarity(TermNode):
    TITLE = "Temporal Self-Similarity"
    SEARCH_ALIASES = ["keep motion", "reduce flicker", "DreamMotion", "T-SSM"]
    DESCRIPTION = (
        "Temporal self-similarity matching: frames that are alike in the source stay alike in the "
        "edit, so that nothing flickers or drifts. Compares frame means of self-attention keys. "
        "From DreamMotion (Jeong et al., 2024, Eq. 13 to 15). Shares its model call with Spatial "
        "Self-Similarity."
    )
    REQUIRED = {
        "weight": FLOAT(250, 0, 10000, 1,
            "How firmly the course in time is held, alike at every size; ours, the paper gives "
            "none. Times the step size: 30 to 300 work, so 300 to 3000 at a step size of 0.1 and "
            "75 to 750 at 0.4; far above, whole frames jump. If frames jump or the edit does not "
            "come, lower it. 0 switches it off.", round=0.001),
        **_LAYERS_AND_TIME,
    }  # fmt: skip

    def build(self, weight: float, sites: str, start: float, end: float, terms=None):
        from ..pipelines.distillation.self_similarity import TemporalSelfSimilarity as Term

        return hang(Term(sites), weight, start, end, terms)


class GlobalConsistency(TermNode):
    TITLE = "Global Consistency (inspired by)"
    SEARCH_ALIASES = ["colour drift", "color drift", "reduce flicker", "temporal consistency"]
    DESCRIPTION = (
        "Pulls what each frame shows as a whole towards the clip's mean, relative to how the "
        "source varies: colours stop drifting from frame to frame. Inspired by the abstract of "
        "flow-enhanced score distillation (arXiv 2406.04888v3); the definition is ours."
    )
    REQUIRED = {
        "weight": FLOAT(10, 0, 10000, 0.1,
            "How firmly frames are held together, alike at every size. 3 to 30 work; far above, "
            "whole frames jump. If colours drift in time, raise it; if the edit does not come, "
            "lower it. 0 switches it off.", round=0.001),
        **_LAYERS_AND_TIME,
    }  # fmt: skip

    def build(self, weight: float, sites: str, start: float, end: float, terms=None):
        from ..pipelines.distillation.consistency import GlobalConsistency as Term

        return hang(Term(sites), weight, start, end, terms)


_ALL_PRESERVED = (
    "The edit mask is black everywhere: all of the clip is drawn back to the source. White is what "
    "is edited."
)


class ContentPreservation(TermNode):
    TITLE = "Content Preservation (inspired by)"
    SEARCH_ALIASES = ["keep background", "keep the source", "preserve video"]
    DESCRIPTION = (
        "Pulls the latents back to the source's wherever the clip is not edited. What is edited is "
        "given as a mask, or derived from where the clip has changed most so far. Inspired by the "
        "abstract of flow-enhanced score distillation (arXiv 2406.04888v3); the definition is ours."
    )
    REQUIRED = {
        "weight": WEIGHT,
        "threshold": FLOAT(0.3, 0.01, 0.99, 0.01,
            "Without a mask: what has changed by more than this share of the largest change counts "
            "as edited. If the edit is held back, lower it; if too much of the rest changes, raise "
            "it."),
        "start": START,
        "end": END,
    }  # fmt: skip
    OPTIONAL = {
        "terms": JOINED,
        "edit_mask": SOCKET("MASK",
            "White is edited and left free, black is preserved. One mask for the clip or one per "
            "frame. Takes the place of the threshold."),
    }  # fmt: skip

    def build(
        self, weight: float, threshold: float, start: float, end: float, terms=None, edit_mask=None
    ):
        from ..pipelines.distillation.preservation import ContentPreservation as Term

        if edit_mask is None:
            return hang(Term(threshold), weight, start, end, terms)
        (wire,) = hang(Term(None), weight, start, end, terms)
        # The mask of a term says where it acts; this term acts where nothing is edited.
        mask = layouts.masks_of(edit_mask)
        tell(layouts.if_black(mask, _ALL_PRESERVED))
        preserved = 1 - mask
        return ((*wire[:-1], replace(wire[-1], masks=(preserved,))),)


NODE_CLASS_MAPPINGS = {
    "ReScoreSpatialSelfSimilarity": SpatialSelfSimilarity,
    "ReScoreTemporalSelfSimilarity": TemporalSelfSimilarity,
    "ReScoreGlobalConsistency": GlobalConsistency,
    "ReScoreContentPreservation": ContentPreservation,
}
