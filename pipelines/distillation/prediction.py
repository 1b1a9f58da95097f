"""The fewest model calls that serve everything the terms of a step ask for."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import torch
from torch import Tensor, nn

from ...attention.fusion import AttentionFusion
from ...attention.install import Entry
from ...attention.recording import Recorder, forward_recorded
from ...attention.sites import Site
from ..models.denoiser import EpsTheta, Prompts
from ..models.guidance import guide
from ..models.schedule import Latents
from .terms import Draw, Keys, Predictions

# A row of a batch: which clip, and whether with its prompt.
Row: TypeAlias = tuple[str, str]
# In this order, for what the target is to read of the source must come first.
_ROWS: tuple[Row, ...] = (
    ("source", "uncond"),
    ("source", "cond"),
    ("target", "uncond"),
    ("target", "cond"),
)
_SOURCE, _TARGET = _ROWS[1], _ROWS[3]  # whose keys are compared


@dataclass(frozen=True)
class Inside:
    """What is seen and changed inside the model that makes the predictions."""

    unet: nn.Module
    keys: tuple[Site, ...] = ()  # layers whose keys the terms read
    fused: tuple[Site, ...] = ()  # layers in which the target also reads the source
    fusion_weight: float | int = 1.0


def predict(
    needs: frozenset[str],
    draw: Draw,
    eps_theta: EpsTheta,
    prompts: Prompts,
    cfg: float,
    inside: Inside | None = None,
) -> Predictions:
    """The predictions named in `needs`.

    A guided prediction takes two rows of the batch, one without and one with its prompt; with cfg 1
    or 0 guidance reads only one of them, and the other is not computed. In fused layers each row of
    the target reads its like of the source, which is then computed, too. All rows are one call of
    the model, but for the prompted target where keys are needed: that row is a call of its own,
    with a graph, which ends at the last layer needed. A call that serves keys only ends there too.
    """
    kinds = [kind for kind, idle in (("uncond", 1), ("cond", 0)) if cfg != idle]
    asked = {row for row in _ROWS if f"eps_{row[0]}" in needs and row[1] in kinds}
    with_keys = not needs.isdisjoint({"keys_target", "keys_source"})
    rows = asked | {_SOURCE, _TARGET} if with_keys else set(asked)
    fused = inside is not None and len(inside.fused) > 0
    if fused:
        rows |= {("source", kind) for clip, kind in rows if clip == "target"}
    if not rows:
        return Predictions()

    calls = _Calls(draw, eps_theta, prompts, inside if with_keys or fused else None)
    together = [row for row in _ROWS if row in rows and not (with_keys and row == _TARGET)]
    source = calls.recorder(_SOURCE) if with_keys else None
    # What the target is to read lies anywhere in the model, so then all of it runs.
    eps = calls.run(together, draw.z_t, source, output=fused or not asked.isdisjoint(together))
    keys = {}
    if with_keys:
        target = calls.recorder(_TARGET)
        # There is no graph in inference mode, nor of tensors that come from it.
        with torch.inference_mode(False), torch.enable_grad():
            leaf = draw.z_t.clone().requires_grad_()
            eps |= calls.run([_TARGET], leaf, target, output=_TARGET in asked)
            live = {site.name: target.at(site) for site in inside.keys}
        keys = {
            "keys_target": {name: kept.detach().float() for name, kept in live.items()},
            "keys_source": {site.name: source.at(site).float() for site in inside.keys},
            "pull_back": partial(_pull_back, leaf, live),
        }
    guided = {f"eps_{clip}": _guided(eps, clip, cfg) for clip, _ in asked}
    return Predictions(**guided, **keys)


class _Calls:
    """The calls of the model for one step."""

    def __init__(
        self, draw: Draw, eps_theta: EpsTheta, prompts: Prompts, inside: Inside | None
    ) -> None:
        self.draw, self.eps_theta, self.prompts, self.inside = draw, eps_theta, prompts, inside
        self.clips, _, self.frames = draw.z_t.shape[:3]
        self.plan = []
        if inside is not None and inside.fused:
            pairs = [
                (self.numbers(("target", k)), self.numbers(("source", k))) for _, k in _ROWS[:2]
            ]
            numbers = {t: s for pair in pairs for t, s in zip(*pair, strict=True)}
            change = AttentionFusion(numbers, inside.fusion_weight)
            self.plan = [Entry(inside.fused, change)]

    def numbers(self, row: Row) -> range:
        """The numbers by which attention knows the clips of a row."""
        first = _ROWS.index(row) * self.clips
        return range(first, first + self.clips)

    def recorder(self, row: Row) -> Recorder:
        """For the keys of a row."""
        return Recorder(self.inside.keys, self.numbers(row))

    def run(
        self, rows: Sequence[Row], z_t: Latents, recorder: Recorder | None, *, output: bool
    ) -> dict[Row, Latents]:
        """The predictions of some rows, `z_t` being the target's; none without `output`."""
        if not rows:
            return {}
        z = [z_t if clip == "target" else self.draw.z_t_source for clip, _ in rows]
        texts = [self._text(row).expand(self.clips, -1, -1) for row in rows]
        forward = partial(self.eps_theta, torch.cat(z), self.draw.t, torch.cat(texts))
        if self.inside is None:
            eps = forward()
        else:
            numbers = [number for row in rows for number in self.numbers(row)]
            recorders = [] if recorder is None else [recorder]
            eps = forward_recorded(
                self.inside.unet, recorders, forward, numbers, self.frames,
                plan=self.plan, output=output,
            )  # fmt: skip
        return {} if eps is None else dict(zip(rows, eps.split(self.clips), strict=True))

    def _text(self, row: Row) -> Tensor:
        clip, kind = row
        return getattr(self.prompts, clip) if kind == "cond" else self.prompts.negative


def _guided(eps: Mapping[Row, Latents], clip: str, cfg: float) -> Latents:
    # A row that was not computed has weight 0 in guidance: the other one stands in for it.
    cond = eps.get((clip, "cond"), eps.get((clip, "uncond")))
    return guide(eps.get((clip, "uncond"), cond), cond, cfg)


def _pull_back(leaf: Latents, live: Keys, on_keys: Keys) -> Latents:
    """The gradient on `z_t` of given gradients on the target's keys.

    Where losses average over many pairs their gradients are tiny, and would vanish in half
    precision: they go through the model enlarged to a size around 1, by a power of two.
    """
    largest = max((float(gradient.abs().max()) for gradient in on_keys.values()), default=0.0)
    if largest == 0:
        return torch.zeros_like(leaf)
    scale = 2.0 ** -math.frexp(largest)[1]
    with torch.inference_mode(False):
        gradients = [(scale * on_keys[name]).to(live[name].dtype) for name in on_keys]
        kept = [live[name] for name in on_keys]
        (gradient,) = torch.autograd.grad(kept, leaf, gradients, retain_graph=True)
    return gradient / scale
