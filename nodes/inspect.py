"""The node that shows what a set of terms would do to a clip."""

from typing import Any

from . import host, layouts
from .distillation import ScoreDistillation
from .sockets import MODEL, PROMPTS, TERMS


class InspectGradient:
    """One evaluation of the terms, as pictures."""

    DESCRIPTION = (
        "Evaluates the connected terms once, at the source clip and a chosen timestep, and shows "
        "where they would change it: the energy of the gradient, bright where it is strong, and "
        "the adaptive mask of ASSD, white where the reference would be smoothed. Nothing is edited."
    )
    CATEGORY = f"{host.CATEGORY}/distillation"
    FUNCTION = "inspect"
    RETURN_TYPES = ("IMAGE", "MASK", "STRING")
    RETURN_NAMES = ("energy", "adaptive_mask", "report")
    OUTPUT_TOOLTIPS = (
        "The root mean square over channels, one picture per frame, scaled to the strongest.",
        "The share of channels that ASSD would smooth; black without an Adaptive Sliding term.",
        "Each term's number.",
    )

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        loop = ScoreDistillation.INPUT_TYPES()["required"]
        return {
            "required": {
                "model": (MODEL, {"tooltip": "The model that the terms ask."}),
                "prompts": (PROMPTS, {"tooltip": "From Encode Prompt Pair, same model."}),
                "latent": loop["latent"],
                "terms": (TERMS, {"tooltip": "The terms to look at."}),
                "t": (
                    "FLOAT",
                    {
                        "default": 0.5,
                        "min": 0.0,
                        "max": 1.0,
                        "step": 0.01,
                        "tooltip": "The timestep, as a share of the schedule. High ones show "
                        "layout and colour, low ones detail.",
                    },
                ),
                "cfg": loop["cfg"],
                "seed": loop["seed"],
            }
        }

    def inspect(self, model, prompts, latent, terms, t: float, cfg: float, seed: int):
        from einops import rearrange

        from ..pipelines.distillation.inspection import inspect_gradient
        from ..pipelines.distillation.score_distillation import Settings

        host.load(model, "unet")
        samples = latent["samples"]
        z = layouts.latents_of(samples, model.scaling_factor, model.shift_factor)
        energy, mask, numbers = inspect_gradient(
            z.to(model.device),
            terms,
            model.eps_theta,
            prompts.embeddings,
            model.schedule,
            Settings(1, 1.0, cfg, seed, t, t),
            unet=model.unet,
        )
        factor = model.vae_factor
        pictures = energy.repeat_interleave(factor, -2).repeat_interleave(factor, -1)
        pictures = rearrange(pictures, "f h w -> f h w 1").expand(-1, -1, -1, 3)
        report = "\n".join(f"{name}: {value:.6g}" for name, value in numbers.items())
        return (pictures.cpu(), mask.cpu(), report)


NODE_CLASS_MAPPINGS = {"ReScoreInspectGradient": InspectGradient}
NODE_DISPLAY_NAME_MAPPINGS = {"ReScoreInspectGradient": "Inspect Gradient"}
