"""The interface of distillation terms, and the sum of their gradients in a step."""

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
from ..windows import Frames

# Keys of attention layers, or gradients on them, by the layer's name: `[b, f, n, c]`, float32.
Keys: TypeAlias = Mapping[str, Tensor]


class Draw(NamedTuple):
    """One level and one noise, used by all terms of a step, and both clips with this noise."""

    level: Level
    noise: Latents
    z_t: Latents  # the edited latents, noised
    z_t_source: Latents  # the source latents with the same noise
    shift: float = 0.0  # of the edit, c: z_t = s z + n eps + c (z - z_source)
    step: float = 1.0  # the step size of the loop along the gradient

    def over(self, span: Frames) -> "Draw":
        """The draw for some of the frames."""
        parts = (part[:, :, span] for part in (self.noise, self.z_t, self.z_t_source))
        return Draw(self.level, *parts, self.shift, self.step)


@dataclass(frozen=True)
class Needs:
    """What a term needs in a step. What no term needs is not computed."""

    target: bool = False  # the guided prediction for the edited clip
    source: bool = False  # the guided prediction for the source clip
    keys: str = ""  # keys of both clips, in these spatial layers (a pattern for `Layers.find`)


class Predictions(NamedTuple):
    """The model's predictions for a step; None for all that the term does not need."""

    # Guided predictions:
    target: Prediction | None = None  # for `z_t` under the target prompt
    source: Prediction | None = None  # for `z_t_source` under the source prompt
    # Keys of spatial self-attention, each clip with its prompt:
    keys_target: Keys | None = None
    keys_source: Keys | None = None


class Result(NamedTuple):
    """A term's gradient on the edited latents, and the number to plot for it.

    A loss on keys gives its gradient on `keys_target` instead, as `on_keys`: the loop then computes
    one vector-Jacobian product through the model for all terms. `smoothed` is only for display: it
    is true where the term used a smoothed reference.
    """

    gradient: Latents | None
    value: float
    on_keys: Keys = MappingProxyType({})
    smoothed: Bool[Tensor, "b c f h w"] | None = None


@runtime_checkable
class Term(Protocol):
    """A gradient that changes the latents. It gets what it needs, and nothing else.

    Some terms have more: the attribute `compares_frames`, true if the term does nothing on a single
    frame; the attribute `holds`, true if it keeps a clip as it is and leads nowhere; the attribute
    `whole_clip`, true if it asks no model and must see all frames of a clip that the model sees in
    windows; a method `check(denoiser)`, which raises a ValueError for models that it does not work
    with; a method `eta_at(share of the steps)` that gives its eta, 0 to 1, if the noised edit is to
    be shifted. All terms of a run must have the same eta.
    """

    name: str
    needs: Needs

    def __call__(
        self, draw: Draw, predictions: Predictions, z: Latents, z_source: Latents
    ) -> Result:
        """The gradient at the edited latents `z`; `z_source` are the latents of the source."""
        ...


@runtime_checkable
class Refinement(Protocol):
    """A change of a term's gradient, such as smoothing over time.

    One that does nothing on a single frame has a `name` and `compares_frames`, as terms do.
    """

    def on_grid(self, z: Latents, grid: ClipGrid) -> Callable[[Latents], Latents]:
        """The function to apply to gradients on latents of the shape of `z`."""
        ...


@runtime_checkable
class Correction(Protocol):
    """Something done to one term's gradient on the latents, with what the model says."""

    needs: Needs

    def __call__(self, gradient: Latents, predictions: Predictions) -> Latents:
        """The gradient in place of `gradient`."""
        ...


@dataclass(frozen=True)
class Weighted:
    """A term with its weight, its masks, and the part of the run in which it acts."""

    term: Term
    weight: float = 1.0
    # Each in 0..1, one for the clip or one per frame, at any resolution; they are multiplied.
    masks: tuple[Float[Tensor, "_ _ _"], ...] = ()
    refinements: tuple[Refinement, ...] = ()  # applied one after another, before the masks
    start: float = 0.0  # the share of the steps after which the term begins to act
    end: float = 1.0  # and after which it stops
    corrections: tuple[Correction, ...] = ()  # of its own gradient, before it joins the others

    def __post_init__(self) -> None:
        if not 0 <= self.start <= self.end <= 1:
            raise ValueError(
                f"The term {self.term.name!r} runs from {self.start:.0%} to {self.end:.0%} of the "
                "steps; start must not lie after end, and both between 0 % and 100 %."
            )

    def active(self, step: int, steps: int) -> bool:
        """Whether the term takes part in step number `step` of `steps`."""
        return self.weight != 0 and acts(self.start, self.end, step, steps)

    @property
    def needs(self) -> Needs:
        """What the term and its corrections read of a step."""
        needs = self.term.needs
        if needs.keys:  # there is no gradient on the latents to correct
            return needs
        asked = [needs, *(correction.needs for correction in self.corrections)]
        return Needs(any(each.target for each in asked), any(each.source for each in asked))

    def result(self, draw: Draw, predictions: Predictions, z: Latents, z_source: Latents) -> Result:
        """What the term gives back, corrected; a gradient on keys stays as it is."""
        result = self.term(draw, predictions, z, z_source)
        gradient = result.gradient
        if gradient is None:
            return result
        for correct in self.corrections:
            gradient = correct(gradient, predictions)
        return result._replace(gradient=gradient)


# --- losses on keys -------------------------------------------------------------------------------


def loss_on_keys(
    predictions: Predictions, loss: Callable[[Tensor, Tensor], Tensor], z: Latents
) -> Result:
    """A loss that compares the keys of target and source, and its gradient on the target's keys.

    `loss` takes the keys of one clip at one layer, `[f, n, c]`, of the source and of the target. It
    is averaged over the layers. Each clip of a batch has its own loss; the number is their mean.

    Deviation: the gradient is multiplied by the number of latent pixels (frames x height x width)
    of the edited latents `z`. A loss that is a mean over a clip moves each latent pixel less, the
    larger the clip is; delta denoising does not. With this factor, a weight means the same beside
    delta denoising at every size and length.
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
    """A loss on attention keys as a term. Its number is the loss.

    The keys are those of the noised clips with their prompts; those of the source are constant. The
    gradient on the latents goes back through the model, and through d z_t / d z = s.
    """

    sites: str = "decoder"
    name: ClassVar[str]
    holds: ClassVar[bool] = True
    loss: ClassVar[Callable[[Tensor, Tensor], Tensor]]  # as `loss_on_keys` takes it

    @property
    def needs(self) -> Needs:
        """The keys of the layers that `sites` names."""
        return Needs(keys=self.sites)

    def __call__(
        self, draw: Draw, predictions: Predictions, z: Latents, z_source: Latents
    ) -> Result:
        return loss_on_keys(predictions, self.loss, z)


# --- from the gradients of all terms to the gradient of the step ----------------------------------

Shaping: TypeAlias = Callable[[Latents], Latents]


def shapings(terms: Sequence[Weighted], z: Latents, grid: ClipGrid) -> tuple[Shaping, ...]:
    """For each term, the function that applies its refinements and masks to its gradient.

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
    """The product of masks, each on the grid of the latents; 1 without masks."""
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

    `pull_back` is the vector-Jacobian product from keys to latents. It is linear, so gradients with
    the same shaping are added first and go through it once. `check` gets every gradient with the
    names of its terms, and may raise an exception.
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
