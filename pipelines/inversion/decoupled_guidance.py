"""Spatial-temporal decoupled guidance: how far a clip's attention has drifted from its pivot's."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import torch
from einops import rearrange
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from ..models.process import Latents, Level

# What the authors' code multiplies both losses with at layers of blocks 1 and 2 of the decoder.
BLOCK_WEIGHTS = 20000.0, 10000.0
# With which `token_loss` moves a clip as far as `frame_loss` does: our own measurement.
TOKEN_WEIGHT = 0.3
# The latent pixels of the paper's clips, for which these weights are: 16 frames of 64 x 64.
PAPER_PIXELS = 16 * 64 * 64


@dataclass(frozen=True)
class GuidanceSettings:
    """What is held to the pivot, where, and how strongly.

    The four coefficients are the paper's for editing the foreground (VideoDirector, Sec. 4); for
    editing the background they are `swapped`. A coefficient of 0 switches its part off, and with
    all at 0 there is no guidance at all.
    """

    temporal_foreground: float = 0.5  # eta_f
    temporal_background: float = 0.5  # eta_b; the paper: 0.2 to 0.8
    keys_foreground: float = 0.0  # zeta_f
    keys_background: float = 0.5  # zeta_b
    strength: float = 1.0
    top_k: int = 1
    sites: str = "late"  # decoder blocks 1 and 2
    look: str = "frame means"  # a key of LOOKS: how keys are compared

    def __post_init__(self) -> None:
        for name in (*_COEFFICIENTS, "strength"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(
                    f"{name.replace('_', ' ')} is {value}; it must be a number of 0 or more."
                )
        if self.top_k < 1:
            raise ValueError(f"top k is {self.top_k}; at least 1 frame is compared.")
        if self.look not in LOOKS:
            raise ValueError(f"look is {self.look!r}; choose {' or '.join(LOOKS)}.")

    @property
    def temporal(self) -> bool:
        """Whether temporal attention is held."""
        return self.strength > 0 and self.temporal_foreground + self.temporal_background > 0

    @property
    def keys(self) -> bool:
        """Whether spatial self-attention keys are held."""
        return self.strength > 0 and self.keys_foreground + self.keys_background > 0

    @property
    def active(self) -> bool:
        """Whether there is any guidance. If not, the model is not run for it."""
        return self.temporal or self.keys

    def swapped(self) -> "GuidanceSettings":
        """The same with foreground and background exchanged, for editing the background."""
        return replace(
            self,
            temporal_foreground=self.temporal_background,
            temporal_background=self.temporal_foreground,
            keys_foreground=self.keys_background,
            keys_background=self.keys_foreground,
        )


_COEFFICIENTS = (
    "temporal_foreground",
    "temporal_background",
    "keys_foreground",
    "keys_background",
)


def top_frames(
    reference: Float[Tensor, "p h f f"], top_k: int
) -> tuple[Float[Tensor, "p h f k"], Int[Tensor, "p h f k"]]:
    """The frames each frame attends to most, of a map `[position, head, query, key]`, and how much.

    Raises:
        ValueError: unless 1 <= top_k.
    """
    if top_k < 1:
        raise ValueError(f"top k is {top_k}; at least 1 frame is compared.")
    # A clip shorter than that is compared whole.
    return reference.topk(min(top_k, reference.shape[-1]), dim=-1)


def temporal_map_loss(
    reference: Float[Tensor, "p h f f"],
    current: Float[Tensor, "p h f f"],
    mask: Shaped[Tensor, "f p"],
    top_k: int,
) -> Float[Tensor, ""]:
    """The mean squared difference of temporal attention where the reference attends most.

    Implements L_T (VideoDirector, Wang et al., 2025, Eq. 2): maps are `[position, head, query,
    key]`; of each query frame the `top_k` keys with the largest weight in the reference count, at
    the positions its mask selects. A mask between 0 and 1 weights. Exactly 0, with a zero gradient,
    where the mask selects nothing.
    """
    kept, frames = top_frames(reference, top_k)
    return picked_map_loss(kept, current.gather(-1, frames), mask)


def picked_map_loss(
    reference: Float[Tensor, "p h f k"],
    current: Float[Tensor, "p h f k"],
    mask: Shaped[Tensor, "f p"],
) -> Float[Tensor, ""]:
    """`temporal_map_loss` of what its top-K selects."""
    return _masked_mean((current - reference).square(), rearrange(mask, "f p -> p 1 f 1"))


def frame_loss(
    reference: Float[Tensor, "f n c"], current: Float[Tensor, "f n c"], mask: Shaped[Tensor, "f n"]
) -> Float[Tensor, ""]:
    """The mean squared difference of frames' mean keys, over the tokens a mask selects.

    Implements L_K (VideoDirector, Eq. 3) as the authors' code has it: tokens may change places. A
    mask of shares weighs. Frames where it selects nothing do not count; exactly 0, with a zero
    gradient, where it selects nothing at all.
    """
    weight = rearrange(mask.to(current), "f n -> f n 1")
    total = weight.sum(dim=1)
    moved = (weight * (current - reference)).sum(dim=1) / torch.where(total > 0, total, 1)
    return _masked_mean(moved.square(), total > 0)


def token_loss(
    reference: Float[Tensor, "f n c"], current: Float[Tensor, "f n c"], mask: Shaped[Tensor, "f n"]
) -> Float[Tensor, ""]:
    """The mean squared difference of keys, token by token, of those a mask selects.

    L_K as the paper writes it (VideoDirector, Eq. 3), times `TOKEN_WEIGHT`, for the weights are
    made for `frame_loss`. A mask of shares weighs. Exactly 0, with a zero gradient, where the mask
    selects nothing.
    """
    squares = (current - reference).square()
    return TOKEN_WEIGHT * _masked_mean(squares, rearrange(mask, "f n -> f n 1"))


# How the keys of self-attention are compared.
LOOKS = MappingProxyType({"frame means": frame_loss, "token by token": token_loss})


def block_weight(block: int) -> float:
    """What the losses at a layer of a decoder block are multiplied with.

    The authors give blocks 1 and 2 a weight each; blocks before count as 1, later ones as 2.
    """
    return BLOCK_WEIGHTS[0] if block <= 1 else BLOCK_WEIGHTS[1]


def guidance_loss(
    settings: GuidanceSettings,
    maps: Mapping[str, tuple[Float[Tensor, "p h f k"], Float[Tensor, "p h f k"]]],
    keys: Mapping[str, tuple[Float[Tensor, "f n c"], Float[Tensor, "f n c"]]],
    foreground: Mapping[int, Float[Tensor, "f n"]],
    weights: Mapping[str, float],
    pixels: int = PAPER_PIXELS,
) -> Float[Tensor, ""]:
    """The weighted sum of all four parts: its gradient is the guidance G (VideoDirector, Eq. 4).

    `maps` and `keys` hold (reference, current) of each layer, and are averaged over the layers,
    each with its weight in `weights`; `foreground` the share of each token that the mask covers, by
    the number of tokens of a frame.

    Deviation: scaled by the clip's number of latent pixels (frames x height x width), so that it is
    the paper's at the paper's size. The gradient of a mean shrinks as the clip grows; scaled, a
    coefficient moves each pixel equally far at any size and length.
    """
    parts = []
    for kind, loss, layers in (
        ("temporal", picked_map_loss, maps),
        ("keys", LOOKS[settings.look], keys),
    ):
        for name, (reference, current) in layers.items():
            mask = foreground[len(reference) if kind == "temporal" else reference.shape[1]]
            for place, selected in (("foreground", mask), ("background", 1 - mask)):
                coefficient = getattr(settings, f"{kind}_{place}")
                if coefficient > 0:
                    scale = coefficient * weights[name] / len(layers) * pixels / PAPER_PIXELS
                    parts.append(scale * loss(reference, current, selected))
    if not parts:
        raise ValueError("No coefficient of the guidance is above 0; there is nothing to hold.")
    return torch.stack(parts).sum()


def guided_step(
    z: Latents, guidance: Latents | None, here: Level, there: Level, strength: float
) -> Latents:
    """Latents after a step from one level to another, moved against the guidance G.

    G enters only the direction term of the step (VideoDirector, supplement; methods of
    MotionClone): it becomes eps - n_here G there, and stays eps in the prediction of the clean
    clip. So the result of the step moves by - strength n_there n_here G.
    """
    if guidance is None or strength == 0:
        return z
    return z - strength * there.noise * here.noise * guidance


def _masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """The mean of the values that a mask selects; 0, with a zero gradient, if it selects none."""
    weight = mask.to(values)
    # A weight counts once for every value that it is broadcast to.
    total = weight.sum() * (values.numel() / weight.numel())
    return (weight * values).sum() / torch.where(total > 0, total, torch.ones_like(total))
