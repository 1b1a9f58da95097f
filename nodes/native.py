"""Nodes for ComfyUI's own MODEL: used as a model of ReScore, or with the loop as a SAMPLER."""

from . import host
from .distillation import ScoreDistillation
from .sockets import MODEL, PROMPTS, PromptPair
from .widgets import FLOAT, SOCKET, STRING, Node, outputs

_MODEL = SOCKET("MODEL",
    "A model of the host's own loaders, such as Load Diffusion Model, with any LoRA."
)  # fmt: skip
_CONDITIONINGS = {
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
        "model": _MODEL,
        "vae": SOCKET("VAE", "The VAE that belongs to the model, from Load VAE."),
        **_CONDITIONINGS,
    }

    def take(self, model, vae, **conditionings):
        from .host import conditioning, native

        conditioning.check_target(conditionings)
        taken = native.NativeModel(model, vae, conditionings)
        # A CONDITIONING does not contain its text; equal ones get equal names.
        names = {side: str(conditioning.key_of(given)) for side, given in conditionings.items()}
        return (taken, PromptPair(**names, embeddings=taken.prompts))


class EditGuider(Node):
    TITLE = "Edit Guider"
    SEARCH_ALIASES = ["CFGGuider for edits", "source and target", "edit video", "GUIDER"]
    DESCRIPTION = (
        "The prompts of an edit for the host's SamplerCustomAdvanced: what the clip shows, what it "
        "should show, and the negative prompt. With Distillation Sampler it edits; with a sampler "
        "of the host it guides to the target, as CFGGuider does."
    )
    CATEGORY = f"{host.CATEGORY}/distillation"
    FUNCTION = "guide"
    RETURN_TYPES, RETURN_NAMES, OUTPUT_TOOLTIPS = outputs(
        guider=("GUIDER", "For SamplerCustomAdvanced."),
    )
    REQUIRED = {
        "model": _MODEL,
        **_CONDITIONINGS,
        "cfg": FLOAT(5, 0, 100, 0.1,
            "Guidance scale, as in KSampler: 5 for Wan, 7 to 12 for Stable Diffusion, 1 for models "
            "distilled to few steps. If the edit is too weak, raise it; if colours burn, lower "
            "it."),
    }  # fmt: skip

    OPTIONAL = {
        "source_negative": SOCKET("CONDITIONING",
            "What guidance moves the source's prediction away from, where that is not the same as "
            "negative: a text of what the clip does not show."),
    }  # fmt: skip

    def guide(self, model, cfg: float, **conditionings):
        from .host import conditioning, editing

        conditioning.check_target(conditionings)
        return (editing.EditGuider(model, conditionings, cfg),)


# The inputs of Score Distillation for draws and guidance. The SIGMAS replace t_min and t_max.
_DRAWING = (
    "order", "source_cfg", "guidance", "noise_memory", "draws", "draw_count", "draw_steps",
)  # fmt: skip


class DistillationSampler(Node):
    TITLE = "Distillation Sampler"
    SEARCH_ALIASES = ["DDS sampler", "edit video", "video to video", "SAMPLER", "Wan edit"]
    DESCRIPTION = (
        "Score Distillation as a SAMPLER for the host's SamplerCustomAdvanced, with Edit Guider: "
        "the clip in its LATENT is edited, at levels of noise drawn from its SIGMAS, and the NOISE "
        "gives the seed. A noise mask of the LATENT confines the edit."
    )
    CATEGORY = f"{host.CATEGORY}/distillation"
    FUNCTION = "build"
    RETURN_TYPES, RETURN_NAMES, OUTPUT_TOOLTIPS = outputs(
        sampler=("SAMPLER", "For SamplerCustomAdvanced, with Edit Guider."),
    )
    REQUIRED = {
        name: ScoreDistillation.REQUIRED[name]
        for name in ("terms", "steps", "step_size", "optimiser")
    }
    OPTIONAL = {name: ScoreDistillation.OPTIONAL[name] for name in ("fusion", *_DRAWING)}

    def build(self, terms, fusion=(), source_cfg: float = -1.0, **settings):
        from .host import editing

        settings["source_cfg"] = None if source_cfg < 0 else source_cfg
        return (editing.Distilling(terms, settings, fusion),)


class EncodeNativePrompt(Node):
    TITLE = "Encode Native Prompt"
    SEARCH_ALIASES = ["CLIP text encode with words", "text encode", "prompt for masks from words"]
    DESCRIPTION = (
        "Encodes a prompt as the host's CLIP Text Encode does, and remembers which tokens belong "
        "to which words: for Mask from Words and prompt control on a Native Model, such as Wan or "
        "LTX-Video."
    )
    CATEGORY = f"{host.CATEGORY}/models"
    FUNCTION = "encode"
    RETURN_TYPES, RETURN_NAMES, OUTPUT_TOOLTIPS = outputs(
        conditioning=("CONDITIONING", "For Native Model, Edit Guider or the host's KSampler."),
    )
    REQUIRED = {
        "clip": SOCKET("CLIP", "The model's text encoder, from the host's Load CLIP."),
        "text": STRING("a red circle moving right on a plain background",
            "What the clip shows, or should show. Brackets and numbers weigh no words here.",
            multiline=True),
    }  # fmt: skip

    def encode(self, clip, text: str):
        from .host.conditioning import encoded

        return (encoded(clip, text),)


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
        from .host.conditioning import PROMPT

        model = load_shapeworld("shapeworld-t2v")
        host.load(model, "text_encoder")
        prompt = model.encode_prompt(text)
        return ([[prompt.embedding, {PROMPT: prompt}]],)


NODE_CLASS_MAPPINGS = {
    "ReScoreNativeModel": NativeModel,
    "ReScoreEditGuider": EditGuider,
    "ReScoreDistillationSampler": DistillationSampler,
    "ReScoreEncodeNativePrompt": EncodeNativePrompt,
    "ReScoreShapeWorldConditioning": ShapeWorldConditioning,
}
