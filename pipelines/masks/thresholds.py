"""From a map of values to a mask: smoothing and thresholds."""

import math
from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Float
from kornia.filters import gaussian_blur2d
from torch import Tensor
from torch.nn import functional

METHODS = ("level", "otsu", "quantile")


@dataclass(frozen=True)
class Threshold:
    """How the threshold of a map is found: values above it become white."""

    method: str = "level"  # one of METHODS
    level: float = 0.5  # for "level": the position between the smallest and the largest value
    quantile: float = 0.9  # for "quantile": the share of places that stays black
    per_frame: bool = False  # a threshold for each frame, or one for the whole clip

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"There is no threshold {self.method!r}; choose {', '.join(METHODS)}.")
        for name, share in (("level", self.level), ("quantile", self.quantile)):
            if not 0 <= share <= 1:
                raise ValueError(f"The {name} is {share}; it must lie within 0..1.")

    def __call__(self, values: Float[Tensor, "f h w"]) -> Float[Tensor, "f h w"]:
        """The mask of a map, 0 or 1.

        Raises:
            ValueError: if the map is the same everywhere, or not finite.
        """
        if not bool(torch.isfinite(values).all()):
            raise ValueError("The map that is to become a mask holds NaN or infinite values.")
        if float(values.min()) == float(values.max()):
            raise ValueError(
                "The map that is to become a mask is the same everywhere, so there is nothing to "
                "cut out. Source and target prompt may be equal, or no term acts."
            )
        if self.per_frame:
            return torch.stack([self._cut(frame) for frame in values])
        return self._cut(values)

    def _cut(self, values: Tensor) -> Tensor:
        """The mask of one frame or of all frames. A constant map gives no white."""
        low, high = float(values.min()), float(values.max())
        if self.method == "otsu":
            at = otsu(values)
        elif self.method == "quantile":
            at = quantile(values, self.quantile)
        else:
            at = low + self.level * (high - low)
        return (values > at).float()


def otsu(values: Float[Tensor, "..."]) -> float:
    """Otsu's threshold (1979): the split in two classes with the largest variance between them.

    Exact, without a histogram: it tries all splits, and lies halfway between two neighbouring
    values. If all values are equal, it is that value.
    """
    ordered = values.flatten().double().sort().values
    count = len(ordered)
    if count < 2 or ordered[0] == ordered[-1]:
        return float(ordered[-1])
    below = torch.arange(1, count, dtype=torch.float64, device=ordered.device)
    sums = ordered.cumsum(dim=0)
    means = sums[:-1] / below, (sums[-1] - sums[:-1]) / (count - below)
    between = below * (count - below) * (means[0] - means[1]).square()
    # There is no split between equal values.
    between = torch.where(ordered[1:] > ordered[:-1], between, -1)
    cut = int(between.argmax())
    return float((ordered[cut] + ordered[cut + 1]) / 2)


def quantile(values: Float[Tensor, "..."], share: float) -> float:
    """The smallest value for which at least `share` of all values are not above it.

    For share 0 it is below all values. Unlike `torch.quantile`, it takes any number of values.
    """
    ordered = values.flatten().double().sort().values
    rank = math.ceil(share * len(ordered))
    return float(ordered[rank - 1]) if rank else -math.inf


def smoothed(values: Float[Tensor, "f h w"], radius: float | int) -> Float[Tensor, "f h w"]:
    """A Gaussian blur of each frame, with standard deviation `radius` in cells; none for 0."""
    if radius <= 0:
        return values
    reach = math.ceil(3 * radius)
    padded = functional.pad(rearrange(values, "f h w -> f 1 h w"), (reach,) * 4, mode="replicate")
    size = 2 * reach + 1
    blurred = gaussian_blur2d(padded, (size, size), (radius, radius), border_type="constant")
    return rearrange(blurred[..., reach:-reach, reach:-reach], "f 1 h w -> f h w")
