"""Maps for masks, from the model itself: where terms would change a clip, where it sees words."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from ...attention.layers import Layers, Plan, Site
from ...attention.recording import Recorder, forward_recorded
from ...attention.word_maps import take_attention_to
from ..distillation.inspection import energy_of
from ..distillation.score_distillation import Descent, Settings, draw_step
from ..distillation.terms import Draw, Weighted
from ..models.denoiser import Denoiser, Prompts
from ..models.grid import ClipGrid
from ..models.process import Latents, Level, Prediction, Process
from ..windows import Windows, blended, called_for, has_anchor, spans_of

_ROUNDING = 1e-3  # rounding of noise predictions, which are about 1
OnDraw = Callable[[int], None]  # gets the number of draws done; may raise to stop


@dataclass(frozen=True)
class Looks:
    """The noise levels at which the model looks at a clip, and the number of draws at each."""

    t_min: float = 0.2  # share of the schedule
    t_max: float = 0.6
    timesteps: int = 3  # evenly spread from t_min to t_max; a single one lies in the middle
    draws: int = 1  # of noise, at each timestep
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.t_min <= self.t_max <= 1:
            raise ValueError(
                f"Timesteps were asked for from {self.t_min} to {self.t_max} of the schedule; the "
                "first must not exceed the second, and both must lie within 0..1."
            )
        if self.timesteps < 1 or self.draws < 1:
            raise ValueError(
                f"{self.timesteps} timesteps with {self.draws} draws each were asked for; both "
                "must be 1 or more."
            )

    @property
    def count(self) -> int:
        """The total number of draws."""
        return self.timesteps * self.draws

    def at(self, z: Latents, process: Process) -> Iterator[Draw]:
        """The noised clip of each draw."""
        generator = torch.Generator().manual_seed(self.seed)
        times = torch.linspace(self.t_min, self.t_max, self.timesteps, dtype=torch.float64)
        if self.timesteps == 1:
            times = times.new_tensor([(self.t_min + self.t_max) / 2])
        for t in times.tolist():
            for _ in range(self.draws):
                yield draw_step(z, z, process, Settings(t_min=t, t_max=t), generator)


@torch.no_grad()
def gradient_map(
    z: Latents,
    terms: Sequence[Weighted],
    denoiser: Denoiser,
    prompts: Prompts,
    cfg: float | int,
    looks: Looks,
    *,
    windows: Windows | None = None,
    grid: ClipGrid | None = None,
    on_draw: OnDraw | None = None,
) -> Float[Tensor, "f h w"]:
    """Where terms would change a source clip: the energy of their gradient, averaged over draws.

    With Delta Denoising alone this is the map of DiffEdit (Couairon et al., 2023, Sec. 3.2): how
    much the predictions for two prompts differ. For energy see `inspect_gradient`: each draw is
    divided by its maximum, so that every level counts the same. For `grid` see `distil`.

    Raises:
        ValueError: without terms.
        FloatingPointError: for a term whose gradient is not finite.
    """
    if not terms:
        raise ValueError("No term is connected; wire at least one, such as Delta Denoising.")
    settings = replace(Settings(), cfg=cfg)
    descent = Descent(terms, denoiser, prompts, settings, z, windows=windows, grid=grid)
    same = torch.equal(prompts.source, prompts.target)
    total = torch.zeros_like(z[0, 0])
    for done, draw in enumerate(looks.at(z, denoiser.process), start=1):
        gradient = descent.gradient(draw, z, z, range(len(terms)), 0, 1).total
        # Equal rows of a batch may give slightly different numbers.
        if not (same and float(gradient.abs().max()) < _ROUNDING):
            total += energy_of(gradient)
        if on_draw is not None:
            on_draw(done)
    return total / looks.count


@torch.no_grad()
def word_map(
    z: Latents,
    positions: Sequence[int],
    text: Float[Tensor, "1 l d"],
    denoiser: Denoiser,
    looks: Looks,
    *,
    sites: str = "*",
    max_tokens: int = 1024,
    windows: Windows | None = None,
    on_draw: OnDraw | None = None,
) -> Float[Tensor, "f h w"]:
    """How much each place of a clip attends to the tokens at `positions` of a prompt, 1 on average.

    Cross-attention maps, which show where words are in the picture (Prompt-to-Prompt, Hertz et al.,
    2022, Fig. 4), averaged over heads, layers and draws. Used are the finest layers with at most
    `max_tokens` tokens per frame among those that `sites` names, because coarser ones only blur;
    all of these in a model whose layers have one size.
    The model stops after the last of these layers.

    Raises:
        ValueError: if `sites` names no cross-attention layer, or all have more tokens than allowed.
    """
    layers = denoiser.inside("A word's map")
    chosen = layers.find(sites, "cross")
    frames = z.shape[2]
    spans = spans_of(windows, frames)
    total = torch.zeros_like(z[0, 0])
    for done, draw in enumerate(looks.at(z, denoiser.process), start=1):
        parts = []
        for span in spans:
            called = called_for(windows, span)
            z_t = draw.z_t[:, :, called]
            recorder = Recorder(chosen, [0], take_attention_to(positions))
            run = partial(_run, denoiser, z_t, draw.level, text)
            forward_recorded(run, [recorder], output=False)
            maps = _finest(layers, recorder, chosen, *z.shape[3:], max_tokens).to(z)
            parts.append(maps[:, :, 1:] if has_anchor(called) else maps)
        maps = blended(parts, spans, frames)[0]
        # Some layers attend to words more than others do; dividing by the mean makes them equal.
        total += (maps / maps.mean(dim=(1, 2, 3), keepdim=True)).mean(dim=0)
        if on_draw is not None:
            on_draw(done)
    return total / looks.count


def _run(denoiser: Denoiser, z_t: Latents, level: Level, text: Tensor, plan: Plan) -> Prediction:
    return denoiser(z_t, level, text, plan=plan)


def _finest(
    layers: Layers,
    recorder: Recorder,
    sites: Sequence[Site],
    height: int,
    width: int,
    max_tokens: int,
) -> Float[Tensor, "1 layers f {height} {width}"]:
    """The maps of the finest layers that are allowed, resized to the grid of the latents."""
    maps = [recorder.at(site)[0] for site in sites]
    sizes = sorted({seen.shape[1] for seen in maps})
    allowed = [tokens for tokens in sizes if tokens <= max_tokens or layers.one_size]
    if not allowed:
        raise ValueError(
            f"The layers chosen have {', '.join(map(str, sizes))} tokens a frame, and max_tokens "
            f"is {max_tokens}. Raise it to {sizes[0]} or more."
        )
    rows, columns = layers.map_size(allowed[-1], height, width)
    fine = torch.stack([seen for seen in maps if seen.shape[1] == allowed[-1]])
    grid = rearrange(fine, "l f (h w) -> l f h w", h=rows, w=columns)
    return functional.interpolate(grid, (height, width), mode="bilinear")[None]
