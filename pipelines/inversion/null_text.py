"""Multi-frame null-text optimisation: embeddings that keep guided denoising on the trajectory."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from ..fingerprint import fingerprint
from ..models.denoiser import Cond, Denoiser, Predict, guided, pull_back
from ..models.process import Latents, Level, Prediction, check_grid, move
from ..windows import Windows, windowed
from .decoupled_guidance import guided_step
from .drift import Drift, DriftGuidance
from .trajectory import NullText, Trajectory


@dataclass(frozen=True)
class NullTextSettings:
    """How the unconditional embeddings are optimised.

    The defaults are those of VideoDirector's code (Wang et al., 2025). Its guidance of 7.5 is added
    to the conditional prediction, which is a cfg of 8.5. The code of null-text inversion (Mokady et
    al., 2023) has the same numbers, but a cfg of 7.5 and one embedding for the picture. At step i
    of T the learning rate is `learning_rate * (1 - i / (2 T))`. The step ends as soon as the mean
    squared error to the pivot is below `early_stop + early_stop_growth * i`.
    """

    cfg: float = 8.5
    inner_steps: int = 10
    learning_rate: float = 1e-2
    per_frame: bool = True  # one embedding per frame; False: one for the clip
    early_stop: float = 1e-5
    early_stop_growth: float = 2e-5

    def __post_init__(self) -> None:
        if not (math.isfinite(self.cfg) and self.cfg >= 0):
            raise ValueError(f"cfg is {self.cfg}; it must be a number of 0 or more.")
        if self.inner_steps < 0:
            raise ValueError(f"inner_steps is {self.inner_steps}; it must be 0 (none) or more.")
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise ValueError(f"learning_rate is {self.learning_rate}; it must be above 0.")
        for name in ("early_stop", "early_stop_growth"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 0 or more.")


class NullTextProgress(NamedTuple):
    """What `on_step` gets after each step; a run can be resumed from `state`."""

    step: int
    steps: int
    z: Latents
    loss: float  # mean squared error to the pivot
    psnr: float  # the same in dB, relative to the range of the pivot
    state: NullText


def optimise_null_text(
    trajectory: Trajectory,
    denoiser: Denoiser,
    cond: Float[Tensor, "1 l d"],
    uncond: Float[Tensor, "1 l d"],
    settings: NullTextSettings = NullTextSettings(),
    *,
    guidance: DriftGuidance | None = None,
    windows: Windows | None = None,
    state: NullText | None = None,
    steps: int | None = None,
    on_step: Callable[[NullTextProgress], None] | None = None,
) -> NullText:
    """Unconditional embeddings with which guided denoising follows a trajectory.

    Null-text inversion (Mokady et al., 2023, Alg. 1) with one embedding per frame (VideoDirector,
    Sec. 3.2). It goes from the noisy end to the clean one. Each step predicts once under the source
    prompt `cond`. Then Adam changes the embedding until the guided step from the current latents
    ends near the pivot. The next step starts where this one ended. The first embedding starts at
    `uncond`, later ones at the embedding of the step before. With `guidance`, each step also moves
    against its G.

    Clips longer than the model takes go through it in `windows`. Only one window has a graph at a
    time, so memory is that of one window; in the backward pass each window is run again.

    With `state`, `steps` more steps (None: all) follow those it has made. `on_step` is called after
    every step and may raise an exception to stop the run.

    Raises:
        ValueError: if `state` belongs to another trajectory, cfg or kind of embedding, or was made
            with other prompts, windows or guidance.
        FloatingPointError: if a step or its guidance is not finite.
        MemoryError: if there is no room for gradients; the message says what helps.
    """
    check_grid(trajectory.levels)
    cond, uncond = _plain(cond), _plain(uncond)
    frames = trajectory.latents.shape[3]
    drift_of, strength = None, 0.0
    if guidance is not None and guidance.settings.active:
        drift_of = Drift(guidance, cond, denoiser, windows)
        strength = guidance.settings.strength
    made_with = fingerprint(cond, uncond, windows, guidance if drift_of else None)
    predict: Predict = denoiser
    if windows is not None and frames > windows.length:
        predict = windowed(_without_graph(denoiser), windows)
    if state is None:
        z_T = trajectory.latents[-1]
        state = NullText(
            trajectory.fingerprint,
            settings.cfg,
            trajectory.steps,
            z_T,
            strength=strength,
            made_with=made_with,
        )
    state.require_same(trajectory, settings.cfg, settings.per_frame, made_with)
    count = frames if settings.per_frame else 1
    last = state.steps if steps is None else min(state.steps, state.done + steps)

    for i in range(state.done, last):
        level = trajectory.steps - i
        down = trajectory.levels[level], trajectory.levels[level - 1]
        pivot, target = _plain(trajectory.latents[level]), _plain(trajectory.latents[level - 1])
        z = _plain(state.z.to(pivot))
        if drift_of is None:
            with torch.no_grad():
                prompted, drift = predict(z, down[0], cond), None
        else:
            prompted, drift = drift_of(z, pivot, down[0])

        start = _plain(state.embeddings[-1].to(uncond)) if state.embeddings else uncond
        step = _Step(z, *down, prompted, drift, strength)
        start = start.expand(count, -1, -1)
        null, z, loss = _fitted(step, predict, start, target, i, settings, state.steps)
        if not (math.isfinite(loss) and bool(torch.isfinite(z).all())):
            raise FloatingPointError(
                f"Null-text optimisation left the range of numbers at step {i + 1}: lower cfg (now "
                f"{settings.cfg:g}) or the learning rate (now {settings.learning_rate:g}); with a "
                "float16 model, try bfloat16 or float32."
            )
        state = replace(
            state,
            z=z,
            # On the CPU: there is one for every step, and each is used only once.
            embeddings=(*state.embeddings, null.cpu()),
            guidance=(*state.guidance, drift.cpu()) if drift is not None else (),
            losses=(*state.losses, loss),
        )
        if on_step is not None:
            psnr = trajectory.psnr(level - 1, loss)
            on_step(NullTextProgress(i + 1, last, z, loss, psnr, state))
    return state


class _Step(NamedTuple):
    """One guided step to less noise; only its unconditional prediction is missing."""

    z: Latents
    here: Level
    there: Level
    prompted: Prediction
    drift: Latents | None
    strength: float

    def land(self, without: Prediction, cfg: float) -> Latents:
        """The latents after the step."""
        z = move(guided(without, self.prompted, cfg), self.there)
        return guided_step(z, self.drift, self.here, self.there, self.strength)


def _fitted(
    step: _Step,
    predict: Predict,
    start: Float[Tensor, "k l d"],
    target: Latents,
    i: int,
    settings: NullTextSettings,
    steps: int,
) -> tuple[Float[Tensor, "k l d"], Latents, float]:
    """The fitted embedding, the latents that the step ends at with it, and the remaining error.

    Deviation: the error is checked before each move of the embedding, in the authors' code after
    it. So an embedding that is good enough does not change, and the last prediction is the one that
    makes the step.
    """
    null = start.clone().requires_grad_()
    rate = settings.learning_rate * (1 - i / (2 * steps))
    optimiser = torch.optim.Adam([null], lr=rate)
    enough = settings.early_stop + settings.early_stop_growth * i
    for inner in range(settings.inner_steps + 1):
        try:
            with torch.set_grad_enabled(inner < settings.inner_steps):
                shaped = null if len(null) == 1 else rearrange(null, "f l d -> 1 f l d")
                said = predict(step.z, step.here, shaped)
                # Detached: the error is computed in float32, and `pull_back` scales its gradient.
                apart = Prediction(
                    *(part.detach().requires_grad_(part.requires_grad) for part in said)
                )
                z = step.land(apart, settings.cfg)
                error = functional.mse_loss(z, target)
            loss = error.item()
            # With cfg 1 the error does not depend on the embedding.
            if loss < enough or not error.requires_grad or not math.isfinite(loss):
                break
            null.grad = pull_back(torch.autograd.grad(error, apart), said, null)
        except (MemoryError, torch.OutOfMemoryError) as failed:
            raise MemoryError(
                "There is not enough memory for the gradients of null-text optimisation. Switch "
                "checkpointing on, use fewer frames (or a shorter window), or make the clip "
                "smaller."
            ) from failed
        optimiser.step()
    return null.detach(), z.detach(), loss


def _without_graph(predict: Predict) -> Predict:
    """The same predictions without a stored graph: they are computed again in the backward pass.

    The models are in eval mode, so there is no random state to restore.
    """

    def kept(z: Latents, level: Level, cond: Cond) -> Prediction:
        if not (torch.is_grad_enabled() and cond.requires_grad):
            return predict(z, level, cond)
        return checkpoint(predict, z, level, cond, use_reentrant=False, preserve_rng_state=False)

    return kept


def _plain(tensor: Tensor) -> Tensor:
    """A tensor that autograd accepts: a tensor made in inference mode is copied."""
    return tensor.clone() if tensor.is_inference() else tensor
