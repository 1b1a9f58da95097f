"""The node that inverts a clip."""

from dataclasses import replace
from functools import partial

from . import host
from .running import prepared
from .sockets import MODEL, PROMPTS, TRAJECTORY, Inversion
from .widgets import FLOAT, INT, SOCKET, Node, outputs

CATEGORY = f"{host.CATEGORY}/inversion"


class DDIMInversion(Node):
    TITLE = "DDIM Inversion"
    SEARCH_ALIASES = ["invert video", "unsampler", "video to noise", "inversion", "video to video"]
    DESCRIPTION = (
        "Runs sampling backwards: from the clip's latents to the noise from which the model would "
        "make the clip under the source prompt. Keeps every latent on the way, for Null-Text "
        "Optimisation, Reconstruct and Attention-Controlled Sampling, which use the same steps."
    )
    CATEGORY = CATEGORY
    FUNCTION = "invert"
    RETURN_TYPES, RETURN_NAMES, OUTPUT_TOOLTIPS = outputs(
        trajectory=(TRAJECTORY, "The whole way, with the prompt and model it belongs to."),
        noise=("LATENT", "Its noisy end, for other samplers."),
    )
    REQUIRED = {
        "model": SOCKET(MODEL, "The model that will edit the clip; any kind."),
        "prompts": SOCKET(PROMPTS,
            "From Encode Prompt Pair, same model. The source prompt is used."),
        "latent": SOCKET("LATENT", "The clip, from Video VAE Encode."),
        "steps": INT(50, 1, 999,
            "Steps from clip to noise, and of everything that comes back along the trajectory. 50 "
            "in the authors' code. If reconstructions are off, raise it; for a quick look 20 do."),
        "cfg": FLOAT(1, 0, 30, 0.1,
            "Guidance while inverting. 1 (none) is VideoDirector's; 0 leaves the prompt out, as in "
            "Tune-A-Video. If the clip is not found back, go back to 1."),
        "refinements": INT(0, 0, 50,
            "Extra model calls per step that make it the exact inverse of a denoising step. 0 is "
            "the paper's. If plain sampling does not find the clip back, try 2 to 5; each costs as "
            "much as the inversion itself.", advanced=True),
        "window": INT(0, 0, 1024,
            "Longer clips go through the model in windows of so many frames, here and in all nodes "
            "along the trajectory. 0 is as many as the model knows. If memory runs out, 16 or 8."),
        "overlap": INT(4, 0, 1024,
            "Frames that neighbouring windows share and blend in, 4 to start with. If there is a "
            "jump where windows meet, raise it; at most one less than the window.", advanced=True),
    }  # fmt: skip

    def invert(
        self, model, prompts, latent, steps: int, cfg: float, refinements: int, window: int = 0,
        overlap: int = 4,
    ):  # fmt: skip
        from ..pipelines.inversion.ddim_inversion import Refinement, ddim_invert
        from ..pipelines.windows import windowed

        ready = prepared(model, latent, rows=1 if cfg in (0, 1) else 2)
        windows = ready.windows(window, overlap)
        source, _, negative = prompts.embeddings
        show = ready.shows(steps)

        def work(denoiser):
            guided = partial(denoiser.guided, uncond=negative, cfg=cfg)
            return ddim_invert(
                ready.z,
                partial(windowed(guided, windows), cond=source),
                denoiser.grid(steps),
                lambda now: show(now.step, now.z),
                refinement=Refinement(refinements),
                kind="flow" if denoiser.kind == "flow" else "epsilon",
            )

        trajectory = ready.run(work)
        trajectory = replace(
            trajectory,
            latents=trajectory.latents.cpu(),
            prompt=prompts.source,
            model=model.fingerprint,
        )
        inversion = Inversion(trajectory, ready.grid.pixels, windows, ready.grid.frames)
        return (inversion, ready.latent(trajectory.latents[-1]))


NODE_CLASS_MAPPINGS = {"ReScoreDDIMInversion": DDIMInversion}
