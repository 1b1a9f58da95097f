"""The nodes of null-text optimisation and of decoupled guidance."""

from . import host, layouts
from .inversion import CATEGORY
from .kept import Kept
from .live import tell
from .running import along, own
from .shared import INVERTED
from .sockets import GUIDANCE, LOSSES, NULL_TEXT, Guidance
from .widgets import BOOLEAN, COMBO, FLOAT, INT, SOCKET, STRING, Node, outputs


class DecoupledGuidance(Node):
    TITLE = "Decoupled Guidance"
    SEARCH_ALIASES = ["keep background", "keep motion", "STDG", "VideoDirector"]
    DESCRIPTION = (
        "Holds the denoised clip's temporal attention and self-attention keys to those of its "
        "inversion, foreground and background apart (VideoDirector's spatial-temporal decoupled "
        "guidance). Wire it to Null-Text Optimisation. The defaults are the paper's and its code's "
        "for editing the foreground; for the background pass it through Edit Background. With "
        "all four coefficients at 0 no pass is run for it."
    )
    CATEGORY = CATEGORY
    FUNCTION = "build"
    RETURN_TYPES, RETURN_NAMES, OUTPUT_TOOLTIPS = outputs(
        guidance=(GUIDANCE, "For Null-Text Optimisation, which keeps its effect for the edit."),
    )
    REQUIRED = {
        "motion_foreground": FLOAT(0.5, 0, 100, 0.05,
            "How firmly the object's motion is held. 0.5 in the paper; 0 is free. If the object "
            "moves otherwise, raise it; if it cannot take its new shape, lower it."),
        "motion_background": FLOAT(0.5, 0, 100, 0.05,
            "How firmly the background's motion is held. 0.2 to 0.8 in the paper, 1 for much "
            "motion in the authors' code. If the background flickers, raise it."),
        "look_foreground": FLOAT(0, 0, 100, 0.05,
            "How firmly the object's look is held. 0 in the paper, so that the edit can change it. "
            "If it changes more than it should, try 0.2."),
        "look_background": FLOAT(0.5, 0, 100, 0.05,
            "How firmly the background's look is held. 0.5 in the paper. If things in the "
            "background change, raise it."),
        "strength": FLOAT(1, 0, 100, 0.05,
            "Multiplies the guidance as a whole; it means the same at any size and length. If the "
            "clip breaks up, lower it; if the reconstruction drifts, raise it. 0 switches it off."),
        "top_k": INT(1, 1, 64,
            "Of each frame, so many frames that it attends to most are compared. 1 in the authors' "
            "code: the rest of a map is mostly noise. If slow motion is lost, try 2 or 3.",
            advanced=True),
        "sites": STRING("late",
            "Which attention layers. late is blocks 1 and 2 of the decoder, as in the "
            "authors' code; or name patterns. If memory runs out, up_blocks.1.* needs less.",
            advanced=True),
    }  # fmt: skip
    OPTIONAL = {
        "mask": SOCKET("MASK",
            "White where the object is, one for the clip or one per frame, at any size. Without a "
            "mask everything counts as background."),
        "look": COMBO(["frame means", "token by token"],
            "How the look of a frame is compared. frame means, as in the authors' code: things may "
            "move about. token by token, as the paper's equation reads, with a weight of ours: "
            "each place is held. If the background shifts, choose token by token.", advanced=True),
    }  # fmt: skip

    def build(
        self, motion_foreground: float, motion_background: float, look_foreground: float,
        look_background: float, strength: float, top_k: int, sites: str, mask=None,
        look: str = "frame means",
    ):  # fmt: skip
        from ..pipelines.inversion.decoupled_guidance import GuidanceSettings

        settings = GuidanceSettings(
            motion_foreground, motion_background, look_foreground, look_background, strength, top_k,
            sites, look,
        )  # fmt: skip
        return (Guidance(settings, None if mask is None else layouts.masks_of(mask)),)


class NullTextOptimisation(Node):
    TITLE = "Null-Text Optimisation"
    SEARCH_ALIASES = [
        "null-text inversion", "null text optimization", "pivotal tuning", "VideoDirector",
    ]  # fmt: skip
    DESCRIPTION = (
        "Finds, step by step, the unconditional embeddings with which guided denoising retraces "
        "the inverted clip: one per frame (VideoDirector), or one for the clip (null-text "
        "inversion). With them the clip can be edited at full guidance and still be found back. "
        "Cancelling keeps the steps done: queue again to go on."
    )
    CATEGORY = CATEGORY
    FUNCTION = "optimise"
    RETURN_TYPES, RETURN_NAMES, OUTPUT_TOOLTIPS = outputs(
        null_text=(NULL_TEXT,
            "Embeddings and guidance, for Reconstruct and Attention-Controlled Sampling."),
        reconstruction=("LATENT", "Where denoising with them leads: the clip, if all went well."),
        losses=(LOSSES, "The error left at each step, for the host's Plot Loss Graph."),
        report=("STRING", "How closely the trajectory is followed, in words."),
    )  # fmt: skip
    REQUIRED = {
        **INVERTED,
        "cfg": FLOAT(8.5, 0, 30, 0.1,
            "Guidance of the edit to come: uncond + cfg * (cond - uncond). 8.5 is the 7.5 "
            "of VideoDirector's code, which counts from cond. If the edit is too weak, raise it; "
            "if the clip is not found back, lower it."),
        "inner_steps": INT(10, 0, 200,
            "Moves of the embedding per step, each a model call with gradients. 10 in the authors' "
            "code; 0 optimises nothing. If the reconstruction is off, raise it."),
        "learning_rate": FLOAT(0.01, 0.0001, 1, 0.001,
            "How far each move goes at the first step; it falls to half at the last. 0.01 in the "
            "authors' code. If the clip is not found back, raise it (the tiny models want 0.06 "
            "for that); if the edit is pulled back to the source or the error jumps up, lower it.",
            round=0.0001),
        "embeddings": COMBO(["one per frame", "one for the clip"],
            "One per frame follows moving clips better and needs a model that reads text per frame "
            "(AnimateDiff, image models). Text-to-video models take one for the clip."),
        "early_stop": FLOAT(1e-5, 0, 1, 1e-6,
            "A step ends once its mean squared error is below this plus early_stop_growth for each "
            "step before it. 0.00001 in the authors' code. If the clip is not found back, "
            "lower it; if it takes too long, raise it.", round=1e-7, advanced=True),
        "early_stop_growth": FLOAT(2e-5, 0, 1, 1e-6,
            "See early_stop. The authors' 0.00002 lets late steps be less "
            "exact; lower it if fine detail is lost.", round=1e-7, advanced=True),
        "checkpointing": BOOLEAN(False,
            "Computes activations a second time instead of keeping them: a third to a half "
            "slower, and far less memory. Switch it on when memory runs out.", advanced=True),
        "stop_after": INT(0, 0, 999,
            "Ends after so many steps; 0 is all. Wire the result to another Null-Text Optimisation "
            "to go on, with the same result as in one run.", advanced=True),
    }  # fmt: skip
    OPTIONAL = {
        "guidance": SOCKET(GUIDANCE, "From Decoupled Guidance. Without it no such pass is run."),
        "null_text": SOCKET(NULL_TEXT,
            "An unfinished optimisation of the same trajectory to go on from."),
    }  # fmt: skip

    def __init__(self) -> None:
        self._kept = Kept("Null-Text Optimisation")

    def optimise(
        self, model, prompts, trajectory, cfg: float, inner_steps: int, learning_rate: float,
        embeddings: str, early_stop: float, early_stop_growth: float, checkpointing: bool,
        stop_after: int, guidance=None, null_text=None,
    ):  # fmt: skip
        from ..pipelines.fingerprint import fingerprint
        from ..pipelines.inversion.drift import DriftGuidance
        from ..pipelines.inversion.null_text import NullTextSettings, optimise_null_text

        own(model, "Null-Text Optimisation, which changes the embedding of a text,")
        ready, path = along(model, prompts, trajectory, rows=2)
        settings = NullTextSettings(
            cfg, inner_steps, learning_rate, embeddings == "one per frame", early_stop,
            early_stop_growth,
        )  # fmt: skip
        held = guidance and DriftGuidance(guidance.settings, guidance.mask, ready.grid)
        source, _, negative = prompts.embeddings
        run = fingerprint(
            path.fingerprint, source, negative, settings, held, trajectory.windows, null_text
        )
        given = 0 if null_text is None else null_text.done
        last = min(path.steps, given + stop_after) if stop_after else path.steps
        stopped = self._kept.of(run, last)
        state = null_text if stopped is None else stopped
        first = 0 if state is None else state.done
        shows = ready.shows(last)
        shows(first, path.latents[0])

        def show(now) -> None:
            self._kept.keep(run, now.step, now.state)
            shows(now.step, now.z, {"PSNR, dB": now.psnr})

        def work(denoiser):
            with host.differentiable(), denoiser.checkpointed(checkpointing):
                return optimise_null_text(
                    path,
                    denoiser,
                    source,
                    negative,
                    settings,
                    guidance=held,
                    windows=trajectory.windows,
                    state=state,
                    steps=last - first,
                    on_step=show,
                )

        found = ready.run(work)
        self._kept.forget()
        losses = {"loss": list(found.losses)}
        report = "\n".join(filter(None, (_report(found, path, stopped), tell(_note(guidance)))))
        return (found, ready.latent(found.z), losses, report)


def _note(guidance: Guidance | None) -> str:
    """What to tell of the mask that comes with guidance."""
    mask = None if guidance is None else guidance.mask
    return layouts.if_black(
        mask, "The mask of the object is black: all of the clip counts as background."
    )


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
