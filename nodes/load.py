"""Nodes that load models from the user's folders, and the tiny models of the pack."""

from pathlib import Path
from typing import Any

from . import host
from .files import stamp_of_model
from .running import of_stable_diffusion
from .sockets import MODEL
from .widgets import COMBO, FILES, SOCKET, Node, outputs

CATEGORY = f"{host.CATEGORY}/models"

PRECISION = COMBO(["auto", "fp32", "bf16", "fp16"],
    "Number format of the weights. auto: bf16 or fp16 where the GPU is good at it, fp32 on a CPU. "
    "Latents are always kept in fp32. If you see black or NaN frames "
    "with fp16, choose bf16 or fp32.", advanced=True
)  # fmt: skip

_WITH_FP8 = COMBO(["auto", "fp32", "bf16", "fp16", "fp8"],
    f"{PRECISION[1]['tooltip']} fp8: weights are stored in 8 bits and computed in bf16, half the "
    "memory of bf16; if the edit looks rough, go back to bf16.", advanced=True
)  # fmt: skip


def _roots(*categories: str) -> list[Path]:
    return [root for category in categories for root in host.roots(category)]


def _found(name: str, kind: str, *categories: str) -> Path:
    """The path of a chosen model in the host's folders for these categories."""
    from ..pipelines.models.layout import find_model

    roots = _roots(*categories)
    if name.startswith("("):
        raise ValueError(
            f"No model is chosen. Put one into one of {', '.join(map(str, roots))}, refresh, and "
            "choose it; or use Load Shape-World Model, which needs no download."
        )
    return find_model(name, roots, kind)


class LoadVideoModel(Node):
    TITLE = "Load Video Model"
    SEARCH_ALIASES = [
        "text to video model", "ModelScope", "ZeroScope", "Wan", "video model loader"
    ]  # fmt: skip
    DESCRIPTION = (
        "Loads a text-to-video model (ModelScope, ZeroScope, Wan 2.1, Wan 2.2 5B, the keyframes of "
        "Show-1) from a folder in diffusers layout under models/diffusers. Nothing is downloaded."
    )
    CATEGORY = CATEGORY
    FUNCTION = "load"
    RETURN_TYPES, RETURN_NAMES, OUTPUT_TOOLTIPS = outputs(
        model=(MODEL, "The model, for Encode Prompt Pair, Video VAE Encode and the loops."),
    )

    @classmethod
    def INPUT_TYPES(cls):
        from ..pipelines.models.layout import list_models

        roots = host.roots("diffusers")
        kinds = ("text-to-video", "wan", "cascade")
        folders = sorted(name for kind in kinds for name in list_models(roots, kind))
        required = {
            "folder": FILES(folders, "put a model into models/diffusers",
                "A folder under models/diffusers, such as zeroscope_v2_576w, "
                "Wan2.1-T2V-1.3B-Diffusers or show-1-base."),
            "precision": _WITH_FP8,
        }  # fmt: skip
        return {"required": required}

    @classmethod
    def IS_CHANGED(cls, folder: str, **_: Any) -> str:
        return stamp_of_model(folder, _roots("diffusers"), "text-to-video")

    def load(self, folder: str, precision: str):
        from ..pipelines.models.cascade.load import load_keyframes
        from ..pipelines.models.layout import kind_of
        from ..pipelines.models.storage import store_in_fp8
        from ..pipelines.models.unet.load import load_text_to_video
        from ..pipelines.models.wan.load import load_wan

        path = _found(folder, "text-to-video", "diffusers")
        others = {"wan": load_wan, "cascade": load_keyframes}
        load = others.get(kind_of(path), load_text_to_video)
        model = load(path, dtype=host.dtype(precision))
        if precision == "fp8":
            store_in_fp8(model.modules()["network"])
        return (model,)


class LoadImageModel(Node):
    TITLE = "Load Image Model"
    SEARCH_ALIASES = ["load checkpoint", "load Stable Diffusion", "SD 1.5", "model loader"]
    DESCRIPTION = (
        "Loads a Stable Diffusion 1.x model: a folder in diffusers layout under models/diffusers, "
        "or a single .safetensors file under models/checkpoints. Frames are edited one by one "
        "unless a motion module or another method ties them together. Nothing is downloaded."
    )
    CATEGORY = CATEGORY
    FOLDERS = ("diffusers", "checkpoints")
    FUNCTION = "load"
    RETURN_TYPES, RETURN_NAMES, OUTPUT_TOOLTIPS = outputs(
        model=(MODEL, "The model; wire it to Load AnimateDiff Model to give it motion."),
    )

    @classmethod
    def INPUT_TYPES(cls):
        from ..pipelines.models.layout import list_models

        names = list_models(host.roots("diffusers"), "image")
        names += host.files_in("checkpoints", ".safetensors")
        required = {
            "model": FILES(names, "put a model into models/checkpoints",
                "A Stable Diffusion 1.x folder or checkpoint. SDXL and others have another layout "
                "and are refused with the reason."),
            "precision": _WITH_FP8,
            "prediction_type": COMBO(["auto", "epsilon", "v_prediction"],
                "auto: what the folder's own settings say, and epsilon for a single file, which "
                "does not say it. If results are grey or noisy "
                "with a fine-tuned checkpoint, try v_prediction.", advanced=True),
        }  # fmt: skip
        return {"required": required}

    @classmethod
    def IS_CHANGED(cls, model: str, **_: Any) -> str:
        return stamp_of_model(model, _roots(*cls.FOLDERS), "image")

    def load(self, model: str, precision: str, prediction_type: str):
        from ..pipelines.models.storage import store_in_fp8
        from ..pipelines.models.unet.load import load_image

        image = load_image(
            _found(model, "image", *self.FOLDERS),
            dtype=host.dtype(precision),
            prediction_type=None if prediction_type == "auto" else prediction_type,
        )
        if precision == "fp8":
            store_in_fp8(image.network)
        return (image,)


class LoadAnimateDiffModel(Node):
    TITLE = "Load AnimateDiff Model"
    SEARCH_ALIASES = ["AnimateDiff loader", "motion module", "motion adapter"]
    DESCRIPTION = (
        "Adds an AnimateDiff motion module to a Stable Diffusion 1.x model. The image model stays "
        "as it is. The noise schedule becomes AnimateDiff's linear one."
    )
    CATEGORY = CATEGORY
    FOLDERS = ("animatediff_models", "diffusers")
    FUNCTION = "load"
    RETURN_TYPES, RETURN_NAMES, OUTPUT_TOOLTIPS = outputs(model=(MODEL, "The video model."))

    @classmethod
    def INPUT_TYPES(cls):
        from ..pipelines.models.layout import list_models

        roots = host.roots("animatediff_models")
        names = list_models([*roots, *host.roots("diffusers")], "motion-adapter")
        parts = tuple(f"{name}/" for name in names)
        files = host.files_in("animatediff_models", ".safetensors", ".ckpt")
        names += [name for name in files if not name.startswith(parts)]
        required = {
            "image_model": SOCKET(MODEL, "From Load Image Model (Stable Diffusion 1.x)."),
            "motion_module": FILES(names, "put a model into models/animatediff_models",
                "A file under models/animatediff_models, such as v3_sd15_mm.ckpt, or a "
                "MotionAdapter folder."),
        }  # fmt: skip
        return {"required": required}

    @classmethod
    def IS_CHANGED(cls, motion_module: str, **_: Any) -> str:
        return stamp_of_model(motion_module, _roots(*cls.FOLDERS), "motion-adapter")

    def load(self, image_model, motion_module: str):
        from ..pipelines.models.unet.load import load_animatediff

        of_stable_diffusion(image_model, "Load AnimateDiff Model")
        path = _found(motion_module, "motion-adapter", *self.FOLDERS)
        return (load_animatediff(image_model, path),)


class LoadShapeWorldModel(Node):
    TITLE = "Load Shape-World Model"
    SEARCH_ALIASES = ["tiny model", "test model", "demo model", "no download"]
    DESCRIPTION = (
        "Loads one of the tiny models that come with the pack. They know only a 64 x 64 world of "
        "moving coloured shapes, but have the real architectures: a graph that runs with them runs "
        "with the big models after swapping this node."
    )
    CATEGORY = CATEGORY
    FUNCTION = "load"
    RETURN_TYPES, RETURN_NAMES, OUTPUT_TOOLTIPS = outputs(
        model=(MODEL, "The tiny model, used like a big one."),
    )
    REQUIRED = {
        "model": COMBO(
            ["shapeworld-t2v", "shapeworld-sd", "shapeworld-animatediff", "shapeworld-wan",
             "shapeworld-cascade"],
            "shapeworld-t2v stands for ModelScope and ZeroScope, shapeworld-sd for Stable "
            "Diffusion 1.x, shapeworld-animatediff for it with an AnimateDiff motion module, "
            "shapeworld-wan for Wan, shapeworld-cascade for the keyframes of Show-1."),
    }  # fmt: skip

    def load(self, model: str):
        from ..shapeworld.models import load_shapeworld

        return (load_shapeworld(model),)


NODE_CLASS_MAPPINGS = {
    "ReScoreLoadVideoModel": LoadVideoModel,
    "ReScoreLoadImageModel": LoadImageModel,
    "ReScoreLoadAnimateDiffModel": LoadAnimateDiffModel,
    "ReScoreLoadShapeWorldModel": LoadShapeWorldModel,
}
