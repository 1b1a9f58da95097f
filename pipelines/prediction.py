"""One batched model call that serves everything the terms of a step ask for."""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from .guidance import guide
from .terms import Draw, Latents, Predictions

EpsTheta: TypeAlias = Callable[[Latents, int, Float[Tensor, "b l d"]], Latents]


class Prompts(NamedTuple):
    """Text embeddings of an edit, each `[1, l, d]`."""

    source: Float[Tensor, "1 l d"]
    target: Float[Tensor, "1 l d"]
    negative: Float[Tensor, "1 l d"]


def predict(
    needs: frozenset[str], draw: Draw, eps_theta: EpsTheta, prompts: Prompts, cfg: float
) -> Predictions:
    """The guided predictions named in `needs`, from a single call of the model.

    A prediction takes two rows of the batch, one without and one with its prompt; with cfg 1 or 0
    guidance reads only one of them, and the other is not computed.
    """
    asked = {
        "eps_target": (draw.z_t, prompts.target),
        "eps_source": (draw.z_t_source, prompts.source),
    }
    rows = []
    for name, (z_t, prompt) in asked.items():
        if name in needs and cfg != 1:
            rows.append((name, "uncond", z_t, prompts.negative))
        if name in needs and cfg != 0:
            rows.append((name, "cond", z_t, prompt))
    if not rows:
        return Predictions()
    clips = draw.z_t.shape[0]
    eps = eps_theta(
        torch.cat([z_t for _, _, z_t, _ in rows]),
        draw.t,
        torch.cat([embedding.expand(clips, -1, -1) for _, _, _, embedding in rows]),
    )
    parts = {(name, kind): e for (name, kind, _, _), e in zip(rows, eps.split(clips), strict=True)}
    guided = {}
    for name in {name for name, _ in parts}:
        # A row that was not computed has weight 0 in guidance: the other one stands in for it.
        cond = parts.get((name, "cond"), parts.get((name, "uncond")))
        guided[name] = guide(parts.get((name, "uncond"), cond), cond, cfg)
    return Predictions(**guided)
