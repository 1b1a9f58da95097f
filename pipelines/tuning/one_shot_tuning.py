"""One-shot tuning: an inflated model is trained on a single clip with the diffusion loss."""

import copy
import logging
import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from ..models.process import Latents, Process, check_latents, noised, target
from ..models.unet.inflation import Tuning, VideoUNet, frozen_sample, same_base

logger = logging.getLogger(__name__)

# The precision of the model while it is tuned; None: as it was loaded.
PRECISIONS = {"as loaded": None, "bf16": torch.bfloat16, "fp16": torch.float16}
# Steps between two copies of the state, to which a run returns when its loss is not finite.
_STEPS_PER_COPY = 10


@dataclass(frozen=True)
class Settings:
    """The settings of a training run. The defaults are EI2's (Zhang et al., 2023, Sec. 5).

    The paper gives no weight decay and no clipping; these two are from Tune-A-Video's code.
    """

    steps: int = 500
    learning_rate: float = 3e-5
    weight_decay: float = 1e-2
    clip_norm: float = 1.0  # of the gradient of all trained weights together
    seed: int = 0
    precision: str = "as loaded"  # a key of PRECISIONS; trained weights are always float32
    checkpointing: bool = False  # less memory, but about a third more time

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise ValueError(f"steps is {self.steps}; it must be 0 (no change) or more.")
        for name in ("learning_rate", "clip_norm"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} is {value}; it must be a number above 0.")
        if not (math.isfinite(self.weight_decay) and self.weight_decay >= 0):
            raise ValueError(f"weight_decay is {self.weight_decay}; it must be 0 or more.")
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision is {self.precision!r}; choose {', '.join(PRECISIONS)}.")


@dataclass(frozen=True, eq=False)
class State:
    """The trained weights, and all that a run needs to continue as if it had not stopped.

    All tensors are on the CPU. `model.with_tuned(state.weights, state.tuning)` is the tuned model.
    """

    weights: dict[str, Tensor]
    tuning: Tuning
    optimiser: dict[str, Any]
    scaler: dict[str, Any]  # empty unless it computes in float16
    random: Tensor  # state of the CPU generator that draws levels and noise
    losses: tuple[float, ...]  # one per step
    clip: Latents  # the clip it is trained on
    base: Float[Tensor, " n"]  # `frozen_sample` of the model

    @property
    def step(self) -> int:
        """The number of steps made."""
        return self.tuning.step


@dataclass(frozen=True, eq=False)
class Progress:
    """What `on_step` gets: `step` of `steps` are done."""

    step: int
    steps: int
    loss: float
    model: VideoUNet  # as it is now; later steps change it
    state: Callable[[], State]  # makes a copy of the state after the last whole step, at any time


class Diverged(FloatingPointError):
    """The loss or a gradient is not finite; `state` is the last copy made before that."""

    def __init__(self, message: str, state: State) -> None:
        super().__init__(message)
        self.state = state


def tune(
    model: nn.Module,
    z_0: Latents,
    cond: Float[Tensor, "b l d"],
    process: Process,
    settings: Settings,
    *,
    predicts: str = "epsilon",
    prompt: str = "",
    state: State | None = None,
    on_step: Callable[[Progress], None] | None = None,
) -> State:
    """Train an inflated model on a clip: E |target - model(z_t, t, cond)|^2 over levels and noise.

    The diffusion loss of EI2 (Zhang et al., 2023, Eq. 2), with AdamW on `model.trainable()` only. A
    copy of the model is trained. `predicts`, one of `process.KINDS`, is the kind of its output.
    `settings.steps` is the total: with `state`, only the missing steps are made. On the CPU the
    result equals that of one run bit for bit. `on_step` is called after every step and may raise an
    exception to stop; `Progress.state` then still gives the trained weights.

    Raises:
        ValueError: if the model is not inflated or has nothing to train, if the clip is not finite,
            for two half precisions on a CPU, or for a `state` of another model, clip or prompt, or
            of more steps.
        Diverged: at the first loss or gradient that is not finite.
        MemoryError: if the device has too little memory; the message says what to do.
    """
    _check(model, z_0, settings, prompt, state)
    run = _Run(model, z_0, process, predicts, settings, prompt, state)
    good = run.state()

    def state_now() -> State:
        return good if run.moving else run.state()

    logger.info("%s", trained_summary(model))
    for step in range(run.step, settings.steps):
        # A copy counts as good only after its weights have given a finite loss.
        before = run.state() if step - good.step == _STEPS_PER_COPY else None
        try:
            loss = run.loss(z_0, cond)
            if not math.isfinite(loss.item()):
                raise _diverged("loss", step, settings, good)
            good = before or good
            if not run.descend(loss):
                raise _diverged("gradient", step, settings, good)
        except torch.OutOfMemoryError as error:
            raise _too_large(z_0, step, settings) from error
        if on_step is not None:
            on_step(Progress(run.step, settings.steps, run.losses[-1], run.model, state_now))
    return run.state()


class _Run:
    """A model in training, with its optimiser and its random numbers."""

    def __init__(
        self,
        model: VideoUNet,
        z_0: Tensor,
        process: Process,
        predicts: str,
        settings: Settings,
        prompt: str,
        state: State | None,
    ) -> None:
        self.process, self.predicts = process, predicts
        self.settings, self.prompt = settings, prompt
        self.clip = z_0.detach().to("cpu", copy=True)
        self.model = model.fork() if state is None else model.restored(state.weights)
        self.model.checkpointing(settings.checkpointing)
        self.parameters = list(self.model.trainable().values())
        for parameter in self.parameters:
            parameter.requires_grad_(True)
        self.dtype = next(model.parameters()).dtype
        self.autocast = PRECISIONS[settings.precision]
        # Gradients in float16 would underflow, so the loss is scaled up.
        half = (self.autocast or self.dtype) == torch.float16
        self.scaler = torch.amp.GradScaler(z_0.device.type, enabled=half)
        self.optimiser = torch.optim.AdamW(
            self.parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
        self.generator = torch.Generator().manual_seed(settings.seed)
        self.losses: list[float] = []
        if state is not None:
            restored = copy.deepcopy(state.optimiser)
            for group in restored["param_groups"]:
                group["lr"] = settings.learning_rate
                group["weight_decay"] = settings.weight_decay
            self.optimiser.load_state_dict(restored)
            if state.scaler:
                self.scaler.load_state_dict(state.scaler)
            self.generator.set_state(state.random)
            self.losses = list(state.losses)
        # After the last whole step: a run that an error ends has drawn for its next step already.
        self.random = self.generator.get_state()
        self.moving = False  # while weights move, they belong to no step

    @property
    def step(self) -> int:
        return len(self.losses)

    def loss(self, z_0: Tensor, cond: Tensor) -> Tensor:
        """The diffusion loss at one level and one noise, both drawn on the CPU."""
        level = self.process.drawn(0, 1, self.generator)
        noise = torch.randn(z_0.shape, generator=self.generator, dtype=z_0.dtype).to(z_0.device)
        z_t = noised(z_0, noise, level)
        wanted = target(z_0, noise, level, self.predicts)
        cast = torch.autocast(z_0.device.type, self.autocast) if self.autocast else nullcontext()
        with cast:
            here = cond.to(z_0.device, self.dtype)
            output = self.model(z_t.to(self.dtype), round(level.t), here)
        return functional.mse_loss(output.to(wanted.dtype), wanted)

    def descend(self, loss: Tensor) -> bool:
        """Make one step of AdamW. If a gradient is not finite, make none and return False."""
        self.optimiser.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimiser)
        norm = nn.utils.clip_grad_norm_(self.parameters, self.settings.clip_norm)
        # A scaled loss may overflow: then the scaler skips the step and lowers its scale.
        if not (self.scaler.is_enabled() or math.isfinite(norm.item())):
            return False
        self.moving = True
        self.scaler.step(self.optimiser)
        self.scaler.update()
        self.model.refine_norms()
        self.losses.append(loss.item())
        self.random, self.moving = self.generator.get_state(), False
        return True

    @torch.no_grad()
    def state(self) -> State:
        frames, height, width = self.clip.shape[2:]
        return State(
            weights=_on_cpu(self.model.tuned_state()),
            tuning=Tuning(self.prompt, frames, height, width, self.step),
            optimiser=_on_cpu(self.optimiser.state_dict()),
            scaler=self.scaler.state_dict(),
            random=self.random,
            losses=tuple(self.losses),
            clip=self.clip,
            base=frozen_sample(self.model),
        )


def trained_summary(model: VideoUNet) -> str:
    """A sentence that says which weights of a model are trained, and how many."""
    named = model.trainable()
    along_time = sum(p.numel() for name, p in named.items() if ".temporal." in name)
    queries = sum(p.numel() for name, p in named.items()) - along_time
    everything = sum(p.numel() for p in model.parameters())
    return (
        f"Trained are {along_time + queries:,} of {everything:,} weights: {queries:,} of the query "
        f"maps of self- and cross-attention in {len(model.blocks)} blocks, {along_time:,} along "
        "time."
    )


def _on_cpu(value: Any) -> Any:
    """A copy of nested containers with every tensor copied to the CPU."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: _on_cpu(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_on_cpu(entry) for entry in value]
    return value


def _check(
    model: nn.Module, z_0: Tensor, settings: Settings, prompt: str, state: State | None
) -> None:
    if not isinstance(model, VideoUNet) or not model.trainable():
        raise ValueError(
            f"{type(model).__name__} has nothing to train: one-shot tuning trains what inflation "
            "puts into an image model. Wire the model through Inflate Image Model."
        )
    check_latents(z_0)
    loaded, wanted = next(model.parameters()).dtype, PRECISIONS[settings.precision]
    if z_0.device.type == "cpu" and loaded != torch.float32 and wanted not in (None, loaded):
        raise ValueError(
            f"The model was loaded in {_named(loaded)} and is to compute in {_named(wanted)}, and "
            "a CPU does not mix the two. Set precision to as loaded, or load the model in fp32."
        )
    frames, height, width = z_0.shape[2:]
    if frames == 1:
        logger.warning("The clip has one frame: there is no motion to learn from it.")
    if state is None:
        return
    tuning = state.tuning
    if (tuning.frames, tuning.height, tuning.width) != (frames, height, width):
        raise ValueError(
            f"The state was tuned on {tuning.frames} frames of {tuning.width} x {tuning.height} "
            f"latents and the clip has {frames} of {width} x {height}. Resume with the clip the "
            "state was made from."
        )
    if not torch.equal(state.clip.to(z_0), z_0):
        raise ValueError(
            "The state was tuned on another clip of the same size. Resume with the clip it was "
            "made from."
        )
    if not same_base(model, state.base):
        raise ValueError(
            "The state was tuned on another model of the same layout. Resume with the model it was "
            "made from."
        )
    if tuning.prompt != prompt:
        raise ValueError(
            f'The state was tuned with the prompt "{tuning.prompt}" and the source prompt is now '
            f'"{prompt}". Use the same source prompt, or start anew.'
        )
    if state.step > settings.steps:
        raise ValueError(
            f"The state has made {state.step} steps, which is more than steps ({settings.steps}). "
            "steps is the total: raise it, or leave the state out."
        )


def _named(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _diverged(what: str, step: int, settings: Settings, good: State) -> Diverged:
    return Diverged(
        f"The {what} is not finite at step {step + 1} of {settings.steps}, with a learning rate of "
        f"{settings.learning_rate:g}. Lower the learning rate (3e-5 is usual); with float16, try "
        f"bfloat16. What was learned up to step {good.step} is kept.",
        good,
    )


def _too_large(z_0: Tensor, step: int, settings: Settings) -> MemoryError:
    frames, height, width = z_0.shape[2:]
    switch = "" if settings.checkpointing else "switch checkpointing on, "
    return MemoryError(
        f"Memory ran out at step {step + 1} of tuning on {frames} frames of {width} x {height} "
        f"latents on {z_0.device}. What helps: {switch}use fewer frames or smaller ones, load the "
        "model in half precision, or close what else uses the device."
    )
