"""The two optimisers: AdamW, and Muon for what lies inside a network."""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any, TypeAlias

import torch
from einops import rearrange
from torch import Tensor, nn

# The layers that read latents, text and time and that write the prediction: Muon is for what is
# between. A Wan's tables of shifts and scales are no matrices.
_OUTER = frozenset({"conv_in", "conv_out", "time_embedding"})
_OUTER |= {"patch_embedding", "condition_embedder", "scale_shift_table"}
_MOMENTUM, _DECAY = 0.95, 0.01
_STEPS, _SERIES = 5, (3.4445, -4.7750, 2.0315)  # of the Newton-Schulz iteration


class Muon:
    """Muon (Jordan et al., 2024) for a network's inner matrices, AdamW for the rest of it.

    The momentum of a matrix is brought to singular values near 1 before it becomes a step: it goes
    as far where the loss is flat as where it is steep. The kernel of a convolution, `[o, i, ...]`,
    is a matrix `[o, i * ...]` here. Steps have the size that AdamW's usually have ("Muon is
    Scalable for LLM Training", Liu et al., 2025), so that one learning rate serves both. Steps are
    those of `torch.optim.Muon`, which takes one matrix at a time; here all of a shape go at once,
    since a graphics card spends more on starting a small product than on computing it.
    """

    def __init__(self, trained: nn.Module, learning_rate: float) -> None:
        learning = learning_parameters(trained)
        inner = {name for name, p in learning.items() if is_inner(name, p)}
        self._inner = [p for name, p in learning.items() if name in inner]
        self._momenta = [torch.zeros_like(p.detach().view(len(p), -1)) for p in self._inner]
        self._group: dict[str, Any] = {"lr": learning_rate}
        rest = [p for name, p in learning.items() if name not in inner]
        self._adamw = _adamw(rest, learning_rate)

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return [self._group, *self._adamw.param_groups]

    @torch.no_grad()
    def step(self) -> None:
        pairs = zip(self._inner, self._momenta, strict=True)
        learning = [(p, momentum) for p, momentum in pairs if p.grad is not None]
        matrices = [p.detach().view(len(p), -1) for p, _ in learning]
        gradients = [p.grad.reshape(len(p), -1) for p, _ in learning]
        momenta = [momentum for _, momentum in learning]
        torch._foreach_lerp_(momenta, gradients, 1 - _MOMENTUM)
        torch._foreach_lerp_(gradients, momenta, _MOMENTUM)  # Nesterov's look ahead
        torch._foreach_mul_(matrices, 1 - self._group["lr"] * _DECAY)
        alike = defaultdict(list)
        for matrix, direction in zip(matrices, gradients, strict=True):
            alike[matrix.shape].append((matrix, direction))
        for shape, pairs in alike.items():
            these, directions = zip(*pairs, strict=True)
            steps = _orthogonal(torch.stack(directions)).to(these[0].dtype).unbind()
            rate = self._group["lr"] * 0.2 * max(shape) ** 0.5
            torch._foreach_add_(these, steps, alpha=-rate)
        self._adamw.step()

    def state_dict(self) -> dict[str, Any]:
        muon = {"momenta": self._momenta, "group": self._group}
        return {"muon": muon, "adamw": self._adamw.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        torch._foreach_copy_(self._momenta, state["muon"]["momenta"])
        self._group.update(state["muon"]["group"])
        self._adamw.load_state_dict(state["adamw"])


Optimiser: TypeAlias = torch.optim.AdamW | Muon


def is_inner(name: str, parameter: nn.Parameter) -> bool:
    """Whether Muon steps a parameter: a matrix inside the network, not a vector in disguise."""
    parts = name.split(".")
    # What writes the prediction of a Wan is called as the ends of a UNet's attention blocks are.
    outer = parts[0] == "proj_out" or not _OUTER.isdisjoint(parts)
    return not outer and parameter.ndim > 1 and parameter.numel() > len(parameter)


def _orthogonal(matrices: Tensor) -> Tensor:
    """Matrices `[n, a, b]` with the same singular vectors, and singular values near 1."""
    wide = matrices.shape[1] <= matrices.shape[2]
    x = matrices.bfloat16() if wide else rearrange(matrices.bfloat16(), "n a b -> n b a")
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    first, third, fifth = _SERIES
    for _ in range(_STEPS):
        square = x @ x.mT
        x = first * x + (third * square + fifth * square @ square) @ x
    return x if wide else x.mT


def adamw(trained: nn.Module, learning_rate: float) -> torch.optim.AdamW:
    """AdamW for all of a network."""
    return _adamw(learning_parameters(trained).values(), learning_rate)


def _adamw(parameters: Iterable[nn.Parameter], learning_rate: float) -> torch.optim.AdamW:
    return torch.optim.AdamW(parameters, lr=learning_rate, betas=(0.9, 0.99), weight_decay=1e-4)


def learning_parameters(trained: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters of a network that are not frozen, by name."""
    return {name: p for name, p in trained.named_parameters() if p.requires_grad}
