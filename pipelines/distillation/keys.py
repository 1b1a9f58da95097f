"""Losses on what the model's attention layers see, as what a term gives back."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ..models.process import Latents
from .terms import Predictions, Result


def loss_on_keys(
    predictions: Predictions, loss: Callable[[Tensor, Tensor], Tensor], z: Latents
) -> Result:
    """A loss of the target's keys beside the source's, and its gradient on the target's.

    `loss` takes the keys of one clip at one layer, `[f, n, c]`, of the source and of the target. It
    is averaged over the layers. Clips of a batch do not know each other; the number is their mean.

    Deviation: the gradient is that of the loss times the number of latent pixels (frames x height x
    width) of the edited latents `z`. What averages over a clip moves each of its latents the less,
    the larger the clip is; what delta denoising does to a latent does not. So a weight weighs the
    two alike at every size and length.
    """
    on_keys, total, count = {}, 0.0, len(predictions.keys_target)
    scale = math.prod(z.shape[2:]) / count
    for name, keys in predictions.keys_target.items():
        with torch.inference_mode(False), torch.enable_grad():
            source = predictions.keys_source[name].clone()
            target = keys.clone().requires_grad_()
            losses = torch.stack([loss(*pair) for pair in zip(source, target, strict=True)])
            (gradient,) = torch.autograd.grad(scale * losses.sum(), target)
        on_keys[name] = gradient
        total += float(losses.detach().mean()) / count
    return Result(None, total, on_keys)
