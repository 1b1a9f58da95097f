"""Covariate shift: how much temporal modules change the mean and the covariance of features."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..models.denoiser import Denoiser
from ..models.process import Latents, Level, noised


@dataclass(frozen=True)
class LayerShift:
    """How one module changes the statistics of features, over all positions, clips and timesteps.

    At one position, mu and Sigma are the mean and the covariance of the features over the frames
    before the module, mu' and Sigma' those after it (EI2, Zhang et al., 2023, Prop. 1 and Eq. 5).
    """

    name: str
    mean_shift: float  # |mu' - mu| / |mu|
    variance_ratio: float  # tr Sigma' / tr Sigma
    covariance_shift: float  # |Sigma' - Sigma| / |Sigma|, Frobenius norms; 1 is Eq. 7's bound

    @property
    def label(self) -> str:
        """A short name for the module's place in the UNet: `down 0.1`, `mid 0`, `up 2.0`."""
        place = re.match(r"(down|mid|up)_blocks?\.(?:(\d+)\.)?attentions\.(\d+)", self.name)
        if place is None:
            return self.name
        return f"{place[1]} {'.'.join(part for part in place.groups()[1:] if part)}"


class _Sums:
    """Sums over positions and calls of the squared norms of means and covariances."""

    def __init__(self) -> None:
        self.mean = self.moved = self.trace = self.trace_after = 0.0
        self.norm = self.norm_after = self.inner = 0.0

    def add(self, before: Tensor, after: Tensor) -> None:
        before, after = before.detach().double(), after.detach().double()
        frames = before.shape[-2]
        mu, mu_after = before.mean(-2, keepdim=True), after.mean(-2, keepdim=True)
        self.mean += mu.square().sum().item()
        self.moved += (mu_after - mu).square().sum().item()
        x, y = before - mu, after - mu_after
        # <X^T X, Y^T Y> = |X Y^T|^2: f x f matrices instead of d x d.
        self.norm += (x @ x.mT / frames).square().sum().item()
        self.norm_after += (y @ y.mT / frames).square().sum().item()
        self.inner += (x @ y.mT / frames).square().sum().item()
        self.trace += x.square().sum().item()
        self.trace_after += y.square().sum().item()

    def shift(self, name: str) -> LayerShift:
        difference = max(self.norm + self.norm_after - 2 * self.inner, 0.0)
        return LayerShift(
            name,
            mean_shift=_share(self.moved, self.mean) ** 0.5,
            variance_ratio=_share(self.trace_after, self.trace) if self.trace else 1.0,
            covariance_shift=_share(difference, self.norm) ** 0.5,
        )


@torch.no_grad()
def covariate_shift(
    layers: Mapping[str, nn.Module],
    denoiser: Denoiser,
    z_0: Latents,
    cond: Float[Tensor, "b l d"],
    levels: Sequence[Level],
    *,
    seed: int = 0,
    on_step: Callable[[int], None] | None = None,
) -> tuple[LayerShift, ...]:
    """The shift of every module in `layers` during predictions, in the order in which they run.

    Each module takes and returns features `[..., f, d]`. The model predicts once at each of
    `levels`. The modules are only observed, by hooks that are removed at the end.

    Raises:
        ValueError: without layers, or if the model uses none of them.
    """
    if not layers:
        raise ValueError(
            "The model has no modules along time to look at. Inflate an image model with a variant "
            "that adds them."
        )
    sums: dict[str, _Sums] = {}

    def watching(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        return lambda _, inputs, output: sums.setdefault(name, _Sums()).add(inputs[0], output)

    watches = [layer.register_forward_hook(watching(name)) for name, layer in layers.items()]
    generator = torch.Generator().manual_seed(seed)
    try:
        for done, level in enumerate(levels, start=1):
            noise = torch.randn(z_0.shape, generator=generator, dtype=z_0.dtype).to(z_0.device)
            denoiser(noised(z_0, noise, level), level, cond)
            if on_step is not None:
                on_step(done)
    finally:
        for watch in watches:
            watch.remove()
    if not sums:
        raise ValueError("The model ran without any of the modules that were to be looked at.")
    return tuple(found.shift(name) for name, found in sums.items())


def shift_table(shifts: Mapping[str, Sequence[LayerShift]]) -> str:
    """The shifts of several models as text: a line for each layer, and their mean."""
    lines = []
    for model, layers in shifts.items():
        lines.append(f"{model}: shift of the mean, ratio of variances, shift of the covariance")
        rows = [(s.label, s.mean_shift, s.variance_ratio, s.covariance_shift) for s in layers]
        columns = zip(*(row[1:] for row in rows), strict=True)
        rows.append(("mean", *(sum(column) / len(column) for column in columns)))
        lines += [f"  {label:<10} {m:9.4f} {v:9.4f} {c:9.4f}" for label, m, v, c in rows]
    return "\n".join(lines)


def _share(part: float, whole: float) -> float:
    """part / whole; 0 if both are 0."""
    return part / whole if whole else (float("inf") if part else 0.0)
