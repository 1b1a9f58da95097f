"""The distillation loop: gradient descent on a clip's latents, along the gradients of terms."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ...attention.layers import Control, Site
from ..controls import RunControls
from ..models.denoiser import Cond, Denoiser, Prompts
from ..models.grid import ClipGrid
from ..models.process import Latents, Level, Process, check_latents
from ..windows import (
    Spread,
    Windows,
    blended,
    called_for,
    has_anchor,
    one_by_one,
    spans_of,
)
from .draws import draw_of, drawn_noise, eta_of, level_and_step, shares_of_draws
from .prediction import predict, without_first
from .settings import OPTIMISERS, Settings
from .terms import Draw, Keys, Needs, Term, Weighted, mask_on_grid, shapings, summed

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class State:
    """Everything that a run needs to be continued, exactly as if it had not stopped."""

    z: Latents
    step: int
    random: Tensor  # state of the CPU generator that draws levels and noise
    optimiser: str
    moments: dict[str, Tensor]  # state of the optimiser; empty with sgd
    values: tuple[dict[str, float], ...]  # for each step, the number of each term that acted
    source: Latents  # of the clip that is edited
    begun: int = 0  # if the run was stopped before its end: its first step
    plan: Settings | None = None  # and its settings; None: the run is finished
    noise: Latents | None = None  # of the last step, if the next step uses it


class Progress(NamedTuple):
    """What `on_step` gets: `step` of `steps` are done, and `z` are the latents now."""

    step: int
    steps: int
    z: Latents
    values: dict[str, float]


def distil(
    z_source: Latents,
    terms: Sequence[Weighted],
    denoiser: Denoiser,
    prompts: Prompts,
    settings: Settings,
    *,
    controls: Sequence[Control] = (),
    windows: Windows | None = None,
    spread: Spread = one_by_one,
    mask: Float[Tensor, "n H W"] | None = None,
    grid: ClipGrid | None = None,
    state: State | None = None,
    on_step: Callable[[Progress], None] | None = None,
    source_negative: Cond | None = None,
) -> State:
    """Descend from the source latents: z <- z - step_size * sum_k weight_k g_k.

    A step draws one level and one noise, and adds this noise to the edited and the source latents.
    It makes the predictions that the terms need, in as few model calls as possible, and moves the
    latents along the sum of the terms' gradients. For losses on keys, one vector-Jacobian product
    serves all terms. `controls` let the edit attend to the source, each in its part of the steps.

    A clip longer than one of the `windows` is computed window by window. `spread` may compute the
    windows elsewhere; the result is the same. `mask` (0..1, one for the clip or one per frame, at
    any resolution) limits the edit: it scales the summed gradient, and where it is 0 the result
    equals `z_source` bit for bit. `grid` says how the clip lies on its latents; without one there
    is no padding. `source_negative` is a negative prompt for the source alone.

    With a `state`, `settings.steps` more steps are made. If that run was ended by `stop_after`, the
    rest of its steps is made instead. `on_step` is called after every step and may raise an
    exception to stop the run.

    Raises:
        ValueError: without terms; for values in `z_source` that are not finite; for a `state` of
            another clip, optimiser or unfinished run; if a term does not fit the model; if terms
            have different eta; if layers do not exist; if the model says nothing of a clip at
            `t_max`.
        FloatingPointError: if the gradient of a term is not finite; names the term and the step.
    """
    _check(z_source, terms, settings, state)
    denoiser.check_level(denoiser.process.at(settings.t_max))
    if state is None:
        generator = torch.Generator().manual_seed(settings.seed)
        state = State(z_source, 0, generator.get_state(), settings.optimiser, {}, (), z_source)
    generator = torch.Generator()
    generator.set_state(state.random)
    z = state.z.clone()
    optimiser = OPTIMISERS[settings.optimiser]([z], lr=settings.step_size)
    if state.moments:
        remembered = {"state": {0: _cloned(state.moments)}}
        optimiser.load_state_dict({**optimiser.state_dict(), **remembered})
    grid = grid or ClipGrid.of(z)
    confined = None if mask is None else mask_on_grid((mask,), z, grid)
    descent = Descent(
        terms, denoiser, prompts, settings, z, controls, windows, grid, spread, source_negative
    )

    begun = state.step if state.plan is None else state.begun
    values, last, noise = list(state.values), begun + settings.steps, state.noise
    stop = min(last, state.step + settings.stop_after) if settings.stop_after else last
    for step in range(state.step, stop):
        level, length = level_and_step(
            step - begun, settings.steps, denoiser.process, settings, generator
        )
        eta = eta_of(terms, (step - begun) / settings.steps)
        found = []
        for _ in range(settings.draws_at(step - begun)):
            fresh = drawn_noise(z, settings.noise_memory, noise, generator)
            draw = draw_of(z, z_source, level, fresh, eta=eta, step=length)
            active = [i for i, entry in enumerate(terms) if entry.active(step, last)]
            found.append((fresh, descent.gradient(draw, z, z_source, active, step, last)))
        noise, (total, numbers, _) = _together(found, z, z_source, level, settings)
        z.grad = total if confined is None else confined * total
        optimiser.param_groups[0]["lr"] = length
        optimiser.step()
        values.append(numbers)
        if on_step is not None:
            on_step(Progress(step + 1, last, z, numbers))

    moments = _cloned({k: v for k, v in optimiser.state[z].items() if v is not None})
    if confined is not None:
        # The run before may have had no mask.
        z = torch.where(confined > 0, z, z_source)
    unfinished = stop < last
    return State(
        z, stop, generator.get_state(), settings.optimiser, moments, tuple(values), z_source,
        begun if unfinished else 0,
        replace(settings, stop_after=0) if unfinished else None,
        noise if settings.noise_memory else None,
    )  # fmt: skip


class Gradient(NamedTuple):
    """The gradient of a step, the number of each term, and where ASSD smooths, 0..1."""

    total: Latents
    numbers: dict[str, float]
    smoothed: Latents | None


class Descent:
    """Computes the gradient of a step. Holds all that is the same in every step of a run."""

    def __init__(
        self,
        terms: Sequence[Weighted],
        denoiser: Denoiser,
        prompts: Prompts,
        settings: Settings,
        z: Latents,
        controls: Sequence[Control] = (),
        windows: Windows | None = None,
        grid: ClipGrid | None = None,
        spread: Spread = one_by_one,
        source_negative: Cond | None = None,
    ) -> None:
        self.source_negative = source_negative
        self.terms, self.denoiser, self.prompts, self.settings = terms, denoiser, prompts, settings
        for entry in terms:
            if hasattr(entry.term, "check"):
                entry.term.check(denoiser)
        grid = grid or ClipGrid.of(z)
        self.shapes = shapings(terms, z, grid)
        self.sites = [_sites(entry.term, denoiser) for entry in terms]
        self.controls = RunControls(controls, denoiser, grid)
        self.frames = z.shape[2]
        self.spans = spans_of(windows, self.frames)
        self.windows = windows
        self.compute = spread(self._window)

    def gradient(
        self,
        draw: Draw,
        z: Latents,
        z_source: Latents,
        active: Sequence[int],
        step: int,
        steps: int,
    ) -> Gradient:
        """The gradient on `z` of the terms with the indices `active`, in step `step` of `steps`.

        A long clip is computed window by window, but for terms that must see all of it. The
        gradients of the windows are blended first, then smoothed and masked. The numbers are means
        over the windows.
        """
        total = torch.zeros_like(z)
        numbers: dict[str, float] = {}
        smoothed: list[Latents] = []
        for spans, those in self._spans_of(active):
            parts: dict[int, list[Latents]] = {}
            calls = (
                (
                    draw.over(called_for(self.windows, span)),
                    z[:, :, span],
                    z_source[:, :, span],
                    those,
                    span,
                    step,
                    steps,
                )
                for span in spans
            )
            for sums, told in self.compute(calls):
                for shape, part in sums.items():
                    parts.setdefault(shape, []).append(part)
                for i, (value, _) in told.items():
                    name = self.terms[i].term.name
                    numbers[name] = numbers.get(name, 0.0) + value / len(spans)
                smoothed += [where.to(z) for _, where in told.values() if where is not None][:1]
            for shape, windows in parts.items():
                total += self.shapes[shape](blended(windows, spans, self.frames))
        where = blended(smoothed, self.spans, self.frames) if smoothed else None
        return Gradient(total, numbers, where)

    def _spans_of(self, active: Sequence[int]) -> list[tuple[list[slice], list[int]]]:
        """The windows of a clip with the terms that see them, and all of it with the others."""
        whole = [i for i in active if getattr(self.terms[i].term, "whole_clip", False)]
        if len(self.spans) == 1 or not whole:
            return [(self.spans, list(active))]
        rest = [i for i in active if i not in whole]
        windows = [(self.spans, rest)] if rest else []
        return [*windows, ([slice(0, self.frames)], whole)]

    def _window(
        self,
        draw: Draw,
        z: Latents,
        z_source: Latents,
        active: Sequence[int],
        span: slice,
        step: int,
        steps: int,
    ) -> tuple[dict[int, Latents], dict[int, tuple[float, Bool[Tensor, "b c f h w"] | None]]]:
        """The terms' gradients for some of the frames: a sum for each shaping, by its index. Also
        the number of each term, and where ASSD smooths.

        The model's graph is local to this call. So it is freed before the next window.
        """
        needs = [self.terms[i].needs for i in active]
        together = Needs(any(n.target for n in needs), any(n.source for n in needs))
        keys = tuple(dict.fromkeys(site for i in active for site in self.sites[i]))
        called = called_for(self.windows, span)
        seen = predict(
            together, draw, self.denoiser, self.prompts, self.settings.cfg,
            keys=keys, controls=self.controls.at(step, steps, called),
            source_cfg=self.settings.cfg_of_source,
            source_as_negative=self.settings.guidance == "source as negative",
            source_negative=self.source_negative,
        )  # fmt: skip
        if has_anchor(called):
            seen, draw = without_first(seen), draw.over(slice(1, None))
        results = {}
        for i, needed in zip(active, needs, strict=True):
            predictions = seen.by(needed, self.sites[i])
            results[i] = self.terms[i].result(draw, predictions, z, z_source)

        def pull_back(on_keys: Keys) -> Latents:
            """The gradient on z: through the model to z_t, times d z_t / d z = s + shift."""
            return (draw.level.signal + draw.shift) * seen.pull_back(on_keys)

        check = partial(_check_finite, step=step, settings=self.settings)
        sums = summed(self.terms, results, self.shapes, pull_back, check)
        told = {i: (result.value, result.smoothed) for i, result in results.items()}
        return {self.shapes.index(shape): part for shape, part in sums.items()}, told


def draw_step(
    z: Latents,
    z_source: Latents,
    process: Process,
    settings: Settings,
    generator: torch.Generator,
) -> Draw:
    """A single random draw, to look at a clip without editing it."""
    level = process.drawn(settings.t_min, settings.t_max, generator)
    return draw_of(z, z_source, level, drawn_noise(z, 0, None, generator))


def _together(
    found: Sequence[tuple[Latents, Gradient]],
    z: Latents,
    z_source: Latents,
    level: Level,
    settings: Settings,
) -> tuple[Latents, Gradient]:
    """The noise and the combined gradient of all draws of a step; the noise is the last one's."""
    if len(found) == 1:
        return found[0]
    ahead = [z - level.noise * gradient.total for _, gradient in found]
    shares = shares_of_draws(settings.draws, ahead, z_source)
    total = sum(share * gradient.total for share, (_, gradient) in zip(shares, found, strict=True))
    names = found[0][1].numbers
    numbers = {name: sum(g.numbers[name] for _, g in found) / len(found) for name in names}
    noise, last = found[-1]
    return noise, Gradient(total, numbers, last.smoothed)


def _cloned(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in tensors.items()}


def _sites(term: Term, denoiser: Denoiser) -> tuple[Site, ...]:
    """The layers whose keys a term compares."""
    if not term.needs.keys:
        return ()
    return denoiser.inside(f"The term {term.name!r}").find(term.needs.keys, "spatial")


def _check(
    z_source: Latents, terms: Sequence[Weighted], settings: Settings, state: State | None
) -> None:
    if not terms:
        raise ValueError("No term is connected; wire at least one, such as Delta Denoising.")
    check_latents(z_source)
    if z_source.shape[2] == 1:
        for part in (part for entry in terms for part in (entry.term, *entry.refinements)):
            if getattr(part, "compares_frames", False):
                logger.warning("%s: the clip has one frame, so this does nothing.", part.name)
    eta_of(terms, 1.0)
    if state is None:
        return
    if state.plan is not None and state.plan != replace(settings, stop_after=0):
        raise ValueError(
            f"The state was stopped after {state.step - state.begun} of {state.plan.steps} steps, "
            "and it goes on with the settings of that run alone. Set them as they were; stop_after "
            "may be another."
        )
    if state.z.shape != z_source.shape:
        raise ValueError(
            f"The state belongs to latents of shape {list(state.z.shape)} and the clip's are "
            f"{list(z_source.shape)}. Resume with the clip the state was made from."
        )
    if not torch.equal(state.source.to(z_source), z_source):
        raise ValueError(
            "The state belongs to another clip of the same size. Wire the latent that its run "
            "began with, not an edited one."
        )
    if state.moments and state.optimiser != settings.optimiser:
        raise ValueError(
            f"The state was made with the optimiser {state.optimiser!r} and cannot be resumed with "
            f"{settings.optimiser!r}. Choose {state.optimiser!r} again."
        )


def _check_finite(gradient: Tensor, name: str, step: int, settings: Settings) -> None:
    if not bool(torch.isfinite(gradient).all()):
        raise FloatingPointError(
            f"The gradient of the term {name!r} is not finite at step {step + 1}. The latents have "
            f"probably left the range the model knows: lower step_size (now {settings.step_size}) "
            f"or cfg (now {settings.cfg}); with a float16 model, try bfloat16 or float32. If it is "
            "the first step with any settings, the model's file is damaged."
        )
