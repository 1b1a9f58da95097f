"""The two optimisers: AdamW, and Muon for what lies inside a network."""

from collections.abc import Iterable
from typing import Any, TypeAlias

import torch
from torch import nn

# The layers that read latents and time and that write the prediction: Muon is for what is between.
_OUTER = frozenset({"conv_in", "conv_out", "time_embedding"})


class Muon:
    """Muon (Jordan et al., 2024) for a network's inner matrices, AdamW for the rest of it.

    The momentum of a matrix is brought to singular values near 1 before it becomes a step: it goes
    as far where the loss is flat as where it is steep. The kernel of a convolution, `[o, i, ...]`,
    is a matrix `[o, i * ...]` here. Steps have the size that AdamW's usually have ("Muon is
    Scalable for LLM Training", Liu et al., 2025), so that one learning rate serves both.
    """

    def __init__(self, trained: nn.Module, learning_rate: float) -> None:
        learning = learning_parameters(trained)
        inner = {n for n, p in learning.items() if p.ndim > 1 and _OUTER.isdisjoint(n.split("."))}
        # PyTorch's takes nothing but matrices: views, which share their numbers.
        self._inner = [
            (p, p.detach().view(len(p), -1)) for name, p in learning.items() if name in inner
        ]
        self._muon = torch.optim.Muon(
            [matrix for _, matrix in self._inner],
            lr=learning_rate,
            weight_decay=0.01,
            adjust_lr_fn="match_rms_adamw",
        )
        rest = [p for name, p in learning.items() if name not in inner]
        self._adamw = _adamw(rest, learning_rate)

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return [*self._muon.param_groups, *self._adamw.param_groups]

    def step(self) -> None:
        for parameter, matrix in self._inner:
            gradient = parameter.grad
            matrix.grad = None if gradient is None else gradient.reshape(matrix.shape)
        self._muon.step()
        self._adamw.step()

    def state_dict(self) -> dict[str, Any]:
        return {"muon": self._muon.state_dict(), "adamw": self._adamw.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._muon.load_state_dict(state["muon"])
        self._adamw.load_state_dict(state["adamw"])


Optimiser: TypeAlias = torch.optim.AdamW | Muon


def adamw(trained: nn.Module, learning_rate: float) -> torch.optim.AdamW:
    """AdamW for all of a network."""
    return _adamw(learning_parameters(trained).values(), learning_rate)


def _adamw(parameters: Iterable[nn.Parameter], learning_rate: float) -> torch.optim.AdamW:
    return torch.optim.AdamW(parameters, lr=learning_rate, betas=(0.9, 0.99), weight_decay=1e-4)


def learning_parameters(trained: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters of a network that are not frozen, by name."""
    return {name: p for name, p in trained.named_parameters() if p.requires_grad}
