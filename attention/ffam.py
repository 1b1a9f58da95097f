"""Fine-coarse frame attention (FFAM): a frame's own tokens, and coarse tokens of all others."""

import logging
from functools import cache

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

logger = logging.getLogger(__name__)


def fine_coarse_tokens(
    z: Float[Tensor, "b f n d"], height: int, width: int, ratio: int
) -> Float[Tensor, "b f m d"]:
    """For each frame, its own tokens, then the downsampled tokens of all others in time order.

    Implements z_FC of EI2 (Zhang et al., 2023, Eq. 10). The paper does not say how to downsample;
    here it is the mean over windows of `ratio` x `ratio` tokens. Windows at the edges may be
    smaller. So m = n + (f - 1) * ceil(height / ratio) * ceil(width / ratio). If `ratio` is larger
    than the map, each other frame becomes one token; the log says so once.

    Raises:
        ValueError: if n is not height * width, or `ratio` less than 1.
    """
    frames, tokens = z.shape[1:3]
    if tokens != height * width:
        raise ValueError(f"{tokens} tokens are no map of {height} x {width} tokens.")
    if ratio < 1:
        raise ValueError(f"The ratio is {ratio}; it must be 1 (no downsampling) or more.")
    if ratio > max(height, width):
        _log_fallback(height, width, ratio)
    coarse = _average_pooled(z, height, width, ratio)
    own_and_others = []
    for i in range(frames):
        others = torch.cat([coarse[:, :i], coarse[:, i + 1 :]], dim=1)
        others = rearrange(others, "b others k d -> b (others k) d")
        own_and_others.append(torch.cat([z[:, i], others], dim=1))
    return torch.stack(own_and_others, dim=1)


def _average_pooled(z: Tensor, height: int, width: int, ratio: int) -> Tensor:
    if ratio == 1:
        return z
    maps = rearrange(z, "b f (h w) d -> (b f) d h w", h=height, w=width)
    # With `ceil_mode`, a window at the edge is the mean of the tokens that it has, without padding.
    window = (min(ratio, height), min(ratio, width))
    pooled = functional.avg_pool2d(maps, window, ceil_mode=True)
    return rearrange(pooled, "(b f) d h w -> b f (h w) d", b=len(z))


@cache
def _log_fallback(height: int, width: int, ratio: int) -> None:
    logger.warning(
        "The ratio %d exceeds a layer's map of %d x %d tokens: there, every other frame is one "
        "coarse token.",
        ratio,
        height,
        width,
    )
