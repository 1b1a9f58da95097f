"""Nodes for measures that need a model: CLIP, PickScore, LPIPS."""

from dataclasses import dataclass
from typing import Any

from . import host, layouts
from .files import FolderNode
from .measures import CATEGORY, CLIP, MeasureNode, RegionNode, compared
from .prompts import warn_of_host_syntax
from .sockets import CLIP_SCORER
from .widgets import COMBO, SOCKET, STRING, outputs

_SCORER = SOCKET(CLIP_SCORER, "From Load CLIP Scorer, such as clip-vit-large-patch14.")
_PROMPT = STRING("",
    "What the clip should show: the target prompt of the edit.", multiline=True
)  # fmt: skip


def _embedded(clip, images, prompt: str | None = None, region=None):
    """The embeddings of the frames, whole or only a region of them, and of the prompt."""
    from ..pipelines.measures.clip import only
    from ..pipelines.measures.measure import check_clip

    frames = layouts.clip_from_image(images)
    check_clip(frames, "clip")
    if region is not None:
        frames = only(frames, region)
    host.load(clip, "text_encoder")
    warn_of_host_syntax(prompt or "")
    text = None if prompt is None else clip.embed_prompt(prompt)
    return clip.embed_frames(frames, on_frames=host.progress(frames.shape[2])), text


class LoadClipScorer(FolderNode):
    TITLE = "Load CLIP Scorer"
    SEARCH_ALIASES = ["load CLIP", "load PickScore", "CLIP score model"]
    DESCRIPTION = (
        "Loads a CLIP model for measuring: a folder as transformers saves it, under "
        "models/clip_vision, such as clip-vit-large-patch14, or PickScore_v1 for PickScore. "
        "Nothing is downloaded. Compare numbers only if they were taken with the same model."
    )
    CATEGORY = CATEGORY
    FOLDER, KIND, EXAMPLE = "clip_vision", "clip", "clip-vit-large-patch14"
    TOOLTIP = (
        "A folder under models/clip_vision with config.json, weights and tokenizer. "
        "clip-vit-large-patch14 and clip-vit-base-patch32 are what papers use."
    )
    RETURN_TYPES, RETURN_NAMES, OUTPUT_TOOLTIPS = outputs(
        clip=(CLIP_SCORER,
            "The model, for CLIP Text Alignment, CLIP Frame Consistency, PickScore."),
    )  # fmt: skip

    def load(self, folder: str):
        from ..pipelines.models.vision.clip_scorer import load_clip

        return (load_clip(self.path(folder)),)


class ClipTextAlignment(MeasureNode):
    TITLE = "CLIP Text Alignment"
    SEARCH_ALIASES = ["CLIP score", "CLIPScore", "prompt adherence", "text similarity"]
    DESCRIPTION = (
        "How well a clip fits a prompt: 100 times the mean over frames of the cosine between the "
        "CLIP embeddings of frame and prompt, as most editing papers report it (CLIPScore, Hessel "
        "et al., 2021, is 2.5 max(cos, 0)). 20 is unrelated and 30 fits well, with clip-vit-large. "
        "Measure the source with the target prompt, too: the difference is the edit. With a mask, "
        "only what lies inside is shown to CLIP, on black, as FiVE-Bench does it."
    )
    REQUIRED = {"clip": _SCORER, "images": CLIP, "prompt": _PROMPT}
    OPTIONAL = {
        "mask": SOCKET("MASK",
            "White is the edited region, to be measured alone. One mask, or one per frame, at any "
            "resolution; frames without any of it do not count."),
        "threshold": RegionNode.REQUIRED["threshold"],
    }  # fmt: skip

    def measure(self, clip, images, prompt: str, mask=None, threshold: float = 0.5):
        from ..pipelines.measures.clip import text_alignment
        from ..pipelines.measures.region import region

        where = None
        if mask is not None:
            size = images.shape[:3]
            where = region(layouts.masks_of(mask), *size, "inside", threshold=threshold)
        found = text_alignment(*_embedded(clip, images, prompt, where), where)
        return (found, found.value)


class PickScore(MeasureNode):
    TITLE = "PickScore"
    SEARCH_ALIASES = ["human preference", "aesthetic score", "preference score"]
    DESCRIPTION = (
        "How people would like the frames as pictures of the prompt (Kirstain et al., 2023): the "
        "mean over frames of T cos(frame, prompt), with the embeddings and the temperature T of "
        "the PickScore model, a CLIP trained on people's choices. Around 20; a difference of 1 "
        "means that 73 of 100 would pick the better one."
    )
    REQUIRED = {
        "clip": SOCKET(CLIP_SCORER,
            "From Load CLIP Scorer, with PickScore_v1; another CLIP gives no PickScore."),
        "images": CLIP,
        "prompt": _PROMPT,
    }  # fmt: skip

    def measure(self, clip, images, prompt: str):
        from ..pipelines.measures.clip import pick_score

        found = pick_score(*_embedded(clip, images, prompt), clip.scale)
        return (found, found.value)


class ClipFrameConsistency(MeasureNode):
    TITLE = "CLIP Frame Consistency"
    SEARCH_ALIASES = ["temporal consistency", "CLIP score", "flicker metric"]
    DESCRIPTION = (
        "How much a clip stays the same over time: 100 times the mean cosine between the CLIP "
        "embeddings of two frames, over frames that follow each other (most papers) or over all "
        "pairs (Tune-A-Video, Wu et al., 2023). Higher is steadier, a still clip has 100; compare "
        "with the source's own value."
    )
    REQUIRED = {
        "clip": _SCORER,
        "images": CLIP,
        "pairs": COMBO(["neighbours", "all pairs"],
            "neighbours sees flicker; all pairs also sees slow drift. The two are different "
            "numbers: compare like with like."),
    }  # fmt: skip

    def measure(self, clip, images, pairs: str):
        from ..pipelines.measures.clip import frame_consistency

        return self.given(frame_consistency(_embedded(clip, images)[0], pairs))


@dataclass(frozen=True, eq=False)
class _Loadable:
    """A network with the interface that `host.load` needs."""

    net: Any

    def modules(self) -> dict[str, Any]:
        return {"vae": self.net}


class MaskedLPIPS(RegionNode):
    TITLE = "LPIPS"
    SEARCH_ALIASES = ["perceptual distance", "perceptual similarity", "image difference"]
    DESCRIPTION = (
        "How different the edit looks from the source (LPIPS 0.1, Zhang et al., 2018): the squared "
        "distance between the features of a network, of unit length, weighted by channel and "
        "averaged over places, summed over layers. For a region, the source's pixels are put "
        "everywhere else in the edit, and places count by their share of it. 0 is equal, 0.1 "
        "alike, 0.5 other; lower is better. Needs weights in models/lpips; the error says which."
    )
    REQUIRED = {
        **RegionNode.REQUIRED,
        "network": COMBO(["alex", "vgg", "squeeze"],
            "alex judges as people do best and is fast; vgg is what some papers report, squeeze "
            "what FiVE-Bench does. Their numbers do not compare."),
    }  # fmt: skip

    def measure(self, source, edited, region: str, threshold: float, network: str, mask=None):
        from ..pipelines.measures.lpips import load_lpips, lpips

        clips = compared(source, edited, mask, region, threshold)
        net = load_lpips(network, host.roots("lpips"))
        host.load(_Loadable(net), "vae")
        found = lpips(*clips, net, on_frame=host.progress(clips[0].shape[2]))
        return (found, found.value)


NODE_CLASS_MAPPINGS = {
    "ReScoreLoadClipScorer": LoadClipScorer,
    "ReScoreClipTextAlignment": ClipTextAlignment,
    "ReScoreClipFrameConsistency": ClipFrameConsistency,
    "ReScorePickScore": PickScore,
    "ReScoreLPIPS": MaskedLPIPS,
}
