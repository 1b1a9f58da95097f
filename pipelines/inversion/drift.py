"""How far a denoised clip has drifted from its pivot: the guidance G of a step, from one run."""

import math
from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from ...attention.observation import Observation, observe
from ...attention.sites import Site, find_sites
from ..masks.shapes import token_grid
from ..models.denoiser import EpsTheta
from ..models.grid import latent_mask
from ..models.schedule import Latents
from ..windows import Windows, blended, windowed
from .decoupled_guidance import GuidanceSettings, guidance_loss


@dataclass(frozen=True, eq=False)
class DriftGuidance:
    """What decoupled guidance needs besides the latents."""

    unet: nn.Module
    settings: GuidanceSettings
    mask: Float[Tensor, "n H W"] | None = None  # of the foreground; without one, all is background
    shown: tuple[float, float] = (1.0, 1.0)  # see `latent_mask`


class Drift:
    """Spatial-temporal decoupled guidance along a trajectory (VideoDirector, Sec. 3.2).

    Called with the latents of a step, their pivot and the timestep, it gives the prediction under
    the source prompt `cond` and the guidance G. All four parts come from one run of the model for
    the pivot, no further than the last layer compared, and one with a graph and a way back, which
    also makes the prediction. Clips longer than the model takes go through it in `windows`, one
    graph at a time.

    Raises, when called:
        ValueError: if the mask does not fit the clip.
        FloatingPointError: if G is not finite.
        MemoryError: if the gradient does not fit; says what helps.
    """

    def __init__(
        self,
        guidance: DriftGuidance,
        cond: Float[Tensor, "1 l d"],
        eps_theta: EpsTheta,
        windows: Windows | None = None,
    ) -> None:
        self.guidance, self.settings, self.cond = guidance, guidance.settings, cond
        self.eps_theta, self.windows = eps_theta, windows
        self.temporal = self._sites("temporal") if self.settings.temporal else ()
        self.spatial = self._sites("spatial") if self.settings.keys else ()
        self._foreground: dict[int, Tensor] = {}

    def __call__(self, z: Latents, pivot: Latents, t: int) -> tuple[Latents, Latents]:
        if torch.equal(z, pivot):  # as at the first step: nothing has drifted
            with torch.no_grad():
                return windowed(self.eps_theta, self.windows)(z, t, self.cond), torch.zeros_like(z)
        frames = z.shape[2]
        spans = [slice(0, frames)] if self.windows is None else self.windows.over(frames)
        try:
            parts = [self._window(z[:, :, s], pivot[:, :, s], t, s, frames) for s in spans]
        except (MemoryError, torch.OutOfMemoryError) as failed:
            raise MemoryError(
                "There is not enough memory for the gradient of decoupled guidance. Switch "
                "checkpointing on, use fewer frames (or a shorter window), or make the clip "
                "smaller; sites of a single decoder block (up_blocks.1.*) need less."
            ) from failed
        eps_cond, drift = (blended(part, spans, frames) for part in zip(*parts, strict=True))
        if not bool(torch.isfinite(drift).all()):
            raise FloatingPointError(
                f"The decoupled guidance is not finite at timestep {t}. Lower its coefficients; "
                "with a float16 model, try bfloat16 or float32."
            )
        return eps_cond, drift

    def _window(
        self, z: Latents, pivot: Latents, t: int, span: slice, frames: int
    ) -> tuple[Latents, Latents]:
        """The same for some frames of a clip."""
        with torch.no_grad():
            reference, _ = self._observed(pivot, t, output=False)
        with torch.enable_grad():
            z = z.detach().clone().requires_grad_()
            current, eps_cond = self._observed(z, t, picked=reference.frames)
            tokens = {len(rows) for rows in reference.rows.values()}
            tokens |= {keys.shape[1] for keys in reference.keys.values()}
            loss = guidance_loss(
                self.settings,
                {name: (rows, current.rows[name]) for name, rows in reference.rows.items()},
                {name: (keys, current.keys[name]) for name, keys in reference.keys.items()},
                {n: self._mask(z, n, frames)[span] for n in tokens},
                pixels=math.prod(z.shape[2:]),
            )
            (drift,) = torch.autograd.grad(loss, z)
        return eps_cond, drift

    def _observed(self, z: Latents, t: int, **options) -> tuple[Observation, Latents | None]:
        return observe(
            self.guidance.unet,
            lambda: self.eps_theta(z, t, self.cond),
            self.temporal,
            self.spatial,
            z.shape[2],
            top_k=self.settings.top_k,
            **options,
        )

    def _sites(self, kind: str) -> tuple[Site, ...]:
        return find_sites(self.guidance.unet, self.settings.sites, kind)

    def _mask(self, z: Latents, tokens: int, frames: int) -> Float[Tensor, "{frames} n"]:
        """The share of each token of the whole clip that is foreground."""
        if tokens not in self._foreground:
            shares = z.new_zeros(frames, tokens)
            if self.guidance.mask is not None:
                grid = token_grid(tokens, *z.shape[3:])
                covered = latent_mask(self.guidance.mask, frames, *grid, shown=self.guidance.shown)
                shares = rearrange(covered, "1 1 f h w -> f (h w)").to(z)
            self._foreground[tokens] = shares
        return self._foreground[tokens]
