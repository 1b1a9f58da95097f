"""Spatial-temporal decoupled guidance: losses between the attention of a clip and of its pivot."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import torch
from einops import rearrange
from jaxtyping import Float, Shaped
from torch import Tensor

from ..models.process import Latents, Level

# The factors of both losses in the authors' code, for decoder blocks 1 and 2.
BLOCK_WEIGHTS = 20000.0, 10000.0
# With this factor `token_loss` moves a clip about as far as `frame_loss` does. Ours, measured on
# the shape world: 0.4 to 1 times as far where whole frames drift, 0.6 to 6 where pixels do.
TOKEN_WEIGHT = 0.3
# The number of latent pixels in the paper's clips: 16 frames of 64 x 64. The weights are for these.
PAPER_PIXELS = 16 * 64 * 64


@dataclass(frozen=True)
class GuidanceSettings:
    """What is kept near the pivot, where, and how strongly.

    The four coefficients are those of the paper for editing the foreground (VideoDirector, Sec. 4).
    For editing the background they are `swapped`. A coefficient of 0 switches its part off; with
    all at 0 there is no guidance.
    """

    temporal_foreground: float = 0.5  # eta_f
    temporal_background: float = 0.5  # eta_b; the paper: 0.2 to 0.8
    keys_foreground: float = 0.0  # zeta_f
    keys_background: float = 0.5  # zeta_b
    strength: float = 1.0
    top_k: int = 1
    sites: str = "late"  # which layers; "late" is decoder blocks 1 and 2
    look: str = "frame means"  # how keys are compared: a key of LOOKS

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
        """Whether temporal attention is kept near the pivot's."""
        return self.strength > 0 and self.temporal_foreground + self.temporal_background > 0

    @property
    def keys(self) -> bool:
        """Whether the keys of spatial self-attention are kept near the pivot's."""
        return self.strength > 0 and self.keys_foreground + self.keys_background > 0

    @property
    def active(self) -> bool:
        """Whether there is any guidance. If not, the model is not run for it."""
        return self.temporal or self.keys

    def swapped(self) -> "GuidanceSettings":
        """The settings with foreground and background exchanged, for editing the background."""
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


def temporal_map_loss(
    reference: Float[Tensor, "p h f k"],
    current: Float[Tensor, "p h f k"],
    mask: Shaped[Tensor, "f p"],
) -> Float[Tensor, ""]:
    """The mean squared difference of temporal attention where the reference attends most.

    Implements L_T (VideoDirector, Wang et al., 2025, Eq. 2), from weights `[position, head, query,
    key]` at the k keys of each query frame that are largest in the reference (see `observe`). Only
    the positions that the mask selects count. Mask values between 0 and 1 are weights. If the mask
    selects nothing, the loss is exactly 0, with a zero gradient.
    """
    return _masked_mean((current - reference).square(), rearrange(mask, "f p -> p 1 f 1"))


def frame_loss(
    reference: Float[Tensor, "f n c"], current: Float[Tensor, "f n c"], mask: Shaped[Tensor, "f n"]
) -> Float[Tensor, ""]:
    """The mean squared difference between the mean keys of frames, over the tokens of a mask.

    Implements L_K (VideoDirector, Eq. 3) as in the authors' code: tokens may change places. Mask
    values between 0 and 1 are weights. If the mask selects nothing at all, the loss is exactly 0,
    with a zero gradient.

    Deviation: frames in which the mask selects nothing do not count; in the authors' code they
    count as equal. So an object that is seen for a part of the clip is held there as firmly.
    """
    weight = rearrange(mask.to(current), "f n -> f n 1")
    total = weight.sum(dim=1)
    moved = (weight * (current - reference)).sum(dim=1) / torch.where(total > 0, total, 1)
    return _masked_mean(moved.square(), total > 0)


def token_loss(
    reference: Float[Tensor, "f n c"], current: Float[Tensor, "f n c"], mask: Shaped[Tensor, "f n"]
) -> Float[Tensor, ""]:
    """The mean squared difference of keys, token by token, over the tokens of a mask.

    L_K as in the paper's equation (VideoDirector, Eq. 3), times `TOKEN_WEIGHT`, because the block
    weights are made for `frame_loss`. Mask values between 0 and 1 are weights. If the mask selects
    nothing, the loss is exactly 0, with a zero gradient.
    """
    squares = (current - reference).square()
    return TOKEN_WEIGHT * _masked_mean(squares, rearrange(mask, "f n -> f n 1"))


# How the keys of self-attention are compared.
LOOKS = MappingProxyType({"frame means": frame_loss, "token by token": token_loss})


def block_weight(block: int) -> float:
    """The factor of the losses at a layer of a decoder block.

    The authors give a weight for block 1 and one for block 2. Here earlier blocks have the weight
    of block 1, and later blocks that of block 2.
    """
    return BLOCK_WEIGHTS[0] if block <= 1 else BLOCK_WEIGHTS[1]


def guidance_loss(
    settings: GuidanceSettings,
    maps: Mapping[str, tuple[Float[Tensor, "p h f k"], Float[Tensor, "p h f k"]]],
    keys: Mapping[str, tuple[Float[Tensor, "f n c"], Float[Tensor, "f n c"]]],
    foreground: Mapping[int, Float[Tensor, "f _"]],
    weights: Mapping[str, float],
    pixels: int = PAPER_PIXELS,
) -> Float[Tensor, ""]:
    """The weighted sum of all four parts: its gradient is the guidance G (VideoDirector, Eq. 4).

    `maps` and `keys` hold (reference, current) for each layer. They are averaged over the layers,
    each with its factor in `weights`. `foreground` is the share of each token that the mask covers,
    by the number of tokens in a frame. In the authors' code a token is foreground or not.

    Deviation: multiplied by the clip's number of latent pixels (frames x height x width), divided
    by that of the paper's clips. The gradient of a mean becomes smaller in a larger clip; with this
    factor a coefficient moves each pixel equally far at every size and length.
    """
    parts = []
    for kind, loss, layers in (
        ("temporal", temporal_map_loss, maps),
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
    """Move the latents `z` after a step from `here` to `there` against the guidance G.

    G changes only the direction term of the step, where eps becomes eps - n_here G; the prediction
    of the clean clip keeps eps (VideoDirector, supplement; methods of MotionClone). So the step
    ends at z - strength n_there n_here G.
    """
    if guidance is None or strength == 0:
        return z
    return z - strength * there.noise * here.noise * guidance


def _masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """The mean of the values that a mask selects; 0, with a zero gradient, if it selects none."""
    weight = mask.to(values)
    # Broadcasting repeats each weight: count it as often.
    total = weight.sum() * (values.numel() / weight.numel())
    return (weight * values).sum() / torch.where(total > 0, total, torch.ones_like(total))
