"""Noise schedules: how much signal is left at each timestep, and the step between two of them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

Latents: TypeAlias = Float[Tensor, "b c f h w"]

PREDICTION_TYPES = ("epsilon", "v_prediction")
# Settings of a scheduler configuration that shape its betas.
_BETA_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2")


@dataclass(frozen=True, eq=False)
class NoiseSchedule:
    """A variance-preserving diffusion process with T discrete timesteps.

    `alphas_bar[t]` is the share of signal variance left at timestep t (Ho et al., 2020, Eq. 4).
    Two schedules are equal when their tables and prediction types are.
    """

    alphas_bar: Float64[Tensor, " T"]
    prediction_type: str = "epsilon"

    def __post_init__(self) -> None:
        if self.prediction_type not in PREDICTION_TYPES:
            raise ValueError(
                f"The model predicts {self.prediction_type!r}; ReScore can use models that predict "
                f"{' or '.join(map(repr, PREDICTION_TYPES))}."
            )

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "NoiseSchedule":
        """The schedule a model was trained with, from its diffusers `scheduler_config.json`.

        Raises:
            ValueError: for a beta schedule or prediction type that is not known here.
        """
        betas = _betas(config)
        alphas_bar = torch.cumprod(1 - betas, dim=0)
        if config.get("rescale_betas_zero_snr", False):
            alphas_bar = _rescaled_to_zero_snr(alphas_bar)
        return cls(alphas_bar, config.get("prediction_type", "epsilon"))

    def __len__(self) -> int:
        return len(self.alphas_bar)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, NoiseSchedule)
            and self.prediction_type == other.prediction_type
            and torch.equal(self.alphas_bar, other.alphas_bar)
        )

    def same_noise(self, other: "NoiseSchedule") -> bool:
        """Whether both leave the same signal at every timestep, whatever is predicted from it."""
        return self.alphas_bar.shape == other.alphas_bar.shape and torch.allclose(
            self.alphas_bar, other.alphas_bar, rtol=1e-6, atol=0
        )

    __hash__ = None  # equality is by value, and tensors have no hash

    def add_noise(
        self,
        z_0: Float[Tensor, " b *shape"],
        noise: Float[Tensor, " b *shape"],
        t: int | Int[Tensor, " b"],
    ) -> Float[Tensor, " b *shape"]:
        """Sample q(z_t | z_0): sqrt(a_t) z_0 + sqrt(1 - a_t) noise (Ho et al., 2020, Eq. 4)."""
        a_t = self._at(t, z_0)
        return a_t.sqrt() * z_0 + (1 - a_t).sqrt() * noise

    def eps_from(
        self,
        prediction: Float[Tensor, " b *shape"],
        z_t: Float[Tensor, " b *shape"],
        t: int | Int[Tensor, " b"],
    ) -> Float[Tensor, " b *shape"]:
        """The predicted noise, whatever the model predicts.

        A v-prediction is v = sqrt(a_t) eps - sqrt(1 - a_t) z_0 (Salimans & Ho, 2022), so that
        eps = sqrt(a_t) v + sqrt(1 - a_t) z_t.
        """
        if self.prediction_type == "epsilon":
            return prediction
        a_t = self._at(t, z_t)
        return a_t.sqrt() * prediction + (1 - a_t).sqrt() * z_t

    def timesteps(self, steps: int) -> list[int]:
        """`steps + 1` timesteps from 0 to T - 1, evenly spaced: one grid for both directions.

        Raises:
            ValueError: unless 1 <= steps < T.
        """
        if not 1 <= steps < len(self):
            raise ValueError(
                f"A grid of {steps} steps does not fit this schedule; "
                f"choose between 1 and {len(self) - 1}."
            )
        return torch.linspace(0, len(self) - 1, steps + 1).round().long().tolist()

    def _at(self, t: int | Tensor, like: Tensor) -> Tensor:
        """a_t in the precision of `like`, shaped to broadcast over everything but the batch."""
        a_t = self.alphas_bar[t] if isinstance(t, int) else self.alphas_bar[t.cpu()]
        a_t = a_t.to(like.device, like.dtype)
        return a_t.view(-1, *[1] * (like.ndim - 1)) if a_t.ndim else a_t


def ddim_step(
    z: Float[Tensor, "*shape"], eps: Float[Tensor, "*shape"], a_from: float, a_to: float
) -> Float[Tensor, "*shape"]:
    """Move latents from noise level `a_from` to `a_to` along the predicted noise.

    Implements Eq. 12 of DDIM (Song et al., 2021) with eta = 0. The levels are values of
    `alphas_bar`; towards more signal it denoises, towards less it inverts.
    """
    z_0 = (z - math.sqrt(1 - a_from) * eps) / math.sqrt(a_from)
    return math.sqrt(a_to) * z_0 + math.sqrt(1 - a_to) * eps


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
    """Shift and scale sqrt(alphas_bar) so that nothing is left at T (Lin et al., 2024, Alg. 1)."""
    root = alphas_bar.sqrt()
    first, last = root[0].clone(), root[-1].clone()
    return ((root - last) * first / (first - last)) ** 2
