"""The nodes of ASSD: its term, attention fusion, joint guidance, and a single step."""

from . import host
from .distillation import ScoreDistillation
from .running import own
from .sockets import FUSION, LOSSES, MODEL, PROMPTS, STATE
from .terms import END, START, WEIGHT, TermNode, hang
from .widgets import FLOAT, INT, SOCKET, STRING, Node, outputs


class AdaptiveSliding(TermNode):
    TITLE = "Adaptive Sliding (ASSD)"
    SEARCH_ALIASES = ["ASSD", "DDS", "sliding window", "reduce flicker", "edit video"]
    DESCRIPTION = (
        "Delta denoising with a steadier reference: it is averaged over neighbouring frames at "
        "each place where the two predictions differ clearly less than they do there in another "
        "frame, so that errors of single frames do not pile up around the edit. Use it instead of "
        "Delta Denoising. From ASSD (Zhu et al., 2024, Eq. 6 to 10); step size 0.1, 200 steps."
    )
    REQUIRED = {
        "weight": WEIGHT,
        "window": STRING("0.25, 0.5, 0.25",
            "Weights of the sliding window, an odd number of them, the middle one the frame's own; "
            "they are normalised. If slow flicker is left, give five. The paper says three and "
            "leaves the weights open."),
        "tau": FLOAT(0.1, 0, 10, 0.01,
            "How far a difference must lie below its largest in time to be smoothed: larger is "
            "stricter, so less is smoothed (Eq. 9; the paper's text says the opposite). If the "
            "edit smears, raise it. Inspect Gradient shows the mask."),
        "start": START,
        "end": END,
    }  # fmt: skip

    def build(self, weight: float, window: str, tau: float, start: float, end: float, terms=None):
        from ..pipelines.distillation.adaptive_sliding import AdaptiveSliding as Term

        return hang(Term(window_weights(window), tau), weight, start, end, terms)


def window_weights(text: str) -> tuple[float, ...]:
    """The weights of a sliding window as its widget has them, such as "0.25, 0.5, 0.25".

    Raises:
        ValueError: if the text is no list of numbers.
    """
    try:
        return tuple(float(part) for part in text.replace(",", " ").split())
    except ValueError:
        raise ValueError(
            f"The window {text!r} is no list of numbers; write them like 0.25, 0.5, 0.25."
        ) from None


class AttentionFusion(Node):
    TITLE = "Attention Fusion (ASSD)"
    SEARCH_ALIASES = ["keep structure", "reference attention", "keep the source", "ASSD"]
    DESCRIPTION = (
        "Lets the edited clip attend to the source clip, too, in the last self-attention layers: "
        "weight * self + (1 - weight) * reference. Wire it to fusion of Score Distillation, or to "
        "controls of Attention-Controlled Sampling. From ASSD (Zhu et al., 2024, Eq. 11 to 13). "
        "Costs no extra model call."
    )
    CATEGORY = f"{host.CATEGORY}/distillation"
    FUNCTION = "build"
    RETURN_TYPES, RETURN_NAMES, OUTPUT_TOOLTIPS = outputs(
        fusion=(FUSION, "The controls so far, for another one, Score Distillation or sampling."),
    )
    REQUIRED = {
        "layers": INT(3, 1, 64,
            "In how many of the last spatial self-attention layers. The paper says the last few. "
            "If the edit loses the source, raise it."),
        "weight": FLOAT(0.5, 0, 1, 0.05,
            "What the edit's own attention counts; 1 is no fusion. If the edit does not come, "
            "raise it; if it drifts from the source, lower it."),
    }  # fmt: skip

    OPTIONAL = {
        "controls": SOCKET(FUSION, "Other controls, which act beside this one."),
    }

    def build(self, layers: int, weight: float, controls=()):
        from ..attention.fusion import Fusion

        return ((*controls, Fusion(layers, weight)),)


class ImageDeltaDenoising(TermNode):
    TITLE = "Image Delta Denoising (joint guidance)"
    SEARCH_ALIASES = ["DDS", "joint guidance", "image model guidance", "sharper edit"]
    DESCRIPTION = (
        "Delta denoising by an image model, frame by frame, beside the video model's: sharper "
        "objects than a video model alone knows. Both models must share latent space and noise "
        "schedule, as Stable Diffusion 1.5 and ZeroScope do. From ASSD (Zhu et al., 2024, Eq. 14 "
        "and 15). Costs one more model call a step."
    )
    REQUIRED = {
        "image_model": SOCKET(MODEL, "From Load Image Model."),
        "image_prompts": SOCKET(PROMPTS,
            "From an Encode Prompt Pair of its own with the image model. Describe a frame; leave "
            "the movement out."),
        "cfg": FLOAT(9, 0, 100, 0.1,
            "Guidance of the image model: uncond + cfg * (cond - uncond). If frames differ too "
            "much from each other, lower it or the weight."),
        "weight": WEIGHT,
        "start": START,
        "end": END,
    }  # fmt: skip

    def build(
        self, image_model, image_prompts, cfg: float, weight: float, start: float, end: float,
        terms=None,
    ):  # fmt: skip
        from ..pipelines.distillation.joint_guidance import ImageDeltaDenoising as Term
        from ..pipelines.distillation.prediction import predict
        from ..pipelines.distillation.terms import Needs

        own(image_model, "Image Delta Denoising")
        denoiser, both = image_model.denoiser, Needs(target=True, source=True)

        def pair(draw):
            host.load(image_model, "network")
            seen = predict(both, draw, denoiser, image_prompts.embeddings, cfg).predictions
            return seen.target.eps, seen.source.eps

        term = Term(pair, denoiser.process, denoiser.space, denoiser.name)
        return hang(term, weight, start, end, terms)


# The inputs of Score Distillation, with ASSD's step size as default.
_STEP_SIZE = ("FLOAT", {**ScoreDistillation.REQUIRED["step_size"][1], "default": 0.1})
_LOOP = {**ScoreDistillation.REQUIRED, "step_size": _STEP_SIZE}


class ASSDStep(Node):
    TITLE = "ASSD Step"
    SEARCH_ALIASES = ["single step", "one step", "ASSD", "score distillation step"]
    DESCRIPTION = (
        "One step of Score Distillation, for experiments node by node: state in, state out. A "
        "chain of n of these equals a loop of n steps, bit for bit."
    )
    CATEGORY = f"{host.CATEGORY}/distillation"
    FUNCTION = "step"
    RETURN_TYPES, RETURN_NAMES, OUTPUT_TOOLTIPS = outputs(
        latent=("LATENT", "The latents after this step."),
        state=(STATE, "For the next step."),
        losses=(LOSSES, "The terms' magnitudes added up, of all steps so far."),
    )
    REQUIRED = {name: _LOOP[name] for name in _LOOP if name not in ("steps", "optimiser")}
    OPTIONAL = {name: ScoreDistillation.OPTIONAL[name] for name in ("state", "mask", "fusion")}

    def step(self, **inputs):
        return ScoreDistillation().run(**inputs, steps=1, optimiser="sgd")


NODE_CLASS_MAPPINGS = {
    "ReScoreAdaptiveSliding": AdaptiveSliding,
    "ReScoreAttentionFusion": AttentionFusion,
    "ReScoreImageDeltaDenoising": ImageDeltaDenoising,
    "ReScoreASSDStep": ASSDStep,
}
