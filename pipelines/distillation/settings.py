"""The settings of score distillation."""

import math
from dataclasses import dataclass

import torch

OPTIMISERS = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}
ORDERS = ("random", "descending")
GUIDANCE = ("usual", "source as negative")
DRAWS = ("one", "weighted", "best against worst")


@dataclass(frozen=True)
class Settings:
    """The settings of a run: its steps, levels, guidance and random draws.

    The defaults are DreamMotion's (Jeong et al., 2024, Sec. 4 and App. B): 200 steps of plain
    gradient descent, with levels between 5 and 95 % of the model's clock. Deviation: its Eq. 6 with
    w = 9 would be a cfg of 1 + w = 10; code of its first author for another paper uses a cfg of 9.
    """

    steps: int = 200
    step_size: float = 0.4
    cfg: float = 9.0
    seed: int = 0
    t_min: float = 0.05  # share of the model's clock
    t_max: float = 0.95
    optimiser: str = "sgd"
    order: str = "random"  # see `draws.level_and_step`
    source_cfg: float | None = None  # guidance of the source's prediction; None: as `cfg`
    # "source as negative" (FlowAlign, 2505.23145): the source's prediction has no guidance, and the
    # source prompt replaces the negative prompt in the guidance of the edit.
    guidance: str = "usual"
    noise_memory: float = 0.0  # see `draws.drawn_noise`
    draws: str = "one"  # see `draws.shares_of_draws`
    draw_count: int = 4  # draws of a step that has several
    draw_steps: int = 0  # how many of the first steps have several draws; 0: all
    stop_after: int = 0  # stop after this many steps; 0: after all

    def __post_init__(self) -> None:
        for name in ("steps", "draw_steps", "stop_after"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 0 or more.")
        for name in ("step_size", "cfg", "source_cfg"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} is {value}; it must be a number of 0 or more.")
        if not 0 <= self.t_min <= self.t_max <= 1:
            raise ValueError(
                f"Levels are drawn from {self.t_min} to {self.t_max} of the schedule; the first "
                "must not exceed the second, and both must lie within 0..1."
            )
        if self.order == "descending" and self.t_min == self.t_max:
            raise ValueError(
                f"In descending order a step goes as far as the noise falls, and from t_max "
                f"{self.t_max} to t_min {self.t_min} it does not. Set t_min lower."
            )
        if not 0 <= self.noise_memory <= 1:
            raise ValueError(f"noise_memory is {self.noise_memory}; it must lie within 0..1.")
        if self.draw_count < 2:
            raise ValueError(f"draw_count is {self.draw_count}; several draws are 2 or more.")
        for name, known in (
            ("optimiser", OPTIMISERS), ("order", ORDERS), ("guidance", GUIDANCE), ("draws", DRAWS),
        ):  # fmt: skip
            if getattr(self, name) not in known:
                choices = " or ".join(known)
                raise ValueError(f"{name} is {getattr(self, name)!r}; choose {choices}.")

    @property
    def cfg_of_source(self) -> float:
        """The guidance of the source's prediction."""
        if self.guidance == "source as negative":
            return 1.0
        return self.cfg if self.source_cfg is None else self.source_cfg

    def draws_at(self, step: int) -> int:
        """How many draws step number `step` makes."""
        several = self.draws != "one" and (self.draw_steps == 0 or step < self.draw_steps)
        return self.draw_count if several else 1
