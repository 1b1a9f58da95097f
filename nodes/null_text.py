"""Nodes that make guided denoising follow a trajectory."""

from contextlib import nullcontext
from typing import Any

from . import host, layouts
from .inversion import CATEGORY, fitting, latent_of, load_unet, picture_of, shown
from .kept import Kept
from .live import Numbers
from .sockets import (
    GUIDANCE,
    LOSSES,
    MODEL,
    NULL_TEXT,
    PROMPTS,
    TRAJECTORY,
    Guidance,
)


def _coefficient(default: float, tooltip: str) -> tuple[str, dict[str, Any]]:
    options = {"default": default, "min": 0.0, "max": 100.0, "step": 0.05}
    return "FLOAT", {**options, "tooltip": tooltip}


class DecoupledGuidance:
    """Settings of spatial-temporal decoupled guidance (STDG)."""

    DESCRIPTION = (
        "Holds the denoised clip's temporal attention and self-attention keys to those of its "
        "inversion, foreground and background apart (VideoDirector's spatial-temporal decoupled "
        "guidance). Wire it to Null-Text Optimisation. The defaults are the paper's for editing "
        "the foreground; for the background pass it through Edit Background. With all four "
        "coefficients at 0 no pass is run for it."
    )
    CATEGORY = CATEGORY
    FUNCTION = "build"
    RETURN_TYPES = (GUIDANCE,)
    RETURN_NAMES = ("guidance",)
    OUTPUT_TOOLTIPS = ("For Null-Text Optimisation, which keeps its effect for the edit.",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "motion_foreground": _coefficient(
                    0.5,
                    "How firmly the object's motion is held. 0.5 in the paper; 0 is free. If the "
                    "object moves otherwise, raise it; if it cannot take its new shape, lower it.",
                ),
                "motion_background": _coefficient(
                    0.5,
                    "How firmly the background's motion is held. 0.2 to 0.8 in the paper, 1 for "
                    "much motion. If the background flickers, raise it.",
                ),
                "look_foreground": _coefficient(
                    0.0,
                    "How firmly the object's look is held. 0 in the paper, so that the edit can "
                    "change it. If it changes more than it should, try 0.2.",
                ),
                "look_background": _coefficient(
                    0.5,
                    "How firmly the background's look is held. 0.5 in the paper. If things in the "
                    "background change, raise it.",
                ),
                "strength": (
                    "FLOAT",
                    {
                        "default": 1.0,
                        "min": 0.0,
                        "max": 100.0,
                        "step": 0.05,
                        "tooltip": "Multiplies the guidance as a whole; it means the same at any "
                        "size and length. If the clip breaks up, lower it; if the reconstruction "
                        "drifts, raise it. 0 switches it off.",
                    },
                ),
                "top_k": (
                    "INT",
                    {
                        "default": 1,
                        "min": 1,
                        "max": 64,
                        "step": 1,
                        "tooltip": "Of each frame, so many frames that it attends to most are "
                        "compared. 1 in the paper: the rest of a map is mostly noise. If slow "
                        "motion is lost, try 2 or 3.",
                    },
                ),
                "sites": (
                    "STRING",
                    {
                        "default": "up_blocks.[12].*",
                        "tooltip": "Which attention layers, by name pattern. Decoder blocks 1 and "
                        "2 in the paper. If memory runs out, up_blocks.1.* needs less.",
                    },
                ),
            },
            "optional": {
                "mask": (
                    "MASK",
                    {
                        "tooltip": "White where the object is, one for the clip or one per frame, "
                        "at any size. Without a mask everything counts as background."
                    },
                ),
            },
        }

    def build(
        self, motion_foreground: float, motion_background: float, look_foreground: float,
        look_background: float, strength: float, top_k: int, sites: str, mask=None,
    ):  # fmt: skip
        from ..pipelines.inversion.decoupled_guidance import GuidanceSettings

        settings = GuidanceSettings(
            motion_foreground, motion_background, look_foreground, look_background, strength, top_k,
            sites,
        )  # fmt: skip
        return (Guidance(settings, None if mask is None else layouts.masks_of(mask)),)


class NullTextOptimisation:
    """The optimisation of unconditional embeddings along a trajectory."""

    DESCRIPTION = (
        "Finds, step by step, the unconditional embeddings with which guided denoising retraces "
        "the inverted clip: one per frame (VideoDirector), or one for the clip (null-text "
        "inversion). With them the clip can be edited at full guidance and still be found back. "
        "Cancelling keeps the steps done: queue again to go on."
    )
    CATEGORY = CATEGORY
    FUNCTION = "optimise"
    RETURN_TYPES = (NULL_TEXT, "LATENT", LOSSES, "STRING")
    RETURN_NAMES = ("null_text", "reconstruction", "losses", "report")
    OUTPUT_TOOLTIPS = (
        "Embeddings and guidance, for Reconstruct and Attention-Controlled Sampling.",
        "Where denoising with them leads: the clip, if all went well.",
        "The error left at each step, for the host's Plot Loss Graph.",
        "How closely the trajectory is followed, in words.",
    )

    def __init__(self) -> None:
        self._kept = Kept("Null-Text Optimisation")

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "model": (MODEL, {"tooltip": "The model the clip was inverted with."}),
                "prompts": (PROMPTS, {"tooltip": "The prompts it was inverted with."}),
                "trajectory": (TRAJECTORY, {"tooltip": "The inverted clip, from DDIM Inversion."}),
                "cfg": (
                    "FLOAT",
                    {
                        "default": 8.5,
                        "min": 0.0,
                        "max": 30.0,
                        "step": 0.1,
                        "tooltip": "Guidance of the edit to come: uncond + cfg * (cond - uncond). "
                        "8.5 is the paper's 7.5, which counts from cond. If the edit is too weak, "
                        "raise it; if the clip is not found back, lower it.",
                    },
                ),
                "inner_steps": (
                    "INT",
                    {
                        "default": 10,
                        "min": 0,
                        "max": 200,
                        "step": 1,
                        "tooltip": "Moves of the embedding per step, each a model call with "
                        "gradients. 10 in the paper; 0 optimises nothing. If the reconstruction "
                        "is off, raise it.",
                    },
                ),
                "learning_rate": (
                    "FLOAT",
                    {
                        "default": 0.01,
                        "min": 0.0001,
                        "max": 1.0,
                        "step": 0.001,
                        "round": 0.0001,
                        "tooltip": "How far each move goes at the first step; it falls to half at "
                        "the last. 0.01 in the paper. If the clip is not found back, raise it (the "
                        "tiny models take 0.06); if the error jumps up, lower it.",
                    },
                ),
                "embeddings": (
                    ["one per frame", "one for the clip"],
                    {
                        "default": "one per frame",
                        "tooltip": "One per frame follows moving clips better and needs a model "
                        "that reads text per frame (AnimateDiff, image models). Text-to-video "
                        "models take one for the clip.",
                    },
                ),
                "early_stop": (
                    "FLOAT",
                    {
                        "default": 1e-5,
                        "min": 0.0,
                        "max": 1.0,
                        "step": 1e-6,
                        "round": 1e-7,
                        "tooltip": "A step ends once its mean squared error is below this plus "
                        "early_stop_growth for each step before it. 0.00001 in the paper. If the "
                        "clip is not found back, lower it; if it takes too long, raise it.",
                    },
                ),
                "early_stop_growth": (
                    "FLOAT",
                    {
                        "default": 2e-5,
                        "min": 0.0,
                        "max": 1.0,
                        "step": 1e-6,
                        "round": 1e-7,
                        "tooltip": "See early_stop. The paper's 0.00002 lets late steps be less "
                        "exact; lower it if fine detail is lost.",
                    },
                ),
                "checkpointing": (
                    "BOOLEAN",
                    {
                        "default": False,
                        "tooltip": "Computes activations a second time instead of keeping them: a "
                        "third slower, and far less memory. Switch it on when memory runs out.",
                    },
                ),
                "stop_after": (
                    "INT",
                    {
                        "default": 0,
                        "min": 0,
                        "max": 999,
                        "step": 1,
                        "tooltip": "Ends after so many steps; 0 is all. Wire the result to another "
                        "Null-Text Optimisation to go on, with the same result as in one run.",
                    },
                ),
            },
            "optional": {
                "guidance": (
                    GUIDANCE,
                    {"tooltip": "From Decoupled Guidance. Without it no such pass is run."},
                ),
                "null_text": (
                    NULL_TEXT,
                    {"tooltip": "An unfinished optimisation of the same trajectory to go on from."},
                ),
            },
        }

    def optimise(
        self, model, prompts, trajectory, cfg: float, inner_steps: int, learning_rate: float,
        embeddings: str, early_stop: float, early_stop_growth: float, checkpointing: bool,
        stop_after: int, guidance=None, null_text=None,
    ):  # fmt: skip
        from ..attention.checkpointing import checkpointed
        from ..pipelines.fingerprint import fingerprint
        from ..pipelines.inversion.drift import DriftGuidance
        from ..pipelines.inversion.null_text import NullTextSettings, optimise_null_text

        path = fitting(trajectory, model, prompts)
        settings = NullTextSettings(
            cfg, inner_steps, learning_rate, embeddings == "one per frame", early_stop,
            early_stop_growth,
        )  # fmt: skip
        picture = picture_of(model, path.latents[0])
        load_unet(model, path.latents[0], 2)
        held = guidance and DriftGuidance(
            model.unet, guidance.settings, guidance.mask, shown(trajectory, model)
        )
        source, _, negative = prompts.embeddings
        aside = held and (held.settings, held.mask, held.shown)
        run = fingerprint(
            path.fingerprint, source, negative, settings, aside, trajectory.windows, null_text
        )
        given = 0 if null_text is None else null_text.done
        last = min(path.steps, given + stop_after) if stop_after else path.steps
        stopped = self._kept.of(run, last)
        state = null_text if stopped is None else stopped
        first = 0 if state is None else state.done
        bar, numbers = host.progress(last), Numbers(last)
        bar(first)

        def show(now) -> None:
            self._kept.keep(run, now.step, now.state)
            numbers.add(now.step, {"PSNR, dB": now.psnr})
            bar(now.step, picture and (lambda: picture(now.z)))

        with host.differentiable(), checkpointed(model.unet) if checkpointing else nullcontext():
            found = optimise_null_text(
                path,
                model.eps_theta,
                source,
                negative,
                model.schedule.alphas_bar,
                settings,
                guidance=held,
                windows=trajectory.windows,
                state=state,
                steps=last - first,
                on_step=show,
            )
        self._kept.forget()
        losses = {"loss": list(found.losses)}
        report = _report(found, path, stopped)
        return (found, latent_of(trajectory, model, found.z), losses, report)


def _report(found, path, stopped) -> str:
    lines = [f"{found.done} of {found.steps} steps at cfg {found.cfg:g}."]
    if stopped is not None:
        lines.append(f"The first {stopped.done} are of this node's run before, which was stopped.")
    if found.losses:
        # Step i leads to level T - 1 - i.
        reached = [path.psnr(path.steps - 1 - i, loss) for i, loss in enumerate(found.losses)]
        lines.append(
            f"PSNR of the latents to the trajectory: {reached[0]:.2f} dB at the first step, "
            f"{min(reached):.2f} dB at the worst, {reached[-1]:.2f} dB at the last."
        )
    if not found.finished:
        lines.append("Unfinished: wire it to another Null-Text Optimisation before using it.")
    if found.guidance:
        lines.append(f"With decoupled guidance of strength {found.strength:g}.")
    return "\n".join(lines)


NODE_CLASS_MAPPINGS = {
    "ReScoreDecoupledGuidance": DecoupledGuidance,
    "ReScoreNullTextOptimisation": NullTextOptimisation,
}
NODE_DISPLAY_NAME_MAPPINGS = {
    "ReScoreDecoupledGuidance": "Decoupled Guidance",
    "ReScoreNullTextOptimisation": "Null-Text Optimisation",
}
