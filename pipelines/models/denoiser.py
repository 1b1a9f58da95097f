"""The model as a loop sees it: its noise levels, its predictions and its attention layers."""

import logging
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from ...attention.layers import Layers, Plan
from .process import Latents, Level, Prediction, Process, split

logger = logging.getLogger(__name__)

# A text embedding for each clip `[b, l, d]`, or for each frame `[b, f, l, d]`.
Cond: TypeAlias = Float[Tensor, "..."]
# Predicts noised clips: (z, level, cond), as a `Denoiser` does.
Predict: TypeAlias = Callable[[Latents, Level, Cond], Prediction]
Ask: TypeAlias = Callable[[Latents, Level], Prediction]  # the same, with the prompt fixed


class Prompts(NamedTuple):
    """Text embeddings of an edit, each `[1, l, d]`."""

    source: Float[Tensor, "1 l d"]
    target: Float[Tensor, "1 l d"]
    negative: Float[Tensor, "1 l d"]


# A row of a step's batch: the clip ("source" or "target"), and with its prompt ("cond") or without.
Row: TypeAlias = tuple[str, str]
# Sources first: target rows read them, even when little memory forces the batch into slices.
ROWS: tuple[Row, ...] = (
    ("source", "uncond"),
    ("source", "cond"),
    ("target", "uncond"),
    ("target", "cond"),
)


def numbers_of(row: Row, clips: int = 1) -> range:
    """The numbers that name the clips of a row in attention plans."""
    first = ROWS.index(row) * clips
    return range(first, first + clips)


def one_text_a_clip(cond: Cond, z: Latents, name: str) -> None:
    """Raise a ValueError unless there is one text embedding `[l, d]` for each clip of `z`."""
    if cond.ndim == 4:
        raise ValueError(
            f"{name} takes one text embedding for a whole clip, and here is one for each frame. "
            'Choose "one for the clip" in Null-Text Optimisation, or use an AnimateDiff model.'
        )
    if cond.ndim != 3 or len(cond) != len(z):
        raise ValueError(
            f"The text embeddings have shape {list(cond.shape)}, the latents {list(z.shape)}. "
            f"{name} takes one embedding [tokens, width] for each of the {len(z)} clips."
        )


class LatentSpace(NamedTuple):
    """What two models must agree on to read the same latents."""

    channels: int
    pixels_per_latent: int
    scaling_factor: float
    shift_factor: float


@dataclass(eq=False)
class Denoiser:
    """A model as a loop sees it, whatever its architecture.

    `output(z, t, cond)` is the raw output of the model, float32 on the device of `z`. `kind`, one
    of `process.KINDS`, says what this output is.
    """

    name: str  # of its folder or file, for messages
    process: Process
    kind: str
    output: Callable[[Latents, float, Cond], Latents]
    space: LatentSpace | None = None
    layers: Layers | None = None  # None: attention cannot be read or changed
    rows_per_call: int | None = None  # clips in one call of the model; None: all

    def __call__(
        self,
        z: Latents,
        level: Level,
        cond: Cond,
        *,
        plan: Plan = (),
        rows: Sequence[int] | None = None,
    ) -> Prediction:
        """The prediction for noised clips, float32, on the device of `z`.

        Differentiable in `z` and `cond` where gradients are enabled. `plan` changes the attention
        during this call; `rows` are the numbers of the clips in the plan (by default 0, 1, ...).

        At most `rows_per_call` clips go through the model at once. If memory runs out in a call
        without gradients, this number is halved, also for later calls, and the call is repeated.

        Raises:
            ValueError: if the shapes do not fit each other or the model.
            MemoryError: if not even one clip fits.
        """
        count = len(z)
        numbers = tuple(range(count)) if rows is None else tuple(rows)
        with_graph = torch.is_grad_enabled() and (z.requires_grad or cond.requires_grad)
        while True:
            size = min(self.rows_per_call or count, count)
            try:
                output = self._output(z, level, cond, plan, numbers, size)
            except torch.OutOfMemoryError as error:
                if with_graph or size <= 1:
                    raise self._too_large(z, with_graph) from error
            else:
                return split(output, z, level, self.kind)
            # Out here the exception is gone, and with it what the failed call had allocated.
            self.rows_per_call = (size + 1) // 2
            logger.warning(
                "%s: no memory for %d clips at once, now %d", self.name, size, self.rows_per_call
            )

    def grid(self, steps: int) -> tuple[Level, ...]:
        """The levels of so many steps of sampling, after `check_level` of the noisiest.

        Without it, an inversion would only fail in its last step.
        """
        levels = self.process.grid(steps)
        self.check_level(levels[-1])
        return levels

    def check_level(self, level: Level) -> None:
        """Raise ValueError, as `split` does, where the output says nothing of a clip."""
        nothing = torch.zeros(1, 1, 1, 1, 1)
        split(nothing, nothing, level, self.kind)

    def guided(
        self, z: Latents, level: Level, cond: Cond, uncond: Cond, cfg: float | int
    ) -> Prediction:
        """The guided prediction. With cfg 1 or 0 only the one prediction that counts is made."""
        if cfg in (0, 1):
            return self(z, level, cond if cfg == 1 else uncond)
        both = self(torch.cat([z, z]), level, torch.cat([uncond, cond]))
        return guided(*both.parts(len(z)), cfg)

    def inside(self, what: str) -> Layers:
        """The attention layers, for `what` (a term or a control) that reads or changes them.

        Raises:
            ValueError: if this model does not give access to its layers; the message names `what`.
        """
        if self.layers is None:
            raise ValueError(
                f"{what} looks into the model, and into {self.name} nothing can look. Use another "
                "model, or leave it out."
            )
        return self.layers

    def checkpointed(self, on: bool = True) -> AbstractContextManager[None]:
        """Within the `with`, gradients take less memory and more time: layers are run twice.

        Does nothing unless `on`, and nothing in a model without access to its layers.
        """
        return self.layers.checkpointed() if on and self.layers else nullcontext()

    def _output(
        self, z: Latents, level: Level, cond: Cond, plan: Plan, rows: Sequence[int], size: int
    ) -> Latents:
        slices, whole = [], size == len(z)
        for first in range(0, len(z), size):
            part = slice(None) if whole else slice(first, first + size)
            # Without a plan the model is not touched at all.
            changed = self.layers.installed(plan, rows[part]) if plan else nullcontext()
            with changed:
                slices.append(self.output(z[part], level.t, cond[part]))
        return slices[0] if whole else torch.cat(slices)

    def _too_large(self, z: Latents, with_graph: bool) -> MemoryError:
        _, _, frames, h, w = z.shape
        factor = self.space.pixels_per_latent if self.space else 1
        task = " with gradients" if with_graph else ""
        return MemoryError(
            f"{self.name} has no memory for one clip of {frames} frames of {w * factor} x "
            f"{h * factor} pixels{task} on {z.device}. Use fewer or smaller frames, load the model "
            "in half precision, or close other programs there."
        )


# --- guidance -------------------------------------------------------------------------------------


def guide(
    eps_uncond: Float[Tensor, "*shape"], eps_cond: Float[Tensor, "*shape"], cfg: float | int
) -> Float[Tensor, "*shape"]:
    """The guided noise prediction eps_uncond + cfg * (eps_cond - eps_uncond).

    Ho & Salimans (2022) write (1 + w) eps_cond - w eps_uncond; here cfg = 1 + w. With cfg 0 the
    result is eps_uncond, with cfg 1 it is eps_cond, both exactly.
    """
    if cfg == 1:
        return eps_cond
    return eps_uncond + cfg * (eps_cond - eps_uncond)


def guided(without: Prediction, prompted: Prediction, cfg: float | int) -> Prediction:
    """The guided prediction of one without and one with a prompt."""
    return Prediction(*(guide(*pair, cfg) for pair in zip(without, prompted, strict=True)))


# --- gradients ------------------------------------------------------------------------------------

# The largest power of two to scale by is 2^126, which float32 holds; the tiniest gradients stay
# below 1.
_LARGEST_POWER = 126


def pull_back(
    gradients: Sequence[Tensor], outputs: Sequence[Tensor], leaf: Tensor, *, keep: bool = False
) -> Tensor:
    """The vector-Jacobian product: from gradients on `outputs` to the gradient on `leaf`.

    `keep` keeps the graph for another product. A loss that is a mean over a clip has tiny
    gradients, which would become 0 in float16. So they are scaled to about 1 on their way through
    the model, by a power of two, which rounds nothing.
    """
    largest = max((float(gradient.abs().max()) for gradient in gradients), default=0.0)
    if largest == 0:
        return torch.zeros_like(leaf)
    # NaN and infinity stay: the caller checks for them.
    scale = 2.0 ** min(-math.frexp(largest)[1], _LARGEST_POWER) if math.isfinite(largest) else 1.0
    with torch.inference_mode(False):
        scaled = [
            (scale * gradient).to(output.dtype)
            for gradient, output in zip(gradients, outputs, strict=True)
        ]
        (gradient,) = torch.autograd.grad(outputs, leaf, scaled, retain_graph=keep)
    return gradient / scale
