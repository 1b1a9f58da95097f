"""The node that trains an inflated model on one clip."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from . import host, layouts
from .inflation import CATEGORY
from .kept import Kept
from .live import Numbers
from .running import BYTES_CHECKPOINTED, BYTES_WITH_GRADIENTS, of_stable_diffusion, prepared
from .shared import FIXED_SEED
from .sockets import LOSSES, MODEL, PIXEL_SIZE, PROMPTS, TUNING
from .widgets import BOOLEAN, COMBO, FLOAT, INT, SOCKET, Node, outputs

log = logging.getLogger("rescore")

_SMOOTHED_OVER = 25  # steps; single losses jump, because they depend on the random timestep


@dataclass(frozen=True)
class _Stopped:
    """What is kept of a run, so that it can go on."""

    state: Any
    previews: dict[int, Any]  # by their step; 0 is the clip itself
    made_of: str  # fingerprint of the prompts and settings of the previews


class OneShotTune(Node):
    TITLE = "One-Shot Tune"
    SEARCH_ALIASES = [
        "train on video", "fine-tune", "finetune", "Tune-A-Video", "EI2", "edit video",
    ]  # fmt: skip
    DESCRIPTION = (
        "Teaches an inflated model the motion of one clip, so that a new prompt changes what is "
        "seen and not how it moves. Trains the query maps and what is added along time, nothing "
        "else. Cancel keeps what was learned: queued again, the node goes on where it stopped, or "
        "hands over what it has if steps is lowered to that. Needs a GPU for real models."
    )
    CATEGORY = CATEGORY
    FUNCTION = "tune"
    RETURN_TYPES, RETURN_NAMES, OUTPUT_TOOLTIPS = outputs(
        model=(MODEL, "The tuned model: invert and sample with it, or save its weights."),
        state=(TUNING, "Where the run stands: wire it to another One-Shot Tune to go on."),
        losses=(LOSSES, "One number per step, for the host's Plot Loss Graph."),
        loss_curve=("IMAGE", "The loss over the steps as a picture."),
        previews=("IMAGE", "The middle frame of the clip, and of each preview edit."),
        report=("STRING", "What was trained, how long, and the loss."),
    )
    REQUIRED = {
        "model": SOCKET(MODEL, "From Inflate Image Model."),
        "prompts": SOCKET(PROMPTS,
            "From Encode Prompt Pair, same model. The source prompt, which describes the clip, is "
            "what is learned; the target is for previews only."),
        "latent": SOCKET("LATENT",
            "The clip, from Video VAE Encode. 8 frames in EI2, 24 in Tune-A-Video's code; memory "
            "grows with their number and size."),
        "steps": INT(500, 0, 10000,
            "Training steps, those of a resumed state included. 500 in the papers. If motion is "
            "not kept, raise it; if edits stop following the prompt, lower it."),
        "learning_rate": FLOAT(3e-5, 1e-7, 0.1, 1e-6,
            "How far each step goes. 3e-5 in the papers; for the tiny shapeworld-sd 1e-4. If "
            "motion is not kept, raise it; if edits stop following the "
            "prompt, shapes fray or the loss jumps, lower it.", round=1e-8),
        "seed": FIXED_SEED(
            "Draws the timesteps and noises; on a CPU the same seed gives the same weights bit for "
            "bit. 0 is as good as any; if a result is bad by chance, try "
            "another."),
        "precision": COMBO(["as loaded", "bf16", "fp16"],
            "What the model computes in while it learns. as loaded: what the loader chose. Trained "
            "weights are fp32 in any case. If memory runs out, bf16; if fp16 stops with numbers "
            "that are not finite, bf16.", advanced=True),
        "checkpointing": BOOLEAN(True,
            "Compute features a second time rather than keep them: a third more time, far less "
            "memory, same result. On to begin with; switch it off where memory is plenty."),
        "preview_every": INT(0, 0, 10000,
            "Edit the clip with the target prompt after every so many steps, to see when to stop. "
            "0: never. 100 shows enough; each preview costs about preview_steps * 1.5 training "
            "steps."),
        "preview_steps": INT(20, 1, 200,
            "Steps of inversion, and as many of sampling, in a preview. 20 shows enough; if "
            "previews are worse than the final edit, raise it.", advanced=True),
        "preview_cfg": FLOAT(7.5, 0, 30, 0.1,
            "Guidance of previews: uncond + cfg * (cond - uncond). 7.5 in EI2, 12.5 in "
            "Tune-A-Video's code, 1.5 for the tiny shapeworld-sd. If the edit is too weak, raise "
            "it; if colours burn or the layout is lost, lower it."),
    }  # fmt: skip
    OPTIONAL = {
        "state": SOCKET(TUNING,
            "A state to go on from, of the same model and clip: 300 steps and on to 500 equal 500 "
            "at once. The seed is then the state's."),
        "preview_describe": BOOLEAN(False,
            "Previews invert the clip with its source prompt, as DDIM Inversion at cfg 1 does: the "
            "background stays closer. Off: with the negative prompt, as Tune-A-Video does."),
    }  # fmt: skip

    def __init__(self) -> None:
        # The last run, finished or not. A resumed run equals one long run bit for bit, so that
        # continuing from here never changes a result.
        self._kept = Kept("One-Shot Tune")

    def tune(
        self, model, prompts, latent, steps: int, learning_rate: float, seed: int, precision: str,
        checkpointing: bool, preview_every: int, preview_steps: int, preview_cfg: float, state=None,
        preview_describe: bool = False,
    ):  # fmt: skip
        import torch

        from ..pipelines.fingerprint import fingerprint
        from ..pipelines.tuning.one_shot_tuning import (
            Diverged,
            Progress,
            Settings,
            trained_summary,
            tune,
        )

        of_stable_diffusion(model, "One-Shot Tune")
        model.denoiser.grid(preview_steps)  # or else it would learn, and could not sample
        settings = Settings(
            steps, learning_rate, seed=seed, precision=precision, checkpointing=checkpointing
        )
        samples = latent["samples"]
        shaping = replace(settings, steps=0, checkpointing=False)  # these two do not change a step
        learned = prompts.source, prompts.embeddings.source, samples
        run = fingerprint(model.fingerprint, str(model.dtype), *learned, shaping, state)
        how = preview_every, preview_steps, preview_cfg, preview_describe
        made_of = fingerprint(prompts.embeddings, how)
        picture = _middle_frame(model, latent)
        previews = {0: picture(samples)}
        kept, given = self._kept.of(run, steps), 0 if state is None else state.step
        if kept is not None:
            state = kept.state
            previews |= kept.previews if kept.made_of == made_of else {}
        each = BYTES_CHECKPOINTED if checkpointing else BYTES_WITH_GRADIENTS
        ready = prepared(model, latent, each=each)
        done_before = 0 if state is None else state.step
        to_do = max(steps - done_before, 1)
        bar, numbers = host.progress(to_do), Numbers(to_do)
        last: Progress | None = None

        with host.differentiable():
            # Autograd refuses tensors made in inference mode, but not a clone made here.
            z_0 = ready.z.clone()
            cond = prompts.embeddings.source.clone().to(model.device)

            def preview(step: int, weights) -> None:
                if preview_every and step % preview_every == 0 and step not in previews:
                    # A copy: torch may round otherwise where weights require a gradient.
                    network = model.network.with_tuned(weights)
                    edited = _preview(
                        model, network, z_0, prompts, preview_steps, preview_cfg, preview_describe
                    )
                    previews[step] = picture(edited)

            def keep(state) -> None:
                until = {step: shown for step, shown in previews.items() if step <= state.step}
                self._kept.keep(run, state.step, _Stopped(state, until, made_of))

            def show(progress: Progress) -> None:
                nonlocal last
                last = progress
                preview(progress.step, progress.model.tuned_state())
                numbers.add(progress.step - done_before, {"loss": progress.loss})
                bar(progress.step - done_before, lambda: previews[max(previews)][0])

            if done_before > given:  # the run before may have been stopped in its last preview
                preview(done_before, state.weights)
            try:
                state = tune(
                    model.network,
                    z_0,
                    cond,
                    model.process,
                    settings,
                    predicts=model.predicts,
                    prompt=prompts.source,
                    state=state,
                    on_step=show,
                )
            except Diverged as error:
                keep(error.state)
                raise
            except BaseException:
                if last is not None:
                    keep(made := last.state())
                    log.info("One-Shot Tune stopped; the %d steps made are kept.", made.step)
                raise
        keep(state)
        tuned = model.with_network(model.network.with_tuned(state.weights, state.tuning))
        return (
            tuned,
            state,
            {"loss": list(state.losses)},
            _loss_curve(state.losses),
            torch.cat([previews[step] for step in sorted(previews)]),
            " ".join(
                filter(
                    None,
                    (
                        trained_summary(model.network),
                        _told(state, done_before, kept),
                        _without(previews, preview_every, given, done_before),
                    ),
                )
            ),
        )


def _preview(model, network, z_0, prompts, steps: int, cfg: float, describe: bool):
    """The clip edited by the network in its current state, as LATENT samples."""
    import torch

    from ..pipelines.tuning.tuned_edit import invert_and_edit

    now = model.with_network(network)
    with torch.no_grad():
        edited = invert_and_edit(
            z_0,
            now.denoiser,
            type(prompts.embeddings)(*(e.to(z_0.device) for e in prompts.embeddings)),
            steps=steps,
            cfg=cfg,
            describe=describe,
            on_step=lambda _: host.check_cancelled(),
        )
    return layouts.samples_of(edited, model)


def _middle_frame(model, latent) -> Callable[[Any], Any]:
    """Makes IMAGE `[1, H, W, 3]` of the middle frame of LATENT samples."""
    import torch
    from einops import rearrange

    from ..pipelines.models.codec import decode_video

    @torch.no_grad()
    def picture(samples):
        middle = rearrange(samples[len(samples) // 2], "c h w -> 1 c 1 h w").float()
        host.load(model, "vae")
        return layouts.image_from_clip(
            decode_video(middle, model.decode_frames, size=latent.get(PIXEL_SIZE))
        )

    return picture


def _loss_curve(losses):
    from .charts import line_chart, running_mean

    smooth = f"mean of {_SMOOTHED_OVER}"
    series = {"loss": losses, smooth: running_mean(losses, _SMOOTHED_OVER)}
    return line_chart("Loss while tuning", series, faint=["loss"])


def _told(state, done_before: int, kept) -> str:
    losses = state.losses[-_SMOOTHED_OVER:]
    told = f"{state.step} steps are made, {state.step - done_before} of them now."
    if kept is not None:
        told += f" The first {done_before} are of this node's run before."
    if losses:
        told += f" Loss over the last {len(losses)}: {sum(losses) / len(losses):.4g}."
    return told


def _without(previews, every: int, given: int, done_before: int) -> str:
    """What to tell of previews that the run before has not made, because they were others then."""
    wanted = range(given + 1, done_before + 1)
    if not every or all(step in previews for step in wanted if step % every == 0):
        return ""
    return f"Previews begin after step {done_before}: before, their settings were others."


NODE_CLASS_MAPPINGS = {"ReScoreOneShotTune": OneShotTune}
