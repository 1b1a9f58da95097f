"""Nodes that take a whole VIDEO and give one back, with its sound and the times of its frames."""

from dataclasses import replace
from typing import Any

from . import host, layouts
from .attention_sampling import AttentionControlledSampling
from .distillation import ScoreDistillation
from .inversion import DDIMInversion
from .latents import VideoVAEDecode, VideoVAEEncode
from .live import tell
from .prompts import EncodePromptPair
from .shared import SEED, WINDOWS
from .sockets import LOSSES, MODEL, PROMPTS, TERMS
from .strength import EditStrength, of_random_levels
from .terms import DeltaDenoising
from .widgets import BOOLEAN, FLOAT, INT, SOCKET, Node, outputs

CATEGORY = f"{host.CATEGORY}/video"
_FRAMES_PER_CHUNK = 8
_VIDEO = SOCKET("VIDEO", "The clip, from Load Video.")
_EDITED = {
    "video": ("VIDEO", "The edit, with the sound and the times of the clip, for Save Video."),
    "images": ("IMAGE", "The frames of the edit, for every node of frames."),
}
_MASK = SOCKET("MASK",
    "White may change; where it is black every pixel stays the clip's. One mask for the clip, or "
    "one for each frame, at any size. Without one, all of the picture may change."
)  # fmt: skip
_ALL_KEPT = "The mask is black everywhere: every pixel is the clip's own."
_MODEL_AND_PROMPTS = {
    "model": SOCKET(MODEL, "The model that edits, from a loader or from Native Model."),
    "video": _VIDEO,
    "source_prompt": EncodePromptPair.REQUIRED["source_prompt"],
    "target_prompt": EncodePromptPair.REQUIRED["target_prompt"],
}
_PROMPTS = SOCKET(
    PROMPTS, "In place of the two texts: from Native Model, for ComfyUI's own models."
)
_RESTORE = BOOLEAN(True,
    "Take out of the edit what the VAE alone has changed, as Restore Source does. If traces of the "
    "old object show, switch it off.", advanced=True
)  # fmt: skip


class EditVideo(Node):
    TITLE = "Edit Video"
    SEARCH_ALIASES = ["video to video", "edit a video", "restyle video", "inpaint video"]
    DESCRIPTION = (
        "The whole edit in one node: a video and two texts in, a video out. Encodes the clip, "
        "moves it from the first text to the second by score distillation, decodes it, and keeps "
        "sound, times of the frames and all that the mask leaves black. Terms and controls may be "
        "wired in: with those of DreamMotion or ASSD it is these methods."
    )
    CATEGORY = CATEGORY
    FUNCTION = "edit"
    RETURN_TYPES, RETURN_NAMES, OUTPUT_TOOLTIPS = outputs(
        **_EDITED,
        losses=(LOSSES, "One number for each step, for the host's Plot Loss Graph."),
    )
    REQUIRED = {
        **_MODEL_AND_PROMPTS,
        "strength": EditStrength.REQUIRED["strength"],
        "steps": INT(60, 1, 10000,
            "Steps of the edit. 60 to begin with; if the edit is unfinished, raise it. Wan and "
            "other flow models take 50, and the tiny Wan 20."),
        "seed": SEED,
    }  # fmt: skip
    OPTIONAL = {
        "mask": _MASK,
        "terms": SOCKET(TERMS, "What drives the edit; without any, Delta Denoising."),
        "fusion": ScoreDistillation.OPTIONAL["fusion"],
        "prompts": _PROMPTS,
        **WINDOWS,
        "restore_source": _RESTORE,
    }

    def edit(
        self, model, video, source_prompt: str, target_prompt: str, strength: float, steps: int,
        seed: int, mask=None, terms=None, fusion=(), prompts=None, window: int = 0,
        overlap: int = 4, restore_source: bool = True,
    ):  # fmt: skip
        from ..pipelines.models.process import is_flow

        parts, latent, prompts = _begun(model, video, source_prompt, target_prompt, prompts, mask)
        if is_flow(model.process):
            cfg, t_max, step_size, eta = EditStrength().settings(strength)
            t_min, order, term = 0.0, "descending", {"weighting": "velocity", "eta": eta}
        else:
            cfg, t_max, step_size = of_random_levels(strength)
            t_min, order, term = 0.05, "random", {}
        if terms is None:
            (terms,) = DeltaDenoising().build(1.0, 0.0, 1.0, **term)
        edited, _, losses = ScoreDistillation().run(
            model, prompts, latent, terms, steps, step_size, cfg, seed, t_min, t_max, "sgd",
            mask=mask, fusion=fusion, window=window, overlap=overlap, order=order,
        )  # fmt: skip
        return (*_finished(model, parts, latent, edited, mask, restore_source), losses)


class EditVideoByInversion(Node):
    TITLE = "Edit Video by Inversion"
    SEARCH_ALIASES = ["video to video", "VideoDirector", "Tune-A-Video", "DDIM inversion edit"]
    DESCRIPTION = (
        "The whole edit in one node: a video and two texts in, a video out. Inverts the clip to "
        "noise and samples it again with the second text, while attention is held to the clip. For "
        "image models with a motion module, and for models tuned on the clip. For null-text "
        "embeddings and every setting, take the single nodes."
    )
    CATEGORY = CATEGORY
    FUNCTION = "edit"
    RETURN_TYPES, RETURN_NAMES, OUTPUT_TOOLTIPS = outputs(**_EDITED)
    REQUIRED = {
        **_MODEL_AND_PROMPTS,
        "cfg": FLOAT(7.5, 0, 30, 0.1,
            "Guidance: how strongly the second text is followed. 7.5 to begin with; if the edit is "
            "too weak, raise it; if colours burn, lower it."),
        "steps": INT(50, 1, 1000,
            "Steps of the inversion, and as many of sampling. 50 to begin with; more find the clip "
            "back more exactly."),
        "keep_layout": FLOAT(0.4, 0, 1, 0.05,
            "Share of the steps in which the clip's layout is kept (tau_s). If the object cannot "
            "take its new shape, lower it; 0 lets go of the clip altogether."),
    }  # fmt: skip
    OPTIONAL = {
        "mask": _MASK,
        "prompts": _PROMPTS,
        "restore_source": _RESTORE,
        "strength": FLOAT(1, 0, 1, 0.01,
            "How far the clip goes towards noise: 1 all the way, 0 not at all, which edits "
            "nothing. If too much of the clip is lost, lower it.", display="slider"),
    }  # fmt: skip

    def edit(
        self, model, video, source_prompt: str, target_prompt: str, cfg: float, steps: int,
        keep_layout: float, mask=None, prompts=None, restore_source: bool = True,
        strength: float = 1.0,
    ):  # fmt: skip
        from ..pipelines.steps import whole_steps
        from ..pipelines.unchanged import BLACK, UNSEEN

        parts, latent, prompts = _begun(model, video, source_prompt, target_prompt, prompts, mask)
        back = whole_steps(strength, steps)
        if back == 0:
            tell(f"{UNSEEN}strength is {strength:g}: of {steps} steps none is left.")
            return _finished(model, parts, latent, latent, mask, restore_source)
        path = DDIMInversion().invert(model, prompts, latent, steps, 1.0, 0)[0]
        path = replace(path, trajectory=path.trajectory.first(back))
        held, black = keep_layout > 0, layouts.if_black(mask, BLACK)
        edited, _ = AttentionControlledSampling().sample(
            model, prompts, path, cfg, held, held, "refine" if held else "off", keep_layout,
            2 * keep_layout if keep_layout < 0.5 else 1.0, "", 1024, "decoder",
            mask=None if black else mask,  # either way all of the source is read
        )  # fmt: skip
        finished = _finished(model, parts, latent, edited, mask, restore_source)
        if black:
            tell(black)
        return finished


class EditedVideo(Node):
    TITLE = "Edited Video"
    SEARCH_ALIASES = ["create video", "images to video", "keep sound", "keep frame rate"]
    DESCRIPTION = (
        "Makes a video of edited frames, with the sound and the times of the clip they come from, "
        "uneven ones too. With a mask, every pixel where it is black is the clip's own. For the "
        "end of a graph of single nodes, in place of Create Video."
    )
    CATEGORY = CATEGORY
    FUNCTION = "make"
    RETURN_TYPES, RETURN_NAMES, OUTPUT_TOOLTIPS = outputs(**_EDITED)
    REQUIRED = {
        "source": SOCKET("VIDEO", "The clip that was edited, from Load Video."),
        "images": SOCKET("IMAGE", "The frames of the edit, as many as the clip has."),
    }
    OPTIONAL = {"mask": _MASK}

    def make(self, source, images, mask=None):
        from .host.videos import components_for_frames

        parts, clip = components_for_frames(source), layouts.clip_from_image(images)
        _check_edit(layouts.clip_from_image(parts.images), clip, mask)
        tell(layouts.if_black(mask, _ALL_KEPT))
        return _made(parts, clip, mask)


def _check_edit(source, clip, mask) -> None:
    """Check that a clip's sound and times, and with a mask its pixels, go with edited frames."""
    frames = clip.shape[2], source.shape[2]
    if frames[0] != frames[1]:
        raise ValueError(
            f"The edit has {frames[0]} frames and the clip {frames[1]}, so that neither its times "
            "nor its sound fit. Cut the video itself, before its frames are taken out, such as "
            "with Video Slice."
        )
    if mask is not None and clip.shape != source.shape:
        sizes = [f"{s.shape[4]} x {s.shape[3]}" for s in (clip, source)]
        raise ValueError(
            f"The edit is {sizes[0]} and the clip {sizes[1]}, so that its pixels cannot stay where "
            "the mask is black. Scale the edit to the clip's size with Upscale Image, take Crop to "
            "Region and Paste Region, or leave the mask out."
        )


def _begun(
    model, video, source_prompt: str, target_prompt: str, prompts, mask
) -> tuple[Any, Any, Any]:
    """What is in the video, its latents, and the prompts; before, the mask is checked."""
    from ..pipelines.models.grid import check_masks
    from .host.videos import components_of

    parts = components_of(video)
    if mask is not None:
        check_masks(layouts.masks_of(mask), len(parts.images))
    if prompts is None:
        prompts, _ = EncodePromptPair().encode(model, source_prompt, target_prompt, "")
    (latent,) = VideoVAEEncode().encode(model, parts.images, _FRAMES_PER_CHUNK, "mean", 0)
    return parts, latent, prompts


def _finished(model, parts, latent, edited, mask, restore: bool):
    """The edit as a video and as frames."""
    from ..pipelines.masks.restoration import restored

    def decoded(samples):
        return layouts.clip_from_image(
            VideoVAEDecode().decode(model, samples, _FRAMES_PER_CHUNK)[0]
        )

    clip = decoded(edited)
    if restore:
        clip = restored(clip, layouts.clip_from_image(parts.images), decoded(latent))
    return _made(parts, clip, mask)


def _made(parts, clip, mask):
    """A video and its frames: the clip's pixels where a mask is black, its sound and times."""
    from ..pipelines.masks.restoration import kept_outside
    from .host.videos import video_of

    if mask is not None:
        source = layouts.clip_from_image(parts.images)
        clip = kept_outside(clip, source, layouts.masks_of(mask))
    images = layouts.image_from_clip(clip).contiguous()
    return video_of(replace(parts, images=images, bit_depth=8)), images


NODE_CLASS_MAPPINGS = {
    "ReScoreEditVideo": EditVideo,
    "ReScoreEditVideoByInversion": EditVideoByInversion,
    "ReScoreEditedVideo": EditedVideo,
}
