"""The node that inverts a clip, and what all nodes along a trajectory share."""

from dataclasses import replace
from itertools import count
from typing import Any

from . import host, layouts
from .sockets import MODEL, PIXEL_SIZE, PROMPTS, TRAJECTORY, Inversion
from .widgets import FLOAT, INT, SOCKET, Node, outputs

CATEGORY = f"{host.CATEGORY}/inversion"
# A rough bound on what a UNet's activations take, in bytes per latent pixel and row of the batch.
BYTES_PER_LATENT_PIXEL = 20_000


def picture_of(model, z_0):
    """A map from latents `[1, c, f, h, w]` to a rough picture of a frame; None if unseen.

    Each call shows the next frame, so that the clip plays while it changes. Fitted to the middle
    frame of the clip whose latents `z_0` are.
    """
    if not host.shows_previews():
        return None
    from ..pipelines.models.preview import fit_preview

    middle = z_0.shape[2] // 2
    host.load(model, "vae")
    latent = z_0[:, :, middle] / model.scaling_factor + model.shift_factor
    picture = fit_preview(z_0[0, :, middle], model.decode_frames(latent)[0] / 2 + 0.5)
    calls = count()
    return lambda z: picture(z[0, :, next(calls) % z.shape[2]])


def load_unet(model, z_0, rows: int) -> None:
    """Bring the model to where it computes, with room for some clips at once."""
    host.load(model, "unet", memory=BYTES_PER_LATENT_PIXEL * rows * z_0[:, :1].numel())


def fitting(inversion: Inversion, model, prompts) -> Any:
    """The trajectory on the model's device, if model and source prompt are those it was made with.

    Raises:
        ValueError: if they are not.
    """
    trajectory = inversion.trajectory
    trajectory.require(model=model.fingerprint, prompt=prompts.source)
    return replace(trajectory, latents=trajectory.latents.to(model.device))


def latent_of(inversion: Inversion, model, z) -> dict[str, Any]:
    """Model latents as a LATENT that Video VAE Decode brings back to the clip's size."""
    samples = layouts.samples_of(z, model.scaling_factor, model.shift_factor)
    size = {} if inversion.pixel_size is None else {PIXEL_SIZE: inversion.pixel_size}
    return {"samples": samples, **size}


def shown(inversion: Inversion, model) -> tuple[float, float]:
    """The share of the latent grid that the clip fills, the rest being padding."""
    if inversion.pixel_size is None:
        return 1.0, 1.0
    grid = inversion.trajectory.latents.shape[-2:]
    height, width = (
        pixels / (cells * model.vae_factor)
        for pixels, cells in zip(inversion.pixel_size, grid, strict=True)
    )
    return height, width


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
            "is the paper's. If reconstructions are off, raise it; for a quick look 20 do."),
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
        import torch

        from ..pipelines.inversion.ddim_inversion import Refinement, ddim_invert
        from ..pipelines.models.guidance import guide
        from ..pipelines.windows import Windows, windowed

        z_0 = layouts.latents_of(latent["samples"], model.scaling_factor, model.shift_factor)
        picture = picture_of(model, z_0)
        load_unet(model, z_0, 1 if cfg == 1 else 2)
        bar = host.progress(steps)
        source, _, negative = prompts.embeddings
        length = window or model.max_frames
        windows = Windows(length, overlap) if length and z_0.shape[2] > length else None
        predict = windowed(model.eps_theta, windows)

        def eps_theta(z, t: int):
            if cfg == 1:
                return predict(z, t, source)
            both = predict(torch.cat([z, z]), t, torch.cat([negative, source]))
            return guide(*both.chunk(2), cfg)

        trajectory = ddim_invert(
            z_0.to(model.device),
            eps_theta,
            model.schedule.alphas_bar,
            model.schedule.timesteps(steps),
            lambda now: bar(now.step, picture and (lambda: picture(now.z))),
            refinement=Refinement(refinements),
        )
        trajectory = replace(
            trajectory,
            latents=trajectory.latents.cpu(),
            prompt=prompts.source,
            model=model.fingerprint,
        )
        inversion = Inversion(trajectory, latent.get(PIXEL_SIZE), windows)
        return (inversion, latent_of(inversion, model, trajectory.latents[-1]))


NODE_CLASS_MAPPINGS = {"ReScoreDDIMInversion": DDIMInversion}
