"""A quick way to tell the weights of two models apart."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn


def pieces_of_weights(modules: Iterable[nn.Module]) -> Iterator[bytes]:
    """The names and shapes of all weights, a few numbers of each, and the sums of their bits.

    A weight that differs in a single number has another sum.
    """
    for module in modules:
        yield repr([(n, tuple(p.shape)) for n, p in module.named_parameters()]).encode()
        samples = [sample(parameter) for parameter in module.parameters()]
        yield torch.cat(samples).cpu().numpy().tobytes()
        sums = [_sum_of_bits(parameter).cpu() for parameter in module.parameters()]
        yield torch.stack(sums).numpy().tobytes()


def sample(parameter: Tensor) -> Tensor:
    """Eight numbers of a weight, or all of a smaller one."""
    flat = parameter.detach().flatten()
    return flat[:: max(1, flat.numel() // 8)][:8].float()  # fp8 mixes with no other format


def _sum_of_bits(parameter: Tensor) -> Tensor:
    """The sum of a weight's numbers, read as whole numbers: exact, in any order."""
    whole = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    flat = parameter.detach().flatten()
    return flat.view(whole[flat.element_size()]).sum(dtype=torch.int64)
