"""The node that shows how terms would change a clip."""

from . import host
from .running import prepared
from .shared import CFG, NOISE_SEED, PROMPT_PAIR, SOURCE_LATENT
from .sockets import MODEL, TERMS
from .widgets import FLOAT, SOCKET, Node, outputs


class InspectGradient(Node):
    TITLE = "Inspect Gradient"
    SEARCH_ALIASES = ["preview edit", "debug gradient", "edit heatmap", "where will it change"]
    DESCRIPTION = (
        "Evaluates the connected terms once, at the source clip and a chosen timestep, and shows "
        "where they would change it: the energy of the gradient, bright where it is strong, and "
        "the adaptive mask of ASSD, white where the reference would be smoothed. Nothing is edited."
    )
    CATEGORY = f"{host.CATEGORY}/distillation"
    FUNCTION = "inspect"
    RETURN_TYPES, RETURN_NAMES, OUTPUT_TOOLTIPS = outputs(
        energy=("IMAGE",
            "The root mean square over channels, one picture per frame, scaled to the strongest."),
        adaptive_mask=("MASK",
            "The share of channels that ASSD would smooth; black without an Adaptive Sliding "
            "term."),
        report=("STRING", "Each term's number."),
    )  # fmt: skip
    REQUIRED = {
        "model": SOCKET(MODEL, "The model that the terms ask."),
        "prompts": PROMPT_PAIR,
        "latent": SOURCE_LATENT,
        "terms": SOCKET(TERMS, "The terms to look at."),
        "t": FLOAT(0.5, 0, 1, 0.01,
            "The timestep, as a share of the schedule. High ones show layout and colour, low ones "
            "detail."),
        "cfg": CFG,
        "seed": NOISE_SEED("pictures"),
    }  # fmt: skip

    def inspect(self, model, prompts, latent, terms, t: float, cfg: float, seed: int):
        from einops import rearrange

        from ..pipelines.distillation.inspection import inspect_gradient
        from ..pipelines.distillation.score_distillation import Settings

        ready = prepared(model, latent, rows=4)
        energy, mask, numbers = ready.run(
            lambda denoiser: inspect_gradient(
                ready.z,
                terms,
                denoiser,
                prompts.embeddings,
                Settings(1, 1.0, cfg, seed, t, t),
                windows=ready.windows(0, 4),  # as the loop begins with
                grid=ready.grid,
            )
        )
        pictures = ready.grid.cells(energy)
        pictures = rearrange(pictures, "f h w -> f h w 1").expand(-1, -1, -1, 3)
        report = "\n".join(f"{name}: {value:.6g}" for name, value in numbers.items())
        return (pictures.cpu(), ready.grid.cells(mask).cpu(), report)


NODE_CLASS_MAPPINGS = {"ReScoreInspectGradient": InspectGradient}
