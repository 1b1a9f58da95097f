"""Multi-frame null-text optimisation: guidance that denoises along the path inversion took."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from ..attention.observation import observe
from ..attention.sites import find_sites
from .ddim_inversion import check_grid
from .decoupled_guidance import GuidanceSettings, guidance_loss, guided_step
from .guidance import guide
from .mask_shapes import token_grid
from .masks import latent_mask
from .prediction import EpsTheta
from .schedule import ddim_step
from .terms import Latents
from .trajectory import NullText, Trajectory
from .windows import Windows, blended, windowed


@dataclass(frozen=True)
class NullTextSettings:
    """How the unconditional embeddings are optimised.

    Defaults: VideoDirector (Wang et al., 2025) and its ancestor (Mokady et al., 2023). The paper's
    guidance of 7.5 counts from the conditional prediction, which makes a cfg of 8.5. At step i of T
    the learning rate is `learning_rate * (1 - i / (2 T))`, and the step ends once the mean squared
    error to the pivot is below `early_stop + early_stop_growth * i`.
    """

    cfg: float = 8.5
    inner_steps: int = 10
    learning_rate: float = 1e-2
    per_frame: bool = True  # one embedding per frame; False: one for the clip
    early_stop: float = 1e-5
    early_stop_growth: float = 2e-5

    def __post_init__(self) -> None:
        if not (math.isfinite(self.cfg) and self.cfg >= 0):
            raise ValueError(f"cfg is {self.cfg}; it must be a number of 0 or more.")
        if self.inner_steps < 0:
            raise ValueError(f"inner_steps is {self.inner_steps}; it must be 0 (none) or more.")
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise ValueError(f"learning_rate is {self.learning_rate}; it must be above 0.")
        for name in ("early_stop", "early_stop_growth"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 0 or more.")


@dataclass(frozen=True, eq=False)
class DriftGuidance:
    """What decoupled guidance needs besides the latents."""

    unet: nn.Module
    settings: GuidanceSettings
    mask: Float[Tensor, "n H W"] | None = None  # of the foreground; without one, all is background
    shown: tuple[float, float] = (1.0, 1.0)  # see `latent_mask`


class NullTextProgress(NamedTuple):
    """What `on_step` is shown after each step; `state` can be resumed from."""

    step: int
    steps: int
    z: Latents
    loss: float  # mean squared error to the pivot
    psnr: float  # the same in dB of the pivot's range
    state: NullText


def optimise_null_text(
    trajectory: Trajectory,
    eps_theta: EpsTheta,
    cond: Float[Tensor, "1 l d"],
    uncond: Float[Tensor, "1 l d"],
    alphas_bar: Float[Tensor, " T"],
    settings: NullTextSettings = NullTextSettings(),
    *,
    guidance: DriftGuidance | None = None,
    windows: Windows | None = None,
    state: NullText | None = None,
    steps: int | None = None,
    on_step: Callable[[NullTextProgress], None] | None = None,
) -> NullText:
    """Unconditional embeddings with which guided denoising retraces a trajectory.

    Null-text inversion (Mokady et al., 2023, Alg. 1) with one embedding per frame (VideoDirector,
    Sec. 3.2): from the noisy end down, each step predicts once under the source prompt `cond`, then
    moves the embedding by Adam until the guided step from the current latents lands on the pivot,
    and goes on from where it led. Embeddings begin at `uncond` and then where the step before left
    them. With `guidance`, each step also moves against its G.

    Clips longer than the model takes go through it in `windows`.

    With `state`, `steps` more steps (all, if None) follow those it has made. `on_step` is called
    after every step and may raise to stop the run.

    Raises:
        ValueError: if `state` belongs to another trajectory, cfg or kind of embedding.
        FloatingPointError: if a step or its guidance is not finite.
        MemoryError: if gradients do not fit; says what helps.
    """
    check_grid(trajectory.timesteps, alphas_bar)
    cond, uncond = _plain(cond), _plain(uncond)
    held = None
    if guidance is not None and guidance.settings.active:
        held = _Held(guidance, cond, eps_theta, windows)
    eps_theta = windowed(eps_theta, windows)
    if state is None:
        z_T = _plain(trajectory.latents[-1])
        state = NullText(
            trajectory.fingerprint, settings.cfg, trajectory.steps, z_T, strength=_strength(held)
        )
    state.require_same(trajectory, settings.cfg, settings.per_frame, _strength(held))
    count = trajectory.latents.shape[3] if settings.per_frame else 1
    last = state.steps if steps is None else min(state.steps, state.done + steps)

    for i in range(state.done, last):
        level = trajectory.steps - i
        t_from, t_to = trajectory.timesteps[level], trajectory.timesteps[level - 1]
        a_from, a_to = alphas_bar[t_from].item(), alphas_bar[t_to].item()
        z, pivot = _plain(state.z), _plain(trajectory.pivot(level, state.z))
        target = _plain(trajectory.pivot(level - 1, state.z))
        if held is None:
            with torch.no_grad():
                eps_cond, drift = eps_theta(z, t_from, cond), None
        else:
            eps_cond, drift = held(z, pivot, t_from)

        start = _plain(state.embeddings[-1]) if state.embeddings else uncond
        here = _Step(z, t_from, a_from, a_to, eps_cond, drift, state.strength)
        start = start.expand(count, -1, -1)
        null, z, loss = _fitted(here, eps_theta, start, target, i, settings, state.steps)
        if not (math.isfinite(loss) and bool(torch.isfinite(z).all())):
            raise FloatingPointError(
                f"Null-text optimisation left the range of numbers at step {i + 1}: lower cfg (now "
                f"{settings.cfg:g}) or the learning rate (now {settings.learning_rate:g}); with a "
                "float16 model, try bfloat16 or float32."
            )
        state = replace(
            state,
            z=z,
            embeddings=(*state.embeddings, null),
            guidance=(*state.guidance, drift) if drift is not None else (),
            losses=(*state.losses, loss),
        )
        if on_step is not None:
            span = float(target.max() - target.min())
            psnr = 10 * math.log10(span**2 / loss) if loss > 0 and span > 0 else math.inf
            on_step(NullTextProgress(i + 1, last, z, loss, psnr, state))
    return state


class _Step(NamedTuple):
    """One guided step down, but for its unconditional prediction."""

    z: Latents
    t: int
    a_from: float
    a_to: float
    eps_cond: Latents
    drift: Latents | None
    strength: float

    def land(self, eps_uncond: Latents, cfg: float) -> Latents:
        """Where the step leads."""
        z = ddim_step(self.z, guide(eps_uncond, self.eps_cond, cfg), self.a_from, self.a_to)
        return guided_step(z, self.drift, self.a_from, self.a_to, self.strength)


def _fitted(
    here: _Step,
    eps_theta: EpsTheta,
    start: Float[Tensor, "k l d"],
    target: Latents,
    i: int,
    settings: NullTextSettings,
    steps: int,
) -> tuple[Float[Tensor, "k l d"], Latents, float]:
    """The embedding that lands on the target, where it lands, and the error left.

    The error is looked at before each move, so that the last prediction is also the step's own.
    """
    null = start.clone().requires_grad_()
    rate = settings.learning_rate * (1 - i / (2 * steps))
    optimiser = torch.optim.Adam([null], lr=rate)
    enough = settings.early_stop + settings.early_stop_growth * i
    for inner in range(settings.inner_steps + 1):
        try:
            with torch.set_grad_enabled(inner < settings.inner_steps):
                shaped = null if len(null) == 1 else rearrange(null, "f l d -> 1 f l d")
                z = here.land(eps_theta(here.z, here.t, shaped), settings.cfg)
                error = functional.mse_loss(z, target)
            loss = error.item()
            # With cfg 1 nothing depends on the embedding.
            if loss < enough or not error.requires_grad or not math.isfinite(loss):
                break
            optimiser.zero_grad()
            error.backward()
        except (MemoryError, torch.OutOfMemoryError) as failed:
            raise MemoryError(
                "There is not enough memory for the gradients of null-text optimisation. Switch "
                "checkpointing on, use fewer frames, or make the clip smaller."
            ) from failed
        optimiser.step()
    return null.detach(), z.detach(), loss


class _Held:
    """The prediction under the source prompt and the guidance G, from one run with a graph."""

    def __init__(
        self, guidance: DriftGuidance, cond: Tensor, eps_theta: EpsTheta, windows: Windows | None
    ) -> None:
        self.guidance, self.cond = guidance, cond
        self.eps_theta, self.windows = eps_theta, windows
        settings = guidance.settings
        self.temporal = self._sites("temporal") if settings.temporal else ()
        self.spatial = self._sites("spatial") if settings.keys else ()
        self._foreground: dict[int, Tensor] = {}

    def __call__(self, z: Latents, pivot: Latents, t: int) -> tuple[Latents, Latents]:
        if torch.equal(z, pivot):
            with torch.no_grad():
                return windowed(self.eps_theta, self.windows)(z, t, self.cond), torch.zeros_like(z)
        frames = z.shape[2]
        spans = [slice(0, frames)] if self.windows is None else self.windows.over(frames)
        try:
            parts = [self._window(z[:, :, s], pivot[:, :, s], t, s, frames) for s in spans]
        except (MemoryError, torch.OutOfMemoryError) as failed:
            raise MemoryError(
                "There is not enough memory for the gradient of decoupled guidance. Switch "
                "checkpointing on, use fewer frames, or make the clip smaller; sites of a single "
                "decoder block (up_blocks.1.*) need less."
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
                self.guidance.settings,
                {name: (rows, current.rows[name]) for name, rows in reference.rows.items()},
                {name: (keys, current.keys[name]) for name, keys in reference.keys.items()},
                {n: self._mask(z, n, frames)[span] for n in tokens},
                pixels=math.prod(z.shape[2:]),
            )
            (drift,) = torch.autograd.grad(loss, z)
        return eps_cond, drift

    def _observed(self, z: Latents, t: int, **options):
        return observe(
            self.guidance.unet,
            lambda: self.eps_theta(z, t, self.cond),
            self.temporal,
            self.spatial,
            z.shape[2],
            top_k=self.guidance.settings.top_k,
            **options,
        )

    def _sites(self, kind: str):
        return find_sites(self.guidance.unet, self.guidance.settings.sites, kind)

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


def _strength(held: _Held | None) -> float:
    return 0.0 if held is None else held.guidance.settings.strength


def _plain(tensor: Tensor) -> Tensor:
    """A tensor that autograd takes: one made in inference mode is copied."""
    return tensor.clone() if tensor.is_inference() else tensor
