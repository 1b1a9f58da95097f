"""A clip's path from latents to noise, the null-text embeddings along it, and their checks."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from ..models.process import Latents, Level


class Progress(NamedTuple):
    """What `on_step` gets: `step` of `steps` are done, and `z` are the latents now."""

    step: int
    steps: int
    z: Latents


@dataclass(frozen=True, eq=False)
class Trajectory:
    """All latents of a DDIM inversion: `latents[i]` is at `levels[i]`.

    Levels go from clean to noisy, so `latents[0]` is the clip. Denoising along a trajectory uses
    the same levels: the step between levels i and i + 1 calls the model at `levels[i + 1]` in both
    directions.
    """

    latents: Float[Tensor, "levels b c f h w"]
    levels: tuple[Level, ...]
    prompt: str = ""  # the text it was inverted with
    model: str = ""  # fingerprint of the model that made it

    def __post_init__(self) -> None:
        if len(self.latents) != len(self.levels):
            raise ValueError(
                f"A trajectory of {len(self.latents)} latents cannot have {len(self.levels)} "
                "levels; every latent is at one."
            )

    @property
    def steps(self) -> int:
        """The number of steps between the two ends."""
        return len(self.levels) - 1

    def first(self, steps: int) -> "Trajectory":
        """So many of its steps, from the clip on: a way to less noise."""
        return replace(self, latents=self.latents[: steps + 1], levels=self.levels[: steps + 1])

    @cached_property
    def fingerprint(self) -> str:
        """A short name of this trajectory: equal for equal latents, grid, prompt and model."""
        times = tuple(round(level.t) for level in self.levels)
        digest = sha256(repr((times, self.prompt, self.model)).encode())
        digest.update(self.latents.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    def require(self, *, model: str, prompt: str) -> None:
        """Check that this model, by its fingerprint, and this source prompt made the trajectory.

        Raises:
            ValueError: at the first that differs, with both values.
        """
        if model != self.model:
            raise ValueError(
                "The trajectory was made with another model (or the same one in other settings): "
                f"it belongs to {self.model or 'no named model'} and this is {model}. Invert the "
                "clip with the model you edit it with."
            )
        if prompt.strip() != self.prompt.strip():
            raise ValueError(
                f'The trajectory was inverted with the prompt "{self.prompt}" and the source '
                f'prompt is now "{prompt}". Use the same source prompt, or invert again.'
            )

    def psnr(self, level: int, error: float) -> float:
        """A mean squared error at a level as PSNR in dB, relative to the range of its latents."""
        pivot = self.latents[level]
        span = float(pivot.max() - pivot.min())
        return 10 * math.log10(span**2 / error) if error > 0 and span > 0 else math.inf


@dataclass(frozen=True, eq=False)
class NullText:
    """Embeddings with which guided denoising follows a trajectory; also the state of their run.

    Lists are in the order of denoising: entry i is for the step from level T - i to T - i - 1.
    """

    trajectory: str  # fingerprint of the trajectory it belongs to
    cfg: float
    steps: int  # of the whole trajectory
    z: Latents  # the latents after the steps done so far
    embeddings: tuple[Float[Tensor, "_ _ _"], ...] = ()  # [f, l, d], or [1, l, d] for the clip
    guidance: tuple[Latents, ...] = ()  # G of each step; empty where there is none
    strength: float = 0.0  # of the guidance
    losses: tuple[float, ...] = ()  # mean squared error to the pivot after each step
    made_with: str = ""  # fingerprint of the prompts, windows and guidance of the run

    @property
    def done(self) -> int:
        """The number of steps done."""
        return len(self.embeddings)

    @property
    def finished(self) -> bool:
        """Whether all steps are done, down to the clip."""
        return self.done == self.steps

    def at(self, step: int) -> tuple[Float[Tensor, "1 ..."], Latents | None]:
        """The unconditional embedding `[1, f, l, d]` or `[1, l, d]`, and G, of one step."""
        embedding = self.embeddings[step]
        shaped = embedding if len(embedding) == 1 else embedding[None]
        return shaped, self.guidance[step] if self.guidance else None

    def require(self, trajectory: Trajectory, cfg: float | None = None) -> None:
        """Check that this belongs to the trajectory, is finished, and was made for this cfg.

        Raises:
            ValueError: otherwise.
        """
        if self.trajectory != trajectory.fingerprint:
            raise ValueError(
                f"The null-text embeddings were optimised for another trajectory"
                f"{self._difference(trajectory)}. Run Null-Text Optimisation on this one."
            )
        if not self.finished:
            raise ValueError(
                f"The null-text optimisation has done {self.done} of {self.steps} steps. Let it "
                "finish: wire its result to another Null-Text Optimisation."
            )
        if cfg is not None and cfg != self.cfg:
            raise ValueError(
                f"The null-text embeddings were optimised for cfg {self.cfg:g}, and this is "
                f"{cfg:g}. Use the same cfg in both."
            )

    def require_same(
        self, trajectory: Trajectory, cfg: float, per_frame: bool, made_with: str
    ) -> None:
        """Check that an optimisation with these inputs may continue from here.

        Raises:
            ValueError: if trajectory, cfg, kind of embedding, prompts, windows or guidance differ.
        """
        if self.trajectory != trajectory.fingerprint:
            raise ValueError(
                f"The null-text embeddings to go on from belong to another trajectory"
                f"{self._difference(trajectory)}. Start anew, or wire the one they were made for."
            )
        if self.cfg != cfg:
            raise ValueError(
                f"The null-text embeddings to go on from were made for cfg {self.cfg:g}, and this "
                f"is {cfg:g}. Use the same cfg."
            )
        frames = trajectory.latents.shape[3]
        if self.embeddings and len(self.embeddings[-1]) != (frames if per_frame else 1):
            raise ValueError(
                f"The embeddings to go on from are {len(self.embeddings[-1])} for a clip of "
                f"{frames} frames. Choose the same kind of embedding (per frame or shared) as "
                "before."
            )
        if self.embeddings and self.made_with != made_with:
            raise ValueError(
                "The null-text embeddings to go on from were made with another negative prompt, in "
                "other windows or with another decoupled guidance. Wire the same, or start anew."
            )

    def _difference(self, trajectory: Trajectory) -> str:
        """What differs from a trajectory that this was not made for, for a message."""
        if self.steps != trajectory.steps:
            return f", of {self.steps} steps where this one has {trajectory.steps}"
        here = trajectory.latents.shape[1:]
        if self.z.shape != here:
            return f", of {_described(self.z.shape)} where this one has {_described(here)}"
        return ""


def _described(shape: Sequence[int]) -> str:
    b, c, f, h, w = shape
    clips = f"{b} clips of " if b != 1 else ""
    return f"{clips}{f} frames of {w} x {h} latents with {c} channels"
