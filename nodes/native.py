"""Nodes for ComfyUI's own MODEL: one that makes a model of ReScore's of it."""

from . import host
from .sockets import MODEL, PROMPTS, PromptPair
from .widgets import SOCKET, STRING, Node, outputs


class NativeModel(Node):
    TITLE = "Native Model"
    SEARCH_ALIASES = ["Wan", "HunyuanVideo", "LTX", "MODEL to ReScore", "edit video", "v2v"]
    DESCRIPTION = (
        "Takes ComfyUI's own MODEL, VAE and CONDITIONING, from any of its loaders and with LoRAs, "
        "for all nodes of ReScore: Wan 2.1 and 2.2, LTX-Video, HunyuanVideo, Stable Diffusion and "
        "others. Everything runs inside ComfyUI's own sampling."
    )
    CATEGORY = f"{host.CATEGORY}/models"
    FUNCTION = "take"
    RETURN_TYPES, RETURN_NAMES, OUTPUT_TOOLTIPS = outputs(
        model=(MODEL, "The model, for Video VAE Encode, Video VAE Decode and the loops."),
        prompts=(PROMPTS, "The three prompts, in place of those of Encode Prompt Pair."),
    )
    REQUIRED = {
        "model": SOCKET("MODEL",
            "A model of the host's own loaders, such as Load Diffusion Model, with any LoRA."),
        "vae": SOCKET("VAE", "The VAE that belongs to the model, from Load VAE."),
        "source": SOCKET("CONDITIONING",
            "What the clip shows now, from CLIP Text Encode. The closer it describes the clip, the "
            "less is changed that should stay."),
        "target": SOCKET("CONDITIONING",
            "What it should show: the same text with the words changed that are to change. If "
            "nothing changes, make the difference more explicit or raise cfg."),
        "negative": SOCKET("CONDITIONING",
            "What guidance moves away from: the negative prompt that the model is used with, or an "
            "empty text."),
    }  # fmt: skip

    def take(self, model, vae, source, target, negative):
        from .host import native

        given = {"source": source, "target": target, "negative": negative}
        taken = native.NativeModel(model, vae, given)
        # Texts are not told any more; equal ones have equal names.
        names = {side: str(native.key_of(conditioning)) for side, conditioning in given.items()}
        return (taken, PromptPair(**names, embeddings=taken.prompts))


class ShapeWorldConditioning(Node):
    TITLE = "Shape-World Conditioning"
    SEARCH_ALIASES = ["tiny text encoder", "text encode shape world", "no download"]
    DESCRIPTION = (
        "Encodes a prompt for the tiny Wan that comes with the pack, as CLIP Text Encode does for "
        "a big one. Load Diffusion Model lists it as shapeworld_wan.safetensors, Load VAE its VAE "
        "as shapeworld_wan_vae.safetensors (since ComfyUI 0.16)."
    )
    CATEGORY = f"{host.CATEGORY}/models"
    FUNCTION = "encode"
    RETURN_TYPES, RETURN_NAMES, OUTPUT_TOOLTIPS = outputs(
        conditioning=("CONDITIONING", "For Native Model, Edit Guider or the host's KSampler."),
    )
    REQUIRED = {
        "text": STRING("a red circle moving right on a plain background",
            "What the clip shows, or should show, in the words of the shape world: colour, shape, "
            "motion, background.", multiline=True),
    }  # fmt: skip

    def encode(self, text: str):
        from ..shapeworld.models import load_shapeworld

        model = load_shapeworld("shapeworld-t2v")
        host.load(model, "text_encoder")
        return ([[model.encode_prompt(text).embedding, {}]],)


NODE_CLASS_MAPPINGS = {
    "ReScoreNativeModel": NativeModel,
    "ReScoreShapeWorldConditioning": ShapeWorldConditioning,
}
