"""A quick way to tell the weights of two models apart."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn


def pieces_of_weights(modules: Iterable[nn.Module]) -> Iterator[bytes]:
    """The names and shapes of all weights, and a few numbers of each."""
    for module in modules:
        yield repr([(n, tuple(p.shape)) for n, p in module.named_parameters()]).encode()
        samples = [_sample(parameter) for parameter in module.parameters()]
        yield torch.cat(samples).cpu().numpy().tobytes()


def _sample(parameter: Tensor) -> Tensor:
    flat = parameter.detach().flatten()
    return flat[:: max(1, flat.numel() // 8)][:8].float()  # fp8 mixes with no other format
