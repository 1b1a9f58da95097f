"""What a loop holds of a model: its levels, its predictions, and the layers in it."""

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
# What is said of clips at a level, under their prompts: (z, level, cond), as a `Denoiser` does.
Predict: TypeAlias = Callable[[Latents, Level, Cond], Prediction]
Ask: TypeAlias = Callable[[Latents, Level], Prediction]  # the same under one prompt


class Prompts(NamedTuple):
    """Text embeddings of an edit, each `[1, l, d]`."""

    source: Float[Tensor, "1 l d"]
    target: Float[Tensor, "1 l d"]
    negative: Float[Tensor, "1 l d"]


# A clip of a step's batch: whose, and whether under its prompt.
Row: TypeAlias = tuple[str, str]
# Sources first: the edit reads them, also where a model short of memory takes the batch in slices.
ROWS: tuple[Row, ...] = (
    ("source", "uncond"),
    ("source", "cond"),
    ("target", "uncond"),
    ("target", "cond"),
)


def numbers_of(row: Row, clips: int = 1) -> range:
    """The numbers by which attention knows the clips of a row."""
    first = ROWS.index(row) * clips
    return range(first, first + clips)


class LatentSpace(NamedTuple):
    """What two models must agree on to read the same latents."""

    channels: int
    pixels_per_latent: int
    scaling_factor: float
    shift_factor: float


@dataclass(eq=False)
class Denoiser:
    """A model as a loop sees it, whatever its architecture.

    `output(z, t, cond)` is what the model itself says, float32 on the device of `z`; what that
    means is its `kind`, one of `process.KINDS`.
    """

    name: str  # of its folder or file, for messages
    process: Process
    kind: str
    output: Callable[[Latents, float, Cond], Latents]
    space: LatentSpace | None = None
    layers: Layers | None = None  # None: nothing can be seen or changed inside the model
    rows_per_call: int | None = None  # clips the model gets at once; None: all

    def __call__(
        self,
        z: Latents,
        level: Level,
        cond: Cond,
        *,
        plan: Plan = (),
        rows: Sequence[int] | None = None,
    ) -> Prediction:
        """What the model says about noised clips, float32, on the device of `z`.

        Differentiable in `z` and `cond` where gradients are enabled. `plan` changes the model's
        attention meanwhile, to which the clips are known by the numbers in `rows` (0, 1, ...).

        At most `rows_per_call` clips go through the model at once. Where no gradient is asked for
        and memory runs out, that number is halved for good and the call is repeated.

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

    def guided(
        self, z: Latents, level: Level, cond: Cond, uncond: Cond, cfg: float | int
    ) -> Prediction:
        """The guided prediction; with cfg 1 or 0 it is one of the two, and only that is made."""
        if cfg in (0, 1):
            return self(z, level, cond if cfg == 1 else uncond)
        both = self(torch.cat([z, z]), level, torch.cat([uncond, cond]))
        return guided(*both.parts(len(z)), cfg)

    def inside(self, what: str) -> Layers:
        """The model's layers, for something that looks into the model.

        Raises:
            ValueError: naming it, if nothing can look into the model.
        """
        if self.layers is None:
            raise ValueError(
                f"{what} looks into the model, and into {self.name} nothing can look. Use another "
                "model, or leave it out."
            )
        return self.layers

    def checkpointed(self, on: bool = True) -> AbstractContextManager[None]:
        """Within the `with`, gradients take less memory and more time: layers run again for them.

        Nothing changes unless `on`, or in a model into which nothing can look.
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


def pull_back(
    gradients: Sequence[Tensor], outputs: Sequence[Tensor], leaf: Tensor, *, keep: bool = False
) -> Tensor:
    """The gradient on `leaf` of given gradients on what was computed from it; `keep` its graph.

    Where losses average over a clip their gradients are tiny, and would vanish in float16: they go
    through the model enlarged to a size around 1, by a power of two, so that nothing is rounded.
    """
    largest = max((float(gradient.abs().max()) for gradient in gradients), default=0.0)
    if largest == 0:
        return torch.zeros_like(leaf)
    # What is not finite stays so, for the caller to tell.
    scale = 2.0 ** -math.frexp(largest)[1] if math.isfinite(largest) else 1.0
    with torch.inference_mode(False):
        scaled = [
            (scale * gradient).to(output.dtype)
            for gradient, output in zip(gradients, outputs, strict=True)
        ]
        (gradient,) = torch.autograd.grad(outputs, leaf, scaled, retain_graph=keep)
    return gradient / scale
