"""The distillation loop: a clip's latents descend along whatever terms hang on the wire."""

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ...attention.fusion import Fusion
from ...attention.sites import Site, find_sites, last_spatial_sites
from ..models.denoiser import EpsTheta, Prompts
from ..models.schedule import Latents, NoiseSchedule
from ..windows import Windows, blended
from .gradients import Shaping, mask_on_grid, shapings, summed
from .prediction import Inside, predict
from .terms import Draw, Keys, Predictions, Term, Weighted

logger = logging.getLogger(__name__)

OPTIMISERS = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}


@dataclass(frozen=True)
class Settings:
    """How far and how fast a clip is edited.

    The defaults are DreamMotion's (Jeong et al., 2024, Sec. 4 and App. B): 200 steps of plain
    gradient descent, timesteps within 5 to 95 % of the schedule.
    """

    steps: int = 200
    step_size: float = 0.4
    cfg: float = 9.0
    seed: int = 0
    t_min: float = 0.05  # share of the schedule
    t_max: float = 0.95
    optimiser: str = "sgd"

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise ValueError(f"steps is {self.steps}; it must be 0 (no change) or more.")
        if not (math.isfinite(self.step_size) and self.step_size > 0):
            raise ValueError(f"step_size is {self.step_size}; it must be a number above 0.")
        if not (math.isfinite(self.cfg) and self.cfg >= 0):
            raise ValueError(f"cfg is {self.cfg}; it must be a number of 0 or more.")
        if not 0 <= self.t_min <= self.t_max <= 1:
            raise ValueError(
                f"Timesteps are drawn from {self.t_min} to {self.t_max} of the schedule; the first "
                "must not exceed the second, and both must lie within 0..1."
            )
        if self.optimiser not in OPTIMISERS:
            raise ValueError(f"optimiser is {self.optimiser!r}; choose {' or '.join(OPTIMISERS)}.")


@dataclass(frozen=True)
class State:
    """Everything a run needs to go on later exactly as if it had not stopped."""

    z: Latents
    step: int
    random: Tensor  # state of the CPU generator that draws timesteps and noise
    optimiser: str
    moments: dict[str, Tensor]  # what the optimiser remembers; nothing with sgd
    values: tuple[dict[str, float], ...]  # per step: the number of each term that took part
    source: Latents  # of the clip that is edited


class Progress(NamedTuple):
    """What `on_step` is shown: `step` of `steps` are done, and `z` is where they have led."""

    step: int
    steps: int
    z: Latents
    values: dict[str, float]


def distil(
    z_source: Latents,
    terms: Sequence[Weighted],
    eps_theta: EpsTheta,
    prompts: Prompts,
    schedule: NoiseSchedule,
    settings: Settings,
    *,
    unet: nn.Module | None = None,
    fusion: Fusion | None = None,
    windows: Windows | None = None,
    mask: Float[Tensor, "n H W"] | None = None,
    shown: tuple[float, float] = (1.0, 1.0),
    state: State | None = None,
    on_step: Callable[[Progress], None] | None = None,
) -> State:
    """Descend from the source latents: z <- z - step_size * sum_k weight_k g_k.

    Every step draws one timestep and one noise, noises the edited and the source latents with them,
    predicts what the terms ask for in the fewest calls, and steps along the sum of their gradients.
    Losses of keys are taken back to the latents together, through one graph. `unet` is the model
    within `eps_theta`; it is looked into where a term reads keys, and changed, during each call,
    where attention is fused. With `windows`, clips longer than one are seen window by window.
    `mask` (0..1, one for the clip or one per frame, at any resolution) confines the edit: it scales
    the summed gradient, and where it is 0 the result equals `z_source` bit for bit. `shown` is the
    share of the latent grid, vertical and horizontal, that masks cover (see `latent_mask`).
    With `state`, `settings.steps` more steps follow those it has made. `on_step` is called after
    every step and may raise to stop the run.

    Raises:
        ValueError: without terms, with values in `z_source` that are not finite, with a `state` of
            another clip or optimiser, or if layers that are asked for do not exist.
        FloatingPointError: at the first term whose gradient is not finite, by name and step.
    """
    _check(z_source, terms, settings, state)
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
    confined = None if mask is None else mask_on_grid((mask,), z, shown)
    descent = Descent(
        terms, eps_theta, prompts, schedule, settings, z, unet, fusion, windows, shown
    )

    values, last = list(state.values), state.step + settings.steps
    for step in range(state.step, last):
        active = [i for i, entry in enumerate(terms) if entry.active(step, last)]
        draw = draw_step(z, z_source, schedule, settings, generator)
        total, numbers = descent.gradient(draw, z, z_source, active, step)
        z.grad = total if confined is None else confined * total
        optimiser.step()
        values.append(numbers)
        if on_step is not None:
            on_step(Progress(step + 1, last, z, numbers))

    moments = _cloned({k: v for k, v in optimiser.state[z].items() if v is not None})
    if confined is not None:
        # A resumed state may have been edited without this mask.
        z = torch.where(confined > 0, z, z_source)
    return State(
        z, last, generator.get_state(), settings.optimiser, moments, tuple(values), z_source
    )


class Descent:
    """The direction of a step: everything about a run that does not change from step to step."""

    def __init__(
        self,
        terms: Sequence[Weighted],
        eps_theta: EpsTheta,
        prompts: Prompts,
        schedule: NoiseSchedule,
        settings: Settings,
        z: Latents,
        unet: nn.Module | None = None,
        fusion: Fusion | None = None,
        windows: Windows | None = None,
        shown: tuple[float, float] = (1.0, 1.0),
    ) -> None:
        self.terms, self.eps_theta, self.prompts = terms, eps_theta, prompts
        self.schedule, self.settings, self.unet = schedule, settings, unet
        self.shapes = shapings(terms, z, shown)
        self.sites = [_sites(entry.term, unet) for entry in terms]
        self.fused, self.fusion_weight = _fused(unet, fusion)
        self.frames = z.shape[2]
        self.spans = [slice(0, self.frames)] if windows is None else windows.over(self.frames)

    def gradient(
        self, draw: Draw, z: Latents, z_source: Latents, active: Sequence[int], step: int
    ) -> tuple[Latents, dict[str, float]]:
        """The gradient on `z` of the terms with the numbers `active`, and each term's number.

        A long clip is seen window by window; what the terms give back is blended before it is
        smoothed and masked, and the numbers are means over the windows.
        """
        parts: dict[Shaping, list[Latents]] = {}
        numbers: dict[str, float] = {}
        for span in self.spans:
            seen = Draw(draw.t, *(part[:, :, span] for part in draw[1:]))
            sums, values = self._window(seen, z[:, :, span], z_source[:, :, span], active, step)
            for shape, part in sums.items():
                parts.setdefault(shape, []).append(part)
            for name, value in values.items():
                numbers[name] = numbers.get(name, 0.0) + value / len(self.spans)
        total = torch.zeros_like(z)
        for shape, windows in parts.items():
            total += shape(blended(windows, self.spans, self.frames))
        return total, numbers

    def _window(
        self, draw: Draw, z: Latents, z_source: Latents, active: Sequence[int], step: int
    ) -> tuple[dict[Shaping, Latents], dict[str, float]]:
        needs = frozenset().union(*(self.terms[i].term.needs for i in active))
        keys = dict.fromkeys(site for i in active for site in self.sites[i])
        inside = None
        if keys or self.fused:
            inside = Inside(self.unet, tuple(keys), self.fused, self.fusion_weight)
        # Its graph goes with it: the next window's would come on top.
        predictions = predict(needs, draw, self.eps_theta, self.prompts, self.settings.cfg, inside)
        results = {i: self.terms[i].term(draw, predictions, z, z_source) for i in active}
        sums = summed(
            self.terms,
            results,
            self.shapes,
            partial(_pull_back, predictions, self.schedule, draw.t),
            partial(_check_finite, step=step, settings=self.settings),
        )
        return sums, {self.terms[i].term.name: result.value for i, result in results.items()}


def draw_step(
    z: Latents,
    z_source: Latents,
    schedule: NoiseSchedule,
    settings: Settings,
    generator: torch.Generator,
) -> Draw:
    """The timestep and the noise of a step, drawn on the CPU: a seed means the same anywhere."""
    lowest, highest = (
        round(share * (len(schedule) - 1)) for share in (settings.t_min, settings.t_max)
    )
    t = int(torch.randint(lowest, highest + 1, (), generator=generator))
    noise = torch.randn(z.shape, generator=generator, dtype=z.dtype).to(z.device)
    return Draw(t, noise, schedule.add_noise(z, noise, t), schedule.add_noise(z_source, noise, t))


def _pull_back(predictions: Predictions, schedule: NoiseSchedule, t: int, on_keys: Keys) -> Latents:
    """The gradient on z of one on keys: through the model to z_t, and d z_t / d z = sqrt(a_t)."""
    return math.sqrt(schedule.alphas_bar[t]) * predictions.pull_back(on_keys)


def _cloned(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in tensors.items()}


def _sites(term: Term, unet: nn.Module | None) -> tuple[Site, ...]:
    """The layers whose keys a term reads."""
    if term.needs.isdisjoint({"keys_target", "keys_source"}):
        return ()
    return find_sites(_known(unet, f"The term {term.name!r}"), term.sites, "spatial")


def _fused(unet: nn.Module | None, fusion: Fusion | None) -> tuple[tuple[Site, ...], float | int]:
    """The layers in which attention is fused, and the weight of fusion."""
    if fusion is None:
        return (), 1.0
    return last_spatial_sites(_known(unet, "Attention fusion"), fusion.layers), fusion.weight


def _known(unet: nn.Module | None, what: str) -> nn.Module:
    if unet is None:
        raise ValueError(f"{what} looks into the model, but was given only its predictions.")
    return unet


def _check(
    z_source: Latents, terms: Sequence[Weighted], settings: Settings, state: State | None
) -> None:
    if not terms:
        raise ValueError("No term is connected; wire at least one, such as Delta Denoising.")
    if not bool(torch.isfinite(z_source).all()):
        raise ValueError(
            "The source latents hold NaN or infinite values. Check the clip that was encoded; a "
            "VAE that overflows in float16 must run in float32."
        )
    if z_source.shape[2] == 1:
        for part in (part for entry in terms for part in (entry.term, *entry.refinements)):
            if getattr(part, "compares_frames", False):
                logger.warning("%s: the clip has one frame, so this does nothing.", part.name)
    if state is None:
        return
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
            f"or cfg (now {settings.cfg}); with a float16 model, try bfloat16 or float32."
        )
