"""What a distillation term is, and how the gradients of a step's terms become one."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar, NamedTuple, Protocol, TypeAlias, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..models.grid import ClipGrid
from ..models.process import Latents, Level, Prediction
from ..steps import acts

# By the name of an attention layer, something of its keys: `[b, f, n, c]`, float32.
Keys: TypeAlias = Mapping[str, Tensor]


class Draw(NamedTuple):
    """One level and one noise, shared by all terms of a step, and the clips noised with them."""

    level: Level
    noise: Latents
    z_t: Latents  # the edited latents, noised
    z_t_source: Latents  # the source latents, noised alike
    shift: float = 0.0  # of the edit, c: z_t = s z + n eps + c (z - z_source)
    step: float = 1.0  # how far the loop goes along the gradient

    def over(self, span: slice) -> "Draw":
        """The same for some of the frames."""
        parts = (part[:, :, span] for part in (self.noise, self.z_t, self.z_t_source))
        return Draw(self.level, *parts, self.shift, self.step)


@dataclass(frozen=True)
class Needs:
    """What a term reads of a step. What no term reads is not computed."""

    target: bool = False  # the guided prediction for the edited clip
    source: bool = False  # and for the source clip
    keys: str = ""  # whose keys of both it compares: spatial layers, as `Layers.find` takes them


class Predictions(NamedTuple):
    """What the model says about a step; None where a term did not ask for it."""

    # Guided predictions,
    target: Prediction | None = None  # for `z_t` under the target prompt
    source: Prediction | None = None  # for `z_t_source` under the source prompt
    # and the keys of spatial self-attention in the prompted half of each.
    keys_target: Keys | None = None
    keys_source: Keys | None = None


class Result(NamedTuple):
    """A term's gradient on the edited latents, and the number to plot for it.

    The gradient of a loss on keys is one on `keys_target` instead: the loop computes a single
    vector-Jacobian product through the model for all terms. `smoothed` is for display: where a term
    smoothed its reference.
    """

    gradient: Latents | None
    value: float
    on_keys: Keys = MappingProxyType({})
    smoothed: Bool[Tensor, "b c f h w"] | None = None


@runtime_checkable
class Term(Protocol):
    """One reason to change the latents. It is shown what it needs, and nothing else.

    A term that does nothing on a single frame has an attribute `compares_frames`, which is true.
    One that does not work with every model has a method `check(denoiser)`, which raises a
    ValueError. One that wants the noised edit shifted has a method `eta_at(share of the steps)`,
    from 0 to 1, on which all terms of a run must agree.
    """

    name: str
    needs: Needs

    def __call__(
        self, draw: Draw, predictions: Predictions, z: Latents, z_source: Latents
    ) -> Result:
        """The gradient at the edited latents `z`; `z_source` are those of the source clip."""
        ...


@runtime_checkable
class Refinement(Protocol):
    """Something done to gradients before they move the latents, such as smoothing in time.

    One that does nothing on a single frame has a `name` and `compares_frames`, as a term.
    """

    def on_grid(self, z: Latents, grid: ClipGrid) -> Callable[[Latents], Latents]:
        """The function that is applied to gradients on latents like `z`."""
        ...


@dataclass(frozen=True)
class Weighted:
    """A term as it hangs on the wire: how much it counts, where, and during which part of a run."""

    term: Term
    weight: float = 1.0
    # Each 0..1, one for the clip or one per frame, at any resolution; they are multiplied.
    masks: tuple[Float[Tensor, "_ _ _"], ...] = ()
    refinements: tuple[Refinement, ...] = ()  # one after the other, before the masks
    start: float = 0.0  # share of the steps after which the term sets in
    end: float = 1.0  # and after which it ends

    def __post_init__(self) -> None:
        if not 0 <= self.start <= self.end <= 1:
            raise ValueError(
                f"The term {self.term.name!r} runs from {self.start:.0%} to {self.end:.0%} of the "
                "steps; start must not lie after end, and both between 0 % and 100 %."
            )

    def active(self, step: int, steps: int) -> bool:
        """Whether the term takes part in step number `step` of `steps`."""
        return self.weight != 0 and acts(self.start, self.end, step, steps)


# --- losses on keys -------------------------------------------------------------------------------


def loss_on_keys(
    predictions: Predictions, loss: Callable[[Tensor, Tensor], Tensor], z: Latents
) -> Result:
    """A loss of the target's keys beside the source's, and its gradient on the target's.

    `loss` takes the keys of one clip at one layer, `[f, n, c]`, of the source and of the target. It
    is averaged over the layers. Clips of a batch do not know each other; the number is their mean.

    Deviation: the gradient is that of the loss times the number of latent pixels (frames x height x
    width) of the edited latents `z`. What averages over a clip moves each of its latents the less,
    the larger the clip is; what delta denoising does to a latent does not. So a weight weighs the
    two alike at every size and length.
    """
    on_keys, total, count = {}, 0.0, len(predictions.keys_target)
    scale = math.prod(z.shape[2:]) / count
    for name, keys in predictions.keys_target.items():
        with torch.inference_mode(False), torch.enable_grad():
            source = predictions.keys_source[name].clone()
            target = keys.clone().requires_grad_()
            losses = torch.stack([loss(*pair) for pair in zip(source, target, strict=True)])
            (gradient,) = torch.autograd.grad(scale * losses.sum(), target)
        on_keys[name] = gradient
        total += float(losses.detach().mean()) / count
    return Result(None, total, on_keys)


@dataclass(frozen=True)
class TermOfKeys:
    """A loss of attention keys as a term. Its number is the loss.

    The keys are those of the noised clips under their prompts, the source's being constant. The
    gradient on the latents goes through the model and the noising, d z_t / d z = s.
    """

    sites: str = "decoder"
    name: ClassVar[str]
    loss: ClassVar[Callable[[Tensor, Tensor], Tensor]]  # as `loss_on_keys` takes it

    @property
    def needs(self) -> Needs:
        """The keys of the layers that `sites` names."""
        return Needs(keys=self.sites)

    def __call__(
        self, draw: Draw, predictions: Predictions, z: Latents, z_source: Latents
    ) -> Result:
        return loss_on_keys(predictions, self.loss, z)


# --- from the gradients of a step's terms to the one that moves the latents -----------------------

Shaping: TypeAlias = Callable[[Latents], Latents]


def shapings(terms: Sequence[Weighted], z: Latents, grid: ClipGrid) -> tuple[Shaping, ...]:
    """What the refinements and masks of each term do to its gradient on latents like `z`.

    Terms with the same refinements and masks share one function.

    Raises:
        ValueError: if a mask or a refinement does not fit the clip.
    """
    made: dict[tuple[int, ...], Shaping] = {}
    keys = [tuple(map(id, (*entry.refinements, *entry.masks))) for entry in terms]
    for key, entry in zip(keys, terms, strict=True):
        if key not in made:
            made[key] = _shaping(entry, z, grid)
    return tuple(made[key] for key in keys)


def _shaping(entry: Weighted, z: Latents, grid: ClipGrid) -> Shaping:
    refine = [refinement.on_grid(z, grid) for refinement in entry.refinements]
    mask = mask_on_grid(entry.masks, z, grid)

    def shape(gradient: Latents) -> Latents:
        for step in refine:
            gradient = step(gradient)
        return mask * gradient

    return shape


def mask_on_grid(masks: Sequence[Tensor], z: Latents, grid: ClipGrid) -> Tensor:
    """The product of masks on the grid of the latents; 1 without any."""
    product = torch.ones((), dtype=z.dtype, device=z.device)
    for mask in masks:
        product = product * grid.covered(mask).to(z)
    return product


def summed(
    terms: Sequence[Weighted],
    results: Mapping[int, Result],
    shapes: Sequence[Shaping],
    pull_back: Callable[[Keys], Latents],
    check: Callable[[Tensor, str], None],
) -> dict[Shaping, Latents]:
    """The weighted sums of the terms' gradients on the latents, one sum for each shaping.

    `pull_back` is the vector-Jacobian product from keys to latents. It is linear, so gradients of
    the same shaping go through it together. `check` gets every gradient with the names of its
    terms, and may raise.
    """
    sums: dict[Shaping, Latents] = {}
    on_keys: dict[Shaping, dict[str, Tensor]] = {}
    names: dict[Shaping, list[str]] = {}
    for i, result in results.items():
        entry, shape = terms[i], shapes[i]
        if result.gradient is not None:
            check(result.gradient, entry.term.name)
            sums[shape] = sums.get(shape, 0) + entry.weight * result.gradient
        for name, gradient in result.on_keys.items():
            check(gradient, entry.term.name)
            keys = on_keys.setdefault(shape, {})
            keys[name] = keys.get(name, 0) + entry.weight * gradient
        if result.on_keys:
            names.setdefault(shape, []).append(entry.term.name)
    for shape, keys in on_keys.items():
        gradient = pull_back(keys)
        check(gradient, " + ".join(names[shape]))
        sums[shape] = sums.get(shape, 0) + gradient
    return sums
