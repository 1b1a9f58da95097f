"""A blueprint for each method: VIDEO, model, two texts, strength, perhaps a mask; VIDEO out."""

from collections.abc import Callable
from typing import Any, NamedTuple

from blueprint import Blueprint
from graph import Output
from rescore.nodes.video import EditVideo
from rescore.shapeworld.scene import caption
from rescore.shapeworld.showcase import SHOWCASE

_MIDDLE = EditVideo.REQUIRED["strength"][1]["default"]
# Of inversion it says how far the clip goes towards noise: from half the way little changes.
_TOWARDS_NOISE = 0.8
_STARTS = "The strength is how far the clip goes towards noise: below 0.5 little changes."
SAM3 = "sam3.1_multiplex_fp16.safetensors"
_SAM3_FILES = "https://huggingface.co/Comfy-Org/sam3.1/resolve/main/checkpoints"


class Ends(NamedTuple):
    """What comes into a blueprint."""

    video: Output
    model: Output
    shows: Output
    should: Output
    strength: Output
    mask: Output

    @property
    def texts(self) -> dict[str, Output]:
        """Both texts, by the names of the inputs that take them."""
        return {"source_prompt": self.shows, "target_prompt": self.should}


def _blueprint(method: str, words: str, strength: float = _MIDDLE) -> tuple[Blueprint, Ends]:
    name = f"edit_video_{method.lower().replace(' ', '_').replace('-', '_')}"
    whole = Blueprint(name, f"Edit Video ({method}, ReScore)", words)
    comes_in, edit = whole.comes_in, SHOWCASE["red_circle"]
    return whole, Ends(
        video=comes_in("video", "VIDEO"),
        model=comes_in("model", "RESCORE_MODEL"),
        shows=comes_in("what it shows", "STRING", caption(edit.source)),
        should=comes_in("what it should show", "STRING", caption(edit.target)),
        strength=comes_in("strength", "FLOAT", strength),
        mask=comes_in("mask", "MASK"),
    )


def _distilled(whole: Blueprint, ends: Ends, terms: Output, **controls: Output) -> Blueprint:
    whole.tiny = (
        "With a tiny model of the pack take a strength of 0.3: at 0.5 it moves the background, too."
    )
    edit = whole.add(
        "ReScoreEditVideo",
        "Edit",
        model=ends.model,
        video=ends.video,
        **ends.texts,
        strength=ends.strength,
        mask=ends.mask,
        terms=terms,
        **controls,
    )
    whole.goes_out("video", edit["video"])
    return whole


def delta_denoising() -> Blueprint:
    whole, ends = _blueprint(
        "delta denoising",
        "Moves a video from one text to another. To begin with. Wire a video model to model.",
    )
    return _distilled(whole, ends, whole.add("ReScoreDeltaDenoising", "Edit")["terms"])


def dreammotion() -> Blueprint:
    whole, ends = _blueprint(
        "DreamMotion",
        "Delta denoising that holds shapes in space and in time. Wire a video model to model.",
    )
    terms = whole.add("ReScoreDeltaDenoising", "Edit")["terms"]
    terms = whole.add("ReScoreSpatialSelfSimilarity", "Edit", terms=terms)["terms"]
    # A step is 0.25 at strength 0.5 and 0.4 at 1.
    terms = whole.add("ReScoreTemporalSelfSimilarity", "Edit", terms=terms, weight=500)["terms"]
    return _distilled(whole, ends, terms)


def assd() -> Blueprint:
    whole, ends = _blueprint(
        "ASSD",
        "Delta denoising whose reference is smoothed in time, and whose attention also reads the "
        "source: where no mask can be painted. Wire a video model to model.",
    )
    terms = whole.add("ReScoreAdaptiveSliding", "Edit")["terms"]
    fusion = whole.add("ReScoreAttentionFusion", "Edit")["fusion"]
    return _distilled(whole, ends, terms, fusion=fusion)


def flow_enhanced() -> Blueprint:
    whole, ends = _blueprint(
        "flow-enhanced",
        "Delta denoising smoothed along the optical flow of the clip, where edits flicker. Wire a "
        "video model to model.",
    )
    parts = whole.add("GetVideoComponents", "Load", "Frames", video=ends.video)
    flow = whole.add("ReScoreOpticalFlow", "Edit", images=parts["images"])["flow"]
    terms = whole.add("ReScoreDeltaDenoising", "Edit")["terms"]
    terms = whole.add("ReScoreFlowSmoothing", "Edit", terms=terms, flow=flow)["terms"]
    terms = whole.add("ReScoreContentPreservation", "Edit", terms=terms)["terms"]
    return _distilled(whole, ends, terms)


def _inverted(whole: Blueprint, ends: Ends, model: Output, **settings: Any) -> Blueprint:
    edit = whole.add(
        "ReScoreEditVideoByInversion",
        "Edit",
        model=model,
        video=ends.video,
        **ends.texts,
        mask=ends.mask,
        strength=ends.strength,
        **settings,
    )
    whole.goes_out("video", edit["video"])
    return whole


def inversion() -> Blueprint:
    whole, ends = _blueprint(
        "VideoDirector",
        "Inverts a video to noise and samples it with another text, while attention is held to it; "
        "without null-text embeddings, which take minutes. Wire an AnimateDiff model to model. "
        + _STARTS,
        _TOWARDS_NOISE,
    )
    whole.tiny = (
        "With the tiny AnimateDiff model of the pack set `cfg` 5, `steps` 25 and `keep_layout` "
        "0.3, and take a strength of 1."
    )
    return _inverted(whole, ends, ends.model, cfg=8.5)


def _tuned(
    method: str, variant: str, words: str, posterior: str = "mean", **sampling: Any
) -> Blueprint:
    whole, ends = _blueprint(method, f"{words} {_STARTS}", _TOWARDS_NOISE)
    add = whole.add
    parts = add("GetVideoComponents", "Load", "Frames", video=ends.video)
    model = add("ReScoreInflateImageModel", "Edit", model=ends.model, variant=variant)["model"]
    prompts = add("ReScoreEncodePromptPair", "Describe", model=model, **ends.texts)["prompts"]
    latent = add(
        "ReScoreVideoVAEEncode", "Edit", model=model, images=parts["images"], posterior=posterior
    )["latent"]
    whole.tiny = (
        "With the tiny image model of the pack set `steps` 100 and `learning_rate` 0.0001 in "
        "*One-Shot Tune*, `cfg` 1.5 and `steps` 25 in *Edit Video by Inversion*, and take a "
        "strength of 1."
    )
    tuned = add("ReScoreOneShotTune", "Edit", model=model, prompts=prompts, latent=latent)["model"]
    return _inverted(whole, ends, tuned, keep_layout=0.0, **sampling)


def ei2() -> Blueprint:
    return _tuned(
        "EI2",
        "ei2",
        "Teaches an image model the motion of a video, 500 steps, and samples it with another "
        "text. Wire a Stable Diffusion model to model.",
    )


def tune_a_video() -> Blueprint:
    return _tuned(
        "Tune-A-Video",
        "tune-a-video",
        "As EI2, with the attention of the baseline that it is compared with, and its authors' "
        "guidance and sample of the VAE. Wire a Stable Diffusion model to model.",
        posterior="sample",
        cfg=12.5,
    )


def mask_sam3() -> Blueprint:
    whole = Blueprint(
        "mask_sam3",
        "Mask from Words (SAM 3, ReScore)",
        "Finds what a few words name in every frame of a video, with ComfyUI's own SAM 3: the mask "
        "for an edit. Older hosts take Mask from Prompt and Mask through Clip.",
    )
    add = whole.add
    video = whole.comes_in("video", "VIDEO")
    words = whole.comes_in("what to find", "STRING", "the red circle")
    frames = add("GetVideoComponents", "Load", "Frames", video=video)["images"]
    loaded = add("CheckpointLoaderSimple", "Load", "Load SAM 3", ckpt_name=SAM3)
    whole.nodes[-1].models = [
        {"name": SAM3, "url": f"{_SAM3_FILES}/{SAM3}", "directory": "checkpoints"}
    ]
    text = add("CLIPTextEncode", "Describe", "What to find", clip=loaded["CLIP"], text=words)
    track = add(
        "SAM3_VideoTrack",
        "Edit",
        images=frames,
        model=loaded["MODEL"],
        conditioning=text["CONDITIONING"],
    )
    mask = add("SAM3_TrackToMask", "Result", track_data=track["track_data"])
    whole.goes_out("mask", mask["masks"])
    return whole


BLUEPRINTS: tuple[Callable[[], Blueprint], ...] = (
    delta_denoising,
    dreammotion,
    assd,
    flow_enhanced,
    inversion,
    ei2,
    tune_a_video,
    mask_sam3,
)
