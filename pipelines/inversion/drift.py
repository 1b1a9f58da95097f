"""The guidance G of a step: the gradient of the drift between a denoised clip and its pivot."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ...attention.layers import Site
from ...attention.observation import Observation, observe
from ..models.denoiser import Denoiser, pull_back
from ..models.grid import ClipGrid
from ..models.process import Latents, Level, Prediction
from ..windows import Windows, blended, blended_predictions, spans_of, windowed
from .decoupled_guidance import GuidanceSettings, block_weight, guidance_loss


@dataclass(frozen=True, eq=False)
class DriftGuidance:
    """The settings of decoupled guidance, and where the foreground is."""

    settings: GuidanceSettings
    mask: Float[Tensor, "n H W"] | None = None  # of the foreground; None: all is background
    grid: ClipGrid | None = None  # how the clip lies on its latents; None: without padding


class Drift:
    """Spatial-temporal decoupled guidance along a trajectory (VideoDirector, Sec. 3.2).

    Called with the latents of a step, their pivot and their level, it returns the prediction under
    the source prompt `cond` and the guidance G. This takes two runs of the model: one for the
    pivot, which ends at the last layer compared; and one for the latents, with a graph, which also
    gives the prediction. Clips longer than the model takes go through it in `windows`, with one
    graph at a time.

    Raises, when called:
        ValueError: if the mask does not fit the clip.
        FloatingPointError: if G is not finite.
        MemoryError: if there is no room for the gradient; the message says what helps.
    """

    def __init__(
        self,
        guidance: DriftGuidance,
        cond: Float[Tensor, "1 l d"],
        denoiser: Denoiser,
        windows: Windows | None = None,
    ) -> None:
        self.guidance, self.settings, self.cond = guidance, guidance.settings, cond
        self.denoiser, self.windows = denoiser, windows
        self.temporal = self._sites("temporal") if self.settings.temporal else ()
        self.spatial = self._sites("spatial") if self.settings.keys else ()
        self._foreground: dict[int, Tensor] = {}

    def __call__(self, z: Latents, pivot: Latents, level: Level) -> tuple[Prediction, Latents]:
        if torch.equal(z, pivot):  # no drift yet, as in the first step
            with torch.no_grad():
                said = windowed(self.denoiser, self.windows)(z, level, self.cond)
            return said, torch.zeros_like(z)
        frames = z.shape[2]
        spans = spans_of(self.windows, frames)
        try:
            parts = [self._window(z[:, :, s], pivot[:, :, s], level, s, frames) for s in spans]
        except (MemoryError, torch.OutOfMemoryError) as failed:
            raise MemoryError(
                "There is not enough memory for the gradient of decoupled guidance. Switch "
                "checkpointing on, use fewer frames (or a shorter window), or make the clip "
                "smaller; sites that name fewer layers need less."
            ) from failed
        said, drifts = zip(*parts, strict=True)
        drift = blended(drifts, spans, frames)
        if not bool(torch.isfinite(drift).all()):
            raise FloatingPointError(
                f"The decoupled guidance is not finite at timestep {level.t:g}. Lower its "
                "coefficients; with a float16 model, try bfloat16 or float32."
            )
        return blended_predictions(said, spans, frames), drift

    def _window(
        self, z: Latents, pivot: Latents, level: Level, span: slice, frames: int
    ) -> tuple[Prediction, Latents]:
        """The prediction and G for the frames `span` of a clip of `frames` frames."""
        with torch.no_grad():
            reference, _ = self._observed(pivot, level, output=False)
        with torch.enable_grad():
            z = z.detach().clone().requires_grad_()
            current, said = self._observed(z, level, picked=reference.frames)
            # Detached: the loss is computed in float32, and `pull_back` scales its gradient.
            rows, keys = (
                {name: seen.detach().requires_grad_() for name, seen in kind.items()}
                for kind in (current.rows, current.keys)
            )
            tokens = {len(of) for of in rows.values()} | {of.shape[1] for of in keys.values()}
            loss = guidance_loss(
                self.settings,
                {name: (reference.rows[name], of) for name, of in rows.items()},
                {name: (reference.keys[name], of) for name, of in keys.items()},
                {n: self._mask(z, n, frames)[span] for n in tokens},
                {site.name: block_weight(site.block) for site in (*self.temporal, *self.spatial)},
                pixels=math.prod(z.shape[2:]),
            )
            gradients = torch.autograd.grad(loss, [*rows.values(), *keys.values()])
            seen = [*current.rows.values(), *current.keys.values()]
            drift = pull_back(gradients, seen, z)
        return said, drift

    def _observed(
        self, z: Latents, level: Level, **options
    ) -> tuple[Observation, Prediction | None]:
        return observe(
            lambda plan: self.denoiser(z, level, self.cond, plan=plan),
            self.temporal,
            self.spatial,
            top_k=self.settings.top_k,
            **options,
        )

    def _sites(self, kind: str) -> tuple[Site, ...]:
        return self.denoiser.inside("Decoupled guidance").find(self.settings.sites, kind)

    def _mask(self, z: Latents, tokens: int, frames: int) -> Float[Tensor, "{frames} n"]:
        """For each token of the whole clip, the share that is foreground."""
        if tokens not in self._foreground:
            shares = z.new_zeros(frames, tokens)
            if self.guidance.mask is not None:
                grid = self.guidance.grid or ClipGrid((frames, *z.shape[3:]), tuple(z.shape[3:]))
                size = self.denoiser.layers.map_size(tokens, *z.shape[3:])
                shares = grid.covered_tokens(self.guidance.mask, *size).to(z)
            self._foreground[tokens] = shares
        return self._foreground[tokens]
