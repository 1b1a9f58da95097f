"""The way back through a model that may compute in half precision."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def pull_back(
    gradients: Sequence[Tensor], outputs: Sequence[Tensor], leaf: Tensor, *, keep: bool = False
) -> Tensor:
    """The gradient on `leaf` of given gradients on what was computed from it; `keep` its graph.

    Where losses average over a clip their gradients are tiny, and would vanish in float16: they go
    through the model enlarged to a size around 1, by a power of two, so that nothing is rounded.
    """
    largest = max((float(gradient.abs().max()) for gradient in gradients), default=0.0)
    if largest == 0:
        return torch.zeros_like(leaf)
    # What is not finite stays so, for the caller to tell.
    scale = 2.0 ** -math.frexp(largest)[1] if math.isfinite(largest) else 1.0
    with torch.inference_mode(False):
        scaled = [
            (scale * gradient).to(output.dtype)
            for gradient, output in zip(gradients, outputs, strict=True)
        ]
        (gradient,) = torch.autograd.grad(outputs, leaf, scaled, retain_graph=keep)
    return gradient / scale
