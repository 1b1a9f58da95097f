"""Noise levels: how much signal and noise they hold, what a model predicts there, and steps.

With z_t = s z_0 + n eps, every parametrisation of a diffusion model is a line through the same two
unknowns, and every deterministic step is one line back:

    epsilon     output = eps               (Ho et al., 2020)
    v           output = s eps - n z_0     (Salimans & Ho, 2022), where s^2 + n^2 = 1
    flow        output = eps - z_0         (Liu et al., 2023), where s + n = 1
    denoised    output = z_0
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

import torch
from jaxtyping import Float, Float64
from torch import Tensor

Latents: TypeAlias = Float[Tensor, "b c f h w"]
Values: TypeAlias = Float[Tensor, "*shape"]

KINDS = ("epsilon", "v", "flow", "denoised")  # what a model's output may be
_BETA_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2")


class Level(NamedTuple):
    """One level of noise: z_t = signal * z_0 + noise * eps. `t` is its number for the model."""

    t: float
    signal: float
    noise: float


class Prediction(NamedTuple):
    """The clean latents and the noise that a model predicts for noised latents."""

    z_0: Values
    eps: Values

    def parts(self, size: int) -> "list[Prediction]":
        """The predictions in parts of `size` clips, in the order of the batch."""
        return [Prediction(*part) for part in zip(*(p.split(size) for p in self), strict=True)]


@runtime_checkable
class Process(Protocol):
    """The noise levels of a model. Its clock runs from the clean clip (0) to pure noise (1)."""

    def at(self, share: float | int) -> Level:
        """The level at a share of the clock."""
        ...

    def grid(self, steps: int) -> tuple[Level, ...]:
        """`steps + 1` levels, evenly spread over the clock, from the clip to noise."""
        ...

    def drawn(self, low: float | int, high: float | int, generator: torch.Generator) -> Level:
        """A random level between two shares of the clock, all equally likely."""
        ...


@dataclass(frozen=True, eq=False)
class VariancePreserving:
    """A diffusion process with T discrete timesteps, in which s^2 + n^2 = 1.

    `alphas_bar[t]` is the share of signal variance left at timestep t (Ho et al., 2020, Eq. 4).
    """

    alphas_bar: Float64[Tensor, " T"]

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "VariancePreserving":
        """The process a model was trained with, from its diffusers `scheduler_config.json`.

        Raises:
            ValueError: for a beta schedule that is not known here.
        """
        alphas_bar = torch.cumprod(1 - _betas(config), dim=0)
        if config.get("rescale_betas_zero_snr", False):
            alphas_bar = _rescaled_to_zero_snr(alphas_bar)
        return cls(alphas_bar)

    def __len__(self) -> int:
        return len(self.alphas_bar)

    def __eq__(self, other: object) -> bool:
        """Whether both leave the same signal at every timestep, to rounding."""
        return (
            isinstance(other, VariancePreserving)
            and self.alphas_bar.shape == other.alphas_bar.shape
            and torch.allclose(self.alphas_bar, other.alphas_bar, rtol=1e-6, atol=0)
        )

    __hash__ = None  # equality is by value, and tensors have no hash

    def level(self, t: int) -> Level:
        """The level of a timestep, 0 to T - 1.

        Raises:
            ValueError: for any other timestep.
        """
        if not 0 <= t < len(self):
            raise ValueError(f"There is no timestep {t}; choose between 0 and {len(self) - 1}.")
        a_t = self.alphas_bar[t].item()
        return Level(float(t), math.sqrt(a_t), math.sqrt(1 - a_t))

    def at(self, share: float | int) -> Level:
        """The level of the timestep nearest to a share of the schedule, 0..1."""
        _check_share(share)
        return self.level(round(share * (len(self) - 1)))

    def grid(self, steps: int) -> tuple[Level, ...]:
        """`steps + 1` levels from timestep 0 to T - 1, evenly spaced: one grid for both directions.

        Raises:
            ValueError: unless 1 <= steps < T.
        """
        if not 1 <= steps < len(self):
            raise ValueError(
                f"A grid of {steps} steps does not fit this schedule; "
                f"choose between 1 and {len(self) - 1}."
            )
        times = torch.linspace(0, len(self) - 1, steps + 1).round().long().tolist()
        return tuple(map(self.level, times))

    def drawn(self, low: float | int, high: float | int, generator: torch.Generator) -> Level:
        """The level of a random timestep between two shares of the schedule, both included.

        Deviation: the notebook of DDS (Hertz et al., 2023) never draws the last one: its largest
        timestep is 948, ours 949.
        """
        first, last = (round(share * (len(self) - 1)) for share in (low, high))
        return self.level(int(torch.randint(first, last + 1, (), generator=generator)))


@dataclass(frozen=True)
class Tabled:
    """A process given as a list of levels, from little noise to much, evenly on its clock."""

    levels: tuple[Level, ...]

    def at(self, share: float | int) -> Level:
        """The level of the list nearest to a share of the clock, 0..1."""
        _check_share(share)
        return self.levels[round(share * (len(self.levels) - 1))]

    def grid(self, steps: int) -> tuple[Level, ...]:
        """`steps + 1` levels from the first to the last of the list, evenly spread.

        Raises:
            ValueError: unless 1 <= steps < the number of levels.
        """
        if not 1 <= steps < len(self.levels):
            raise ValueError(
                f"A grid of {steps} steps does not fit the levels of this model; choose between 1 "
                f"and {len(self.levels) - 1}."
            )
        return tuple(self.at(i / steps) for i in range(steps + 1))

    def drawn(self, low: float | int, high: float | int, generator: torch.Generator) -> Level:
        """A random level of the list between two shares of the clock, both included."""
        first, last = (round(share * (len(self.levels) - 1)) for share in (low, high))
        return self.levels[int(torch.randint(first, last + 1, (), generator=generator))]


@dataclass(frozen=True)
class RectifiedFlow:
    """A flow along straight lines, in which s + n = 1 (Liu et al., 2023; Lipman et al., 2023).

    At a share u of the clock, n = shift u / (1 + (shift - 1) u) (Esser et al., 2024, Eq. 23): with
    a larger `shift`, more of the clock lies at high noise. The model takes t = 1000 n.
    """

    shift: float | int = 1.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.shift) and self.shift > 0):
            raise ValueError(f"The shift is {self.shift}; it must be a number above 0.")

    def at(self, share: float | int) -> Level:
        """The level at a share of the shifted clock, 0..1."""
        _check_share(share)
        noise = self.shift * share / (1 + (self.shift - 1) * share)
        return Level(1000 * noise, 1 - noise, noise)

    def grid(self, steps: int) -> tuple[Level, ...]:
        """`steps + 1` levels from the clip to noise, evenly spaced on the shifted clock.

        Raises:
            ValueError: unless 1 <= steps.
        """
        if steps < 1:
            raise ValueError(f"A grid of {steps} steps leads nowhere; it has 1 step or more.")
        return tuple(self.at(i / steps) for i in range(steps + 1))

    def drawn(self, low: float | int, high: float | int, generator: torch.Generator) -> Level:
        """A random level between two shares of the shifted clock."""
        share = torch.rand((), generator=generator, dtype=torch.float64).item()
        return self.at(low + share * (high - low))


def is_flow(process: Process) -> bool:
    """Whether the clip goes to noise along straight lines: s + n = 1, where else s^2 + n^2 = 1."""
    level = process.at(0.5)
    return math.isclose(level.signal + level.noise, 1.0, abs_tol=1e-4)


def check_grid(levels: Sequence[Level]) -> None:
    """Raise ValueError unless levels ascend from less noise to more and are at least two."""
    if len(levels) < 2 or not all(low.noise < high.noise for low, high in pairwise(levels)):
        times = ", ".join(f"{level.t:g}" for level in levels)
        raise ValueError(
            f"The timesteps {times or 'none'} are no grid: at least two are needed, each with more "
            "noise than the one before."
        )


def check_latents(z: Latents) -> None:
    """Raise ValueError if the latents of a clip hold NaN or infinite values."""
    if not bool(torch.isfinite(z).all()):
        raise ValueError(
            "The clip's latents hold NaN or infinite values. Check the clip that was encoded; a "
            "VAE that overflows in float16 must run in float32."
        )


def noised(z_0: Values, eps: Values, level: Level) -> Values:
    """Latents at a level: s z_0 + n eps (Ho et al., 2020, Eq. 4)."""
    return level.signal * z_0 + level.noise * eps


def split(output: Values, z_t: Values, level: Level, kind: str) -> Prediction:
    """The clean latents and the noise that a model's output at `z_t` stands for.

    `kind`, one of KINDS, says what the output is. Only two kinds need a division: epsilon by the
    signal, denoised by the noise.

    Raises:
        ValueError: for another kind, and where the division is by 0: epsilon at a level without
            signal, denoised at a level without noise.
    """
    s, n = level.signal, level.noise
    if kind == "v":
        return Prediction(s * z_t - n * output, n * z_t + s * output)
    if kind == "flow":
        return Prediction(z_t - n * output, z_t + s * output)
    if kind == "epsilon":
        if s == 0:
            raise ValueError(
                "The model predicts noise, which says nothing about the clip where no signal is "
                "left, as at the last timestep of a schedule with zero terminal SNR. Such a "
                "schedule goes with v-prediction: see prediction_type in the model's scheduler "
                "configuration."
            )
        return Prediction((z_t - n * output) / s, output)
    if kind == "denoised":
        if n == 0:
            raise ValueError("The clip itself was to be denoised: there is no noise at this level.")
        return Prediction(output, (z_t - s * output) / n)
    raise ValueError(
        f"The model predicts {kind!r}; ReScore can use models that predict {', '.join(KINDS)}."
    )


def target(z_0: Values, eps: Values, level: Level, kind: str) -> Values:
    """The output that a model of a kind is trained towards at a level: the inverse of `split`.

    Raises:
        ValueError: for a kind that is not in KINDS.
    """
    s, n = level.signal, level.noise
    targets = {
        "epsilon": lambda: eps,
        "v": lambda: s * eps - n * z_0,
        "flow": lambda: eps - z_0,
        "denoised": lambda: z_0,
    }
    if kind not in targets:
        raise ValueError(f"There is no target for {kind!r}; choose {', '.join(KINDS)}.")
    return targets[kind]()


def move(prediction: Prediction, to: Level) -> Values:
    """One deterministic step: the predicted latents at another level, s_to z_0 + n_to eps.

    For a variance-preserving process this is a DDIM step (Song et al., 2021, Eq. 12, eta = 0), for
    a flow an Euler step. To a level with more signal it denoises, to one with less it inverts.
    """
    return noised(*prediction, to)


def _check_share(share: float | int) -> None:
    if not 0 <= share <= 1:
        raise ValueError(f"The share of the clock is {share}; it must lie within 0..1.")


def _betas(config: Mapping[str, Any]) -> Tensor:
    if config.get("trained_betas") is not None:
        return torch.tensor(config["trained_betas"], dtype=torch.float64)
    kind = config.get("beta_schedule", "linear")
    start, end = float(config.get("beta_start", 1e-4)), float(config.get("beta_end", 0.02))
    count = int(config.get("num_train_timesteps", 1000))
    if kind == "linear":
        return torch.linspace(start, end, count, dtype=torch.float64)
    if kind == "scaled_linear":
        return torch.linspace(start**0.5, end**0.5, count, dtype=torch.float64) ** 2
    if kind == "squaredcos_cap_v2":
        # Nichol & Dhariwal (2021), Eq. 17, each beta capped at 0.999.
        u = torch.arange(count + 1, dtype=torch.float64) / count
        level = torch.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2
        return (1 - level[1:] / level[:-1]).clamp(max=0.999)
    raise ValueError(
        f"The model's noise schedule is {kind!r}; ReScore knows {', '.join(_BETA_SCHEDULES)}."
    )


def _rescaled_to_zero_snr(alphas_bar: Tensor) -> Tensor:
    """Shift and scale sqrt(alphas_bar): no signal is left at T (Lin et al., 2024, Alg. 1)."""
    root = alphas_bar.sqrt()
    first, last = root[0].clone(), root[-1].clone()
    return ((root - last) * first / (first - last)) ** 2
