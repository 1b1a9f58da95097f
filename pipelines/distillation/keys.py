"""Losses on what the model's attention layers see, as what a term gives back."""

from collections.abc import Callable
from fnmatch import fnmatchcase

import torch
from torch import Tensor

from .terms import Predictions, Result

# The keys of every spatial self-attention layer in the decoder.
DECODER = "up_blocks.*.attentions.*.attn1"


def loss_on_keys(
    predictions: Predictions, sites: str, loss: Callable[[Tensor, Tensor], Tensor]
) -> Result:
    """A loss of the target's keys beside the source's, and its gradient on the target's.

    `loss` takes the keys of one clip at one layer, `[f, n, c]`, of the source and of the target. It
    is averaged over the layers whose names match one of the patterns in `sites` (separated by
    blanks or commas). Clips of a batch do not know each other; the number is their mean.
    """
    patterns = sites.replace(",", " ").split()
    chosen = [
        name
        for name in predictions.keys_target
        if any(fnmatchcase(name, pattern) for pattern in patterns)
    ]
    on_keys, total = {}, 0.0
    for name in chosen:
        with torch.inference_mode(False), torch.enable_grad():
            source = predictions.keys_source[name].clone()
            target = predictions.keys_target[name].clone().requires_grad_()
            losses = torch.stack([loss(*pair) for pair in zip(source, target, strict=True)])
            (gradient,) = torch.autograd.grad(losses.sum() / len(chosen), target)
        on_keys[name] = gradient
        total += float(losses.detach().mean()) / len(chosen)
    return Result(None, total, on_keys)
