"""The node that runs the distillation loop."""

from contextlib import nullcontext
from typing import Any

from . import host, layouts
from .live import Numbers
from .sockets import FUSION, LOSSES, MODEL, PIXEL_SIZE, PROMPTS, STATE, TERMS

# A rough bound on what a UNet's activations take, in bytes per latent pixel and row of the batch.
_BYTES_PER_LATENT_PIXEL = 20_000


class ScoreDistillation:
    """The loop in which a clip's latents descend along the terms on the wire."""

    DESCRIPTION = (
        "Edits a clip by descending on its own latents: every step draws one noise and one "
        "timestep, asks the model for what the connected terms need in one batched call, and moves "
        "the latents along the sum of their gradients. Starts from the clip itself, so what the "
        "terms leave alone stays."
    )
    CATEGORY = f"{host.CATEGORY}/distillation"
    FUNCTION = "run"
    RETURN_TYPES = ("LATENT", STATE, LOSSES)
    RETURN_NAMES = ("latent", "state", "losses")
    OUTPUT_TOOLTIPS = (
        "The edited latents, for Video VAE Decode.",
        "Where the run stands: wire it to another Score Distillation to go on.",
        "One number per step: the terms' magnitudes added up. For the host's Plot Loss Graph.",
    )

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "model": (MODEL, {"tooltip": "The model whose predictions guide the edit."}),
                "prompts": (PROMPTS, {"tooltip": "From Encode Prompt Pair, same model."}),
                "latent": ("LATENT", {"tooltip": "The source clip, from Video VAE Encode."}),
                "terms": (TERMS, {"tooltip": "What drives the edit: one or more term nodes."}),
                "steps": (
                    "INT",
                    {
                        "default": 200,
                        "min": 0,
                        "max": 10000,
                        "step": 1,
                        "tooltip": "Optimisation steps; each is one batched model call. 200 in the "
                        "papers; 50 to 100 show where an edit is going.",
                    },
                ),
                "step_size": (
                    "FLOAT",
                    {
                        "default": 0.4,
                        "min": 0.0001,
                        "max": 10.0,
                        "step": 0.001,
                        "round": 0.0001,
                        "tooltip": "How far each step goes along the gradient. DreamMotion 0.4, "
                        "ASSD 0.1. If nothing changes, raise it or steps; if colours burn or the "
                        "picture breaks up, lower it.",
                    },
                ),
                "cfg": (
                    "FLOAT",
                    {
                        "default": 9.0,
                        "min": 0.0,
                        "max": 100.0,
                        "step": 0.1,
                        "tooltip": "Guidance scale: uncond + cfg * (cond - uncond). 7 to 12 is "
                        "usual. If the edit is too weak, raise it; if colours saturate, lower it. "
                        "1 is without guidance and takes half the time.",
                    },
                ),
                "seed": (
                    "INT",
                    {
                        "default": 0,
                        "min": 0,
                        "max": 0xFFFFFFFF,
                        "step": 1,
                        "tooltip": "Draws the timesteps and noises; the same seed gives the same "
                        "edit on every device.",
                    },
                ),
                "t_min": (
                    "FLOAT",
                    {
                        "default": 0.05,
                        "min": 0.0,
                        "max": 1.0,
                        "step": 0.01,
                        "tooltip": "Timesteps are drawn from here on (share of the schedule). "
                        "Low timesteps refine detail.",
                    },
                ),
                "t_max": (
                    "FLOAT",
                    {
                        "default": 0.95,
                        "min": 0.0,
                        "max": 1.0,
                        "step": 0.01,
                        "tooltip": "Timesteps are drawn up to here. High timesteps change layout "
                        "and colour; lower it to stay closer to the source.",
                    },
                ),
                "optimiser": (
                    ["sgd", "adam"],
                    {
                        "default": "sgd",
                        "tooltip": "sgd is what the papers use. adam makes all latents move "
                        "equally fast: use a step_size around 0.02 with it.",
                    },
                ),
            },
            "optional": {
                "mask": (
                    "MASK",
                    {
                        "tooltip": "White may change; where it is black the latents stay exactly "
                        "the source's. One mask for the clip or one per frame, at any resolution.",
                    },
                ),
                "state": (
                    STATE,
                    {
                        "tooltip": "A state to go on from: 70 steps and then 50 more equal 120 at "
                        "once. The seed is then the state's.",
                    },
                ),
                "fusion": (
                    FUSION,
                    {"tooltip": "From Attention Fusion: the edit also attends to the source."},
                ),
                "window": (
                    "INT",
                    {
                        "default": 0,
                        "min": 0,
                        "max": 1024,
                        "step": 1,
                        "tooltip": "Frames the model sees at once; 0 is the whole clip. 16 edits a "
                        "clip of any length with the memory of 16 frames.",
                    },
                ),
                "overlap": (
                    "INT",
                    {
                        "default": 4,
                        "min": 0,
                        "max": 512,
                        "step": 1,
                        "tooltip": "Frames that neighbouring windows share and blend. If the clip "
                        "jumps where windows meet, raise it; a quarter of the window is usual.",
                    },
                ),
                "checkpointing": (
                    "BOOLEAN",
                    {
                        "default": True,
                        "tooltip": "For terms that read the model's attention (self-similarity, "
                        "consistency): activations are computed a second time instead of kept, "
                        "which takes far less memory. The edit is the same; off is a bit faster.",
                    },
                ),
            },
        }

    def run(
        self, model, prompts, latent, terms, steps: int, step_size: float, cfg: float, seed: int,
        t_min: float, t_max: float, optimiser: str, mask=None, state=None, fusion=None,
        window: int = 0, overlap: int = 4, checkpointing: bool = True,
    ):  # fmt: skip
        import torch
        from einops import rearrange

        from ..attention.checkpointing import checkpointed
        from ..pipelines.distillation.joint_guidance import check_joint
        from ..pipelines.distillation.score_distillation import Progress, Settings, distil
        from ..pipelines.windows import Windows

        check_joint(terms, model.schedule, latent_space(model), model.name)
        windows = Windows(window, overlap) if window else None
        samples = latent["samples"]
        picture = _previewer(model, samples) if host.shows_previews() else None
        settings = Settings(steps, step_size, cfg, seed, t_min, t_max, optimiser)
        host.load(model, "unet", memory=_BYTES_PER_LATENT_PIXEL * 4 * samples[:, :1].numel())
        bar, numbers = host.progress(steps), Numbers(steps)
        z_source = layouts.latents_of(samples, model.scaling_factor, model.shift_factor)
        z_source = z_source.to(model.device)
        done_before = 0 if state is None else state.step

        def show(progress: Progress) -> None:
            done = progress.step - done_before
            # Another frame each time: the preview plays the clip while it changes.
            frame = progress.z[0, :, done % progress.z.shape[2]]
            numbers.add(done, progress.values)
            bar(done, picture and (lambda: picture(frame)))

        with checkpointed(model.unet) if checkpointing else nullcontext():
            state = distil(
                z_source,
                terms,
                model.eps_theta,
                prompts.embeddings,
                model.schedule,
                settings,
                unet=model.unet,
                fusion=fusion,
                windows=windows,
                mask=None if mask is None else layouts.masks_of(mask),
                shown=shown_share(latent, model.vae_factor),
                state=state,
                on_step=show,
            )
        edited = layouts.samples_of(state.z, model.scaling_factor, model.shift_factor)
        # Scaling there and back rounds: what was not edited is handed on as it came, to the bit.
        untouched = rearrange(state.z == z_source, "1 c f h w -> f c h w").to(edited.device)
        edited = torch.where(untouched, samples.to(edited), edited)
        losses = {"loss": [sum(values.values()) for values in state.values]}
        return ({**latent, "samples": edited}, state, losses)


def latent_space(model):
    """What a model's latents are like, to be compared with another model's."""
    from ..pipelines.distillation.joint_guidance import LatentSpace

    return LatentSpace(
        model.unet.config.in_channels, model.vae_factor, model.scaling_factor, model.shift_factor
    )


def _previewer(model, samples):
    """A map from model latents to rough pictures, fitted to the clip's middle frame."""
    from ..pipelines.models.preview import fit_preview

    middle = samples[len(samples) // 2][None]
    host.load(model, "vae")
    pixels = model.decode_frames(middle)[0] / 2 + 0.5
    return fit_preview((middle[0] - model.shift_factor) * model.scaling_factor, pixels)


def shown_share(latent: dict[str, Any], factor: int) -> tuple[float, float]:
    """The share of the latent grid that the clip fills, the rest being padding."""
    height, width = latent["samples"].shape[-2:]
    if PIXEL_SIZE not in latent:
        return 1.0, 1.0
    return latent[PIXEL_SIZE][0] / (height * factor), latent[PIXEL_SIZE][1] / (width * factor)


NODE_CLASS_MAPPINGS = {"ReScoreScoreDistillation": ScoreDistillation}
NODE_DISPLAY_NAME_MAPPINGS = {"ReScoreScoreDistillation": "Score Distillation"}
