"""Sampling an edit along an inverted clip, with its attention held to the clip's."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from einops import repeat
from jaxtyping import Bool, Float
from torch import Tensor

from ...attention.layers import Entry, Layers, Plan, Site
from ...attention.mutual import mutual, source_layout
from ...attention.prompt_to_prompt import TokenMap, cross_control
from ..masks.shapes import foreground_tokens
from ..models.denoiser import Denoiser, Prompts, guided
from ..models.grid import ClipGrid
from ..models.process import Latents, Level, Prediction, move
from ..windows import Windows, blended_predictions, text_of
from .ddim_inversion import check_grid
from .decoupled_guidance import guided_step
from .trajectory import NullText, Trajectory

# The clips of a step's batch. References come first: where a model short of memory takes the batch
# in slices, they have been seen when the edit reads them.
SOURCE_UNCOND, SOURCE_COND, EDIT_UNCOND, EDIT_COND = range(4)


@dataclass(frozen=True)
class AttentionControl:
    """Which attention of the edit is held to the source's, and for how long.

    Defaults: VideoDirector (Wang et al., 2025, Sec. 4), whose tau_s is chosen per clip within 0.2
    to 0.5. Times are shares of the steps, counted from the noisy end.
    """

    layout: bool = True  # SA-I: the source's self-attention maps, until tau_s
    background: bool = True  # SA-II: the source's background is read too, from tau_s on
    prompt: bool = True  # cross-attention control, until tau_c
    tau_s: float = 0.4
    tau_c: float = 0.8
    layout_tokens: int = 32 * 32  # SA-I leaves finer layers alone
    background_sites: str = "decoder"

    def __post_init__(self) -> None:
        for name in ("tau_s", "tau_c"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(
                    f"{name} is {getattr(self, name)}; it is a share of the steps, within 0..1."
                )
        if self.layout_tokens < 0:
            raise ValueError(f"layout_tokens is {self.layout_tokens}; it must be 0 or more.")


NO_CONTROL = AttentionControl(layout=False, background=False, prompt=False)


@dataclass(frozen=True, eq=False)
class Source:
    """What the edit may read of the source beside its pivots."""

    tokens: TokenMap | None = None  # from the source prompt's tokens to the target's
    mask: Float[Tensor, "n H W"] | None = None  # what is edited, and not read from the source
    grid: ClipGrid | None = None  # how the clip lies on its latents; None: all of them are shown


class SamplingProgress(NamedTuple):
    """What `on_step` is shown: `step` of `steps` are done, and `z` is where they have led."""

    step: int
    steps: int
    z: Latents


@torch.no_grad()
def sample_edit(
    trajectory: Trajectory,
    denoiser: Denoiser,
    prompts: Prompts,
    cfg: float,
    control: AttentionControl = NO_CONTROL,
    *,
    source: Source | None = None,
    null_text: NullText | None = None,
    windows: Windows | None = None,
    on_step: Callable[[SamplingProgress], None] | None = None,
) -> Latents:
    """Denoise a trajectory's noise under the target prompt, attending as the source did.

    Implements stage 2 of VideoDirector (Sec. 3.3). Every step is one batched call of the model: the
    edit, and the source at its pivot of that step, as far as the step's controls read it. With
    `null_text`, its embeddings replace the negative prompt and its guidance joins each step. With
    the source prompt as target and no control this reconstructs the clip; with no control at all it
    is plain DDIM sampling. Clips longer than the model takes go through it in `windows`.

    Deviation: the source's unconditional clip is given the same embeddings as the edit's and not
    the negative prompt, so that an edit that changes nothing reads only what it has itself.

    Raises:
        ValueError: if the parts do not belong together, or controls are asked for without a source.
        FloatingPointError: at the first step that is not finite.
    """
    check_grid(trajectory.levels)
    if null_text is not None:
        null_text.require(trajectory, cfg)
    plans = _Plans(control, source, denoiser.layers, prompts, trajectory, cfg)
    frames = trajectory.latents.shape[3]
    spans = [slice(0, frames)] if windows is None else windows.over(frames)
    z = trajectory.latents[-1]
    for i in range(trajectory.steps):
        level = trajectory.steps - i
        here, there = trajectory.levels[level], trajectory.levels[level - 1]
        uncond, drift = (prompts.negative, None) if null_text is None else null_text.at(i)
        rows = {
            SOURCE_UNCOND: (trajectory.latents[level], uncond),
            SOURCE_COND: (trajectory.latents[level], prompts.source),
            EDIT_UNCOND: (z, uncond),
            EDIT_COND: (z, prompts.target),
        }
        parts = []
        for span in spans:
            plan, needed = plans.at(i, span)
            asked = {
                number: (rows[number][0][:, :, span], text_of(rows[number][1], span))
                for number in sorted(needed)
            }
            parts.append(_predicted(asked, here, denoiser, plan))
        said = {
            number: blended_predictions([part[number] for part in parts], spans, frames)
            for number in plans.edited
        }
        edited = guided(said.get(EDIT_UNCOND, said[EDIT_COND]), said[EDIT_COND], cfg)
        strength = 0.0 if null_text is None else null_text.strength
        z = move(edited, there)
        z = guided_step(z, None if drift is None else drift.to(z), here, there, strength)
        if not bool(torch.isfinite(z).all()):
            raise FloatingPointError(
                f"Sampling left the range of numbers at step {i + 1}: lower cfg (now {cfg:g}); "
                "with a float16 model, try bfloat16 or float32."
            )
        if on_step is not None:
            on_step(SamplingProgress(i + 1, trajectory.steps, z))
    return z


def _predicted(
    rows: Mapping[int, tuple[Latents, Tensor]], level: Level, denoiser: Denoiser, plan: Plan
) -> dict[int, Prediction]:
    """The prediction for each clip of a step, `(z, embedding)` by number, from one call."""
    clips, embeddings = zip(*rows.values(), strict=True)
    frames = clips[0].shape[2]
    if any(embedding.ndim == 4 for embedding in embeddings):
        embeddings = [
            repeat(e, "1 l d -> 1 f l d", f=frames) if e.ndim == 3 else e for e in embeddings
        ]
    cond = torch.cat([embedding.to(clips[-1]) for embedding in embeddings])
    said = denoiser(torch.cat(clips), level, cond, plan=plan, rows=list(rows))
    return dict(zip(rows, said.parts(1), strict=True))


class _Plans:
    """What is done to the model's attention at each step, and which clips that reads."""

    def __init__(
        self,
        control: AttentionControl,
        source: Source | None,
        layers: Layers | None,
        prompts: Prompts,
        trajectory: Trajectory,
        cfg: float,
    ) -> None:
        if control != NO_CONTROL and (source is None or layers is None):
            raise ValueError("Attention is to be controlled, but what it may read is missing.")
        self.control, self.source, self.layers = control, source, layers
        self.steps = trajectory.steps
        self.edited = {EDIT_COND} if cfg == 1 else {EDIT_UNCOND, EDIT_COND}
        grid = None if source is None else source.grid
        self.grid = grid or ClipGrid.of(trajectory.latents[0])
        # An edit that changes no word has no region of its own either: all of the source is read.
        same = torch.equal(prompts.source, prompts.target)
        self.mask = None if source is None or same else source.mask
        self.layout = self._sites(control.layout, "*", "spatial")
        self.background = self._sites(control.background, control.background_sites, "spatial")
        with_words = source is not None and source.tokens is not None
        self.cross = self._sites(control.prompt and with_words, "*", "cross")
        self._foreground: dict[int, Tensor] = {}
        if self.background and self.mask is not None:
            self.grid.covered(self.mask)  # a mask that does not fit is told at once

    def at(self, step: int, span: slice) -> tuple[list[Entry], set[int]]:
        """What is changed at a step, for some of the frames, and the clips that takes."""
        pair = {EDIT_COND: SOURCE_COND}
        early = step < self.control.tau_s * self.steps
        plan, needed = [], set(self.edited)
        if self.layout and early:
            plan.append(Entry(self.layout, source_layout(pair, self.control.layout_tokens)))
            needed |= {SOURCE_COND}
        if self.background and not early:
            like = {EDIT_COND: SOURCE_COND, EDIT_UNCOND: SOURCE_UNCOND}
            both = {edit: like[edit] for edit in self.edited}
            plan.append(Entry(self.background, mutual(both, partial(self._hidden, span))))
            needed |= {*both.values()}
        if self.cross and step < self.control.tau_c * self.steps:
            plan.append(Entry(self.cross, cross_control(pair, self.source.tokens)))
            needed |= {SOURCE_COND}
        return plan, needed

    def _sites(self, wanted: bool, pattern: str, kind: str) -> tuple[Site, ...]:
        return self.layers.find(pattern, kind) if wanted else ()

    def _hidden(self, span: slice, site: Site, tokens: int) -> Bool[Tensor, "f m"]:
        """Which tokens of the source, of those a layer reads, the edit must not read."""
        frames, height, width = self.grid.latent
        size = self.layers.map_size(tokens, height, width)
        if tokens not in self._foreground:
            hidden = torch.zeros(frames, tokens, dtype=torch.bool)
            if self.mask is not None:
                hidden = foreground_tokens(self.grid.covered_tokens(self.mask, *size))
            self._foreground[tokens] = hidden
        return self.layers.marked_of_read(site, self._foreground[tokens][span], *size)
