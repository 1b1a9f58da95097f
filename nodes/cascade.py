"""Nodes of a cascade after its keyframes: frames between them, and more pixels."""

import logging
from functools import partial
from pathlib import Path
from typing import Any

from . import host, layouts
from .files import stamp_of_model
from .load import CATEGORY, PRECISION
from .running import prepared
from .shared import NOISE_SEED, PROMPT_PAIR, WINDOWS
from .sockets import MODEL, STAGE
from .widgets import COMBO, FILES, FLOAT, INT, SOCKET, Node, outputs

log = logging.getLogger("rescore")

AFTER = f"{host.CATEGORY}/latents"
# The numbers that a call with guidance holds for each pixel and channel of the stage's width: 34
# where counted, on stages with three levels of two layers.
_NUMBERS = 40
_CUT = 0.02  # of a clip's width or height, that may be lost without a word


class LoadCascadeStage(Node):
    TITLE = "Load Cascade Stage"
    SEARCH_ALIASES = ["Show-1", "DeepFloyd IF", "interpolation model", "super-resolution model"]
    DESCRIPTION = (
        "Loads a stage of a cascade of pixels (show-1-interpolation, show-1-sr1, IF-II-L-v1.0) "
        "from a folder in diffusers layout under models/diffusers. The keyframe stage comes from "
        "Load Video Model, the last stage of Show-1 (show-1-sr2), too. Nothing is downloaded."
    )
    CATEGORY = CATEGORY
    FUNCTION = "load"
    RETURN_TYPES, RETURN_NAMES, OUTPUT_TOOLTIPS = outputs(
        stage=(STAGE, "The stage, for Interpolate Keyframes or Enlarge Clip."),
    )

    @classmethod
    def INPUT_TYPES(cls):
        from ..pipelines.models.layout import list_models

        folders = list_models(cls.roots(), "cascade")
        required = {
            "folder": FILES(folders, "put a stage into models/diffusers",
                "A folder under models/diffusers, such as show-1-interpolation, show-1-sr1 or "
                "IF-II-L-v1.0; or one of the tiny stages that come with the pack, in "
                "shapeworld-cascade."),
            "precision": PRECISION,
        }  # fmt: skip
        return {"required": required}

    @classmethod
    def IS_CHANGED(cls, folder: str, **_: Any) -> str:
        return stamp_of_model(folder, cls.roots(), "cascade")

    def load(self, folder: str, precision: str):
        from ..pipelines.models.cascade.load import load_stage
        from ..pipelines.models.layout import find_model

        path = find_model(folder, self.roots(), "cascade")
        return (load_stage(path, dtype=host.dtype(precision)),)

    @staticmethod
    def roots() -> list[Path]:
        """The host's folders, and that of the tiny models that come with the pack."""
        from ..shapeworld.finished import WEIGHTS

        return [*host.roots("diffusers"), WEIGHTS]


class PickKeyframes(Node):
    TITLE = "Pick Keyframes"
    SEARCH_ALIASES = ["keyframes", "downscale clip", "Show-1 frames"]
    DESCRIPTION = (
        "Picks frames evenly from a clip and makes them as small as the keyframes of a cascade: "
        "each pixel is the mean of those it stands for. A clip of another aspect is cut at its "
        "edges, and the log says how much."
    )
    CATEGORY = AFTER
    FUNCTION = "pick"
    RETURN_TYPES, RETURN_NAMES, OUTPUT_TOOLTIPS = outputs(
        keyframes=("IMAGE", "The keyframes, for Video VAE Encode with the keyframe model."),
        mask=("MASK", "The masks of the keyframes; white everywhere if no mask is wired."),
    )
    REQUIRED = {
        "images": SOCKET("IMAGE", "The clip, from Get Video Components or any node of frames."),
        "frames": INT(8, 2, 256, "Keyframes, with the first and the last frame: 8 in Show-1."),
        "width": INT(64, 8, 256, "Pixels of a keyframe. Show-1 makes 64 x 40; DreamMotion names "
            "128 x 80, too. The shape-world cascade has 16 x 16."),
        "height": INT(40, 8, 256, "Pixels of its other side; see width."),
        "aspect": COMBO(["crop", "stretch"],
            "What becomes of a clip of another aspect. crop: its edges are cut. stretch: all of it "
            "is kept, and what is round is no longer round.", advanced=True),
    }  # fmt: skip
    OPTIONAL = {
        "mask": SOCKET("MASK",
            "Masks of the clip, of which those of the keyframes are picked and cut alike: one for "
            "the clip, or one for each frame."),
    }  # fmt: skip

    def pick(self, images, frames: int, width: int, height: int, aspect: str, mask=None):
        import torch

        from ..pipelines.cascade.interpolation import SPAN
        from ..pipelines.cascade.keyframes import cut, masks_of_keyframes, picked

        clip = _clip(images)
        masks = torch.ones(1, *clip.shape[3:]) if mask is None else layouts.masks_of(mask)
        masks = masks_of_keyframes(masks, clip.shape[2], frames)
        if aspect == "crop":
            whole, clip, masks = clip, cut(clip, height, width), cut(masks, height, width)
            lost = [1 - a / b for a, b in zip(clip.shape[3:], whole.shape[3:], strict=True)]
            if max(lost) > _CUT:
                log.warning(
                    "Keyframes of %d x %d have another aspect than the clip (%d x %d): %.0f %% of "
                    "its height and %.0f %% of its width are cut off. Choose a width and height of "
                    "the clip's aspect, or stretch.",
                    width, height, whole.shape[4], whole.shape[3], *(100 * part for part in lost),
                )  # fmt: skip
        after = (SPAN - 1) * (frames - 1) + 1
        if after != clip.shape[2]:
            log.warning(
                "Interpolate Keyframes makes %d frames of %d keyframes, and the clip has %d. For "
                "an edit as long as the clip, load a clip of 5, 9, 13, ... frames, and pick every "
                "fourth of them: 8 of 29.",
                after, frames, clip.shape[2],
            )  # fmt: skip
        return layouts.image_from_clip(picked(clip, frames, height, width)), masks


class InterpolateKeyframes(Node):
    TITLE = "Interpolate Keyframes"
    SEARCH_ALIASES = ["frame interpolation", "Show-1 interpolation", "in-between frames"]
    DESCRIPTION = (
        "Makes three frames between every two keyframes under the target prompt: 29 frames of 8. "
        "Every pair starts from the same noise."
    )
    CATEGORY = AFTER
    FUNCTION = "interpolate"
    RETURN_TYPES, RETURN_NAMES, OUTPUT_TOOLTIPS = outputs(
        images=("IMAGE", "The clip, for Enlarge Clip."),
    )
    REQUIRED = {
        "stage": SOCKET(STAGE, "From Load Cascade Stage: show-1-interpolation."),
        "prompts": PROMPT_PAIR,
        "keyframes": SOCKET("IMAGE", "The keyframes at their own size, from Video VAE Decode."),
        "steps": INT(75, 1, 999, "Steps for each pair. 75 is Show-1's; for a quick look 20 do."),
        "cfg": FLOAT(4, 0, 30, 0.1, "Guidance between the keyframes. 4 is Show-1's."),
        "seed": NOISE_SEED("frames"),
    }  # fmt: skip

    def interpolate(self, stage, prompts, keyframes, steps: int, cfg: float, seed: int):
        import torch

        from ..pipelines.cascade.interpolation import SPAN, interpolate

        _of_role(stage, "interpolation")
        clip = _clip(keyframes) * 2 - 1
        pairs = clip.shape[2] - 1
        memory = _memory(stage, SPAN * clip.shape[3] * clip.shape[4])
        with (
            torch.inference_mode(False),
            torch.no_grad(),
            host.alone(stage, "network", memory=memory),
        ):
            made = interpolate(
                clip.to(stage.device),
                stage,
                prompts.embeddings.target,
                prompts.embeddings.negative,
                steps=steps,
                cfg=cfg,
                generator=torch.Generator().manual_seed(seed),
                on_step=_shows(max(1, pairs) * steps),
            )
        return (_image(made),)


class EnlargeClip(Node):
    TITLE = "Enlarge Clip"
    SEARCH_ALIASES = ["super-resolution", "upscale video", "Show-1 SR1", "DeepFloyd IF II"]
    DESCRIPTION = (
        "Super-resolution of a cascade under the target prompt: the first frame as a picture, the "
        "rest in windows of 8 frames, each of which goes on from the last frame of the one before."
    )
    CATEGORY = AFTER
    FUNCTION = "enlarge"
    RETURN_TYPES, RETURN_NAMES, OUTPUT_TOOLTIPS = outputs(
        images=("IMAGE", "The larger clip, for Create Video, or for Show-1's last stage."),
    )
    REQUIRED = {
        "image_stage": SOCKET(STAGE, "From Load Cascade Stage: IF-II-L-v1.0."),
        "stage": SOCKET(STAGE, "From Load Cascade Stage: show-1-sr1."),
        "prompts": PROMPT_PAIR,
        "images": SOCKET("IMAGE", "The clip, from Interpolate Keyframes."),
        "factor": INT(4, 2, 8, "How many times as wide and high the clip becomes. 4 is Show-1's."),
        "image_steps": INT(70, 1, 999, "Steps for the first frame. 70 is Show-1's."),
        "image_cfg": FLOAT(4, 0, 30, 0.1, "Guidance for the first frame. 4 is Show-1's."),
        "image_noise_level": INT(150, 0, 999,
            "Timestep up to which the small frame is noised first. 150 is Show-1's. If the large "
            "one is unlike it, lower this; if it is not sharp, raise it."),
        "steps": INT(125, 1, 999, "Steps for each window. 125 is Show-1's; 30 for a quick look."),
        "cfg": FLOAT(7, 0, 30, 0.1, "Guidance for the windows. 7 is Show-1's."),
        "noise_level": INT(250, 0, 999, "As image_noise_level, for the windows. 250 is Show-1's."),
        "seed": NOISE_SEED("clip"),
    }  # fmt: skip

    def enlarge(
        self, image_stage, stage, prompts, images, factor: int, image_steps: int,
        image_cfg: float, image_noise_level: int, steps: int, cfg: float, noise_level: int,
        seed: int,
    ):  # fmt: skip
        import torch

        from ..pipelines.cascade import super_resolution as sr

        _of_role(image_stage, "image-sr")
        _of_role(stage, "video-sr")
        small = _clip(images) * 2 - 1
        show = _shows(image_steps + steps * len(sr.spans(small.shape[2])))
        generator = torch.Generator().manual_seed(seed)
        texts = prompts.embeddings.target, prompts.embeddings.negative
        pixels = factor**2 * small.shape[3] * small.shape[4]
        with torch.inference_mode(False), torch.no_grad():
            sr.check_size(stage, *(factor * side for side in small.shape[-2:]), factor)
            with host.alone(image_stage, "network", memory=_memory(image_stage, pixels)):
                large = sr.big_first_frame(
                    small.to(image_stage.device), image_stage, *texts, factor=factor,
                    how=sr.Enlarging(image_steps, image_cfg, image_noise_level),
                    generator=generator, on_step=show,
                )  # fmt: skip
            with host.alone(stage, "network", memory=_memory(stage, sr.WINDOW * pixels)):
                made = sr.enlarge_after(
                    small.to(stage.device), large.to(stage.device), stage, *texts,
                    how=sr.Enlarging(steps, cfg, noise_level), generator=generator, on_step=show,
                )  # fmt: skip
        return (_image(made),)


class ResampleClip(Node):
    TITLE = "Resample Clip"
    SEARCH_ALIASES = ["video to video", "vid2vid", "Show-1 SR2", "refine video", "SDEdit"]
    DESCRIPTION = (
        "Noises a clip's latents part of the way and denoises them under the target prompt "
        "(SDEdit, Meng et al., 2022). The last stage of Show-1 (show-1-sr2) does so at 576 x 320."
    )
    CATEGORY = AFTER
    FUNCTION = "resample"
    RETURN_TYPES, RETURN_NAMES, OUTPUT_TOOLTIPS = outputs(
        latent=("LATENT", "The clip anew, for Video VAE Decode."),
    )
    REQUIRED = {
        "model": SOCKET(MODEL, "A video model: show-1-sr2, or any other."),
        "prompts": PROMPT_PAIR,
        "latent": SOCKET("LATENT", "The clip at its final size, from Video VAE Encode."),
        "steps": INT(50, 1, 999, "Steps from noise to clip, of which the share strength is made."),
        "strength": FLOAT(0.8, 0, 1, 0.01,
            "How far the clip is noised. 0.8 is Show-1's. If the clip changes too much, lower it; "
            "0 leaves it as it is."),
        "cfg": FLOAT(9, 0, 100, 0.1, "Guidance. 9 is what Show-1's pipeline begins with."),
        "seed": NOISE_SEED("clip"),
        **WINDOWS,
    }  # fmt: skip

    def resample(
        self, model, prompts, latent, steps: int, strength: float, cfg: float, seed: int,
        window: int, overlap: int,
    ):  # fmt: skip
        import torch

        from ..pipelines.inversion.sampling import ddim_sample
        from ..pipelines.models.process import noised
        from ..pipelines.steps import whole_steps
        from ..pipelines.windows import windowed

        ready = prepared(model, latent, rows=2)
        made = whole_steps(strength, steps)
        if made == 0:
            return (latent,)
        _, target, negative = prompts.embeddings
        generator, show = torch.Generator().manual_seed(seed), ready.shows(made)

        def work(denoiser):
            levels = denoiser.grid(steps)[: made + 1]
            noise = torch.randn(ready.z.shape, generator=generator).to(ready.z)
            guided = partial(denoiser.guided, uncond=negative, cfg=cfg)
            predict = windowed(guided, ready.windows(window, overlap))
            return ddim_sample(
                noised(ready.z, noise, levels[-1]), partial(predict, cond=target), levels, show
            )

        return (ready.latent(ready.run(work)),)


def _of_role(stage: Any, role: str) -> None:
    """Refuse a stage that does something else."""
    from ..pipelines.models.cascade.stage import ROLES

    if stage.role != role:
        raise ValueError(
            f"{stage.name} {ROLES[stage.role]}, and here goes a stage that {ROLES[role]}. Load "
            "that one with Load Cascade Stage."
        )


def _clip(images: Any) -> Any:
    """IMAGE as a clip `[1, 3, f, h, w]` in 0..1, float32, with frames, and of finite pixels."""
    from ..pipelines.models.codec import check_frames, check_pixels

    clip = layouts.clip_from_image(images).float()
    check_frames(clip)
    check_pixels(clip[0].movedim(1, 0), 0)
    return clip


def _memory(stage: Any, pixels: int) -> int:
    """A rough upper bound of what a call with guidance takes, in bytes, on top of the weights."""
    return _NUMBERS * stage.dtype.itemsize * pixels * stage.width


def _shows(total: int):
    """Progress, previews and Cancel of all steps of all calls."""
    bar, done = host.progress(total), iter(range(1, total + 1))

    def show(z) -> None:
        middle = z[0, :, z.shape[2] // 2]
        bar(next(done), lambda: middle.permute(1, 2, 0) / 2 + 0.5)

    return show


def _image(made):
    return layouts.image_from_clip((made / 2 + 0.5).clamp(0, 1).cpu())


NODE_CLASS_MAPPINGS = {
    "ReScoreLoadCascadeStage": LoadCascadeStage,
    "ReScorePickKeyframes": PickKeyframes,
    "ReScoreInterpolateKeyframes": InterpolateKeyframes,
    "ReScoreEnlargeClip": EnlargeClip,
    "ReScoreResampleClip": ResampleClip,
}
