"""Weights stored in 8 bits, and computed in the precision they had."""

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

FORMAT = torch.float8_e4m3fn
_LARGEST = torch.finfo(FORMAT).max
# Parts of names: small layers, at the ends of a network, whose errors go everywhere.
_WHOLE = ("conv_in", "conv_out", "embed", "norm", "proj_out")


@torch.inference_mode(False)
def store_in_fp8(network: nn.Module) -> None:
    """Store the weights of a network's linear layers and convolutions in 8 bits (e4m3).

    Each output channel has a scale of its own, so that its largest weight is the format's largest
    number. A weight becomes whole for the length of its layer's call, so that gradients work, and
    layers that are run again for them. The first, the last and embedding layers stay as they are.
    """
    for name, layer in list(network.named_modules()):
        if isinstance(layer, nn.Linear | nn.modules.conv._ConvNd) and not any(
            part in name for part in _WHOLE
        ):
            scale = _scale(layer.weight.detach())
            stored = (layer.weight.detach() / scale).clamp(-_LARGEST, _LARGEST).to(FORMAT)
            layer.weight = nn.Parameter(stored, requires_grad=False)
            parametrize.register_parametrization(layer, "weight", _Whole(scale), unsafe=True)


def _scale(weight: Tensor) -> Tensor:
    largest = weight.abs().amax(dim=tuple(range(1, weight.ndim)), keepdim=True)
    return (largest / _LARGEST).clamp(min=torch.finfo(weight.dtype).tiny)


class _Whole(nn.Module):
    """A weight as its layer computes with it, of what is stored."""

    scale: Tensor

    def __init__(self, scale: Tensor) -> None:
        super().__init__()
        self.register_buffer("scale", scale)

    def forward(self, stored: Tensor) -> Tensor:
        return stored.to(self.scale.dtype) * self.scale
