"""Weights stored in 8 bits, or in main memory, and made whole for each call of their layer."""

from collections.abc import Iterator

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
    for layer in list(_layers(network)):
        scale = _scale(layer.weight.detach())
        stored = (layer.weight.detach() / scale).clamp(-_LARGEST, _LARGEST).to(FORMAT)
        layer.weight = nn.Parameter(stored, requires_grad=False)
        parametrize.register_parametrization(layer, "weight", _Whole(scale), unsafe=True)


@torch.inference_mode(False)
def keep_apart(network: nn.Module, device: torch.device | str) -> None:
    """Compute on a device that has no room for the network: its layers are moved one by one.

    The weights of linear layers and convolutions stay where they are, and are copied to the device
    for the length of their layer's call; all else moves there. Values and gradients are the same.
    """
    stays = set()
    for layer in list(_layers(network)):
        if not any(isinstance(part, _Moved) for part in _ways(layer)):
            parametrize.register_parametrization(layer, "weight", _Moved(), unsafe=True)
        _ways(layer)[-1].device = torch.device(device)
        stays |= {id(tensor) for tensor in layer.parametrizations.weight.parameters()}
        stays |= {id(tensor) for tensor in layer.parametrizations.weight.buffers()}
    for module in network.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if id(parameter) not in stays:
                setattr(module, name, nn.Parameter(parameter.to(device), requires_grad=False))
        for name, buffer in module.named_buffers(recurse=False):
            if id(buffer) not in stays:
                setattr(module, name, buffer.to(device))


def put_together(network: nn.Module) -> None:
    """Take back `keep_apart`: weights are used where they are."""
    for layer in _layers(network):
        for part in _ways(layer):
            if isinstance(part, _Moved):
                part.device = None


def is_in_fp8(network: nn.Module) -> bool:
    """Whether weights of a network are stored in 8 bits."""
    return any(isinstance(part, _Whole) for layer in _layers(network) for part in _ways(layer))


@torch.inference_mode(False)
@torch.no_grad()
def whole_weights(network: nn.Module) -> dict[str, Tensor]:
    """The state of a network as if it were not stored in 8 bits or kept apart: names and values."""
    state = network.state_dict()
    weights = {name: state[name] for name in state if ".parametrizations." not in name}
    for name, layer in network.named_modules():
        if ways := _ways(layer):
            weight = layer.parametrizations.weight.original.detach()
            for part in ways:
                weight = part(weight) if isinstance(part, _Whole) else weight
            weights[f"{name}.weight"] = weight
    return weights


def _layers(network: nn.Module) -> Iterator[nn.Module]:
    """The layers that hold most of a network's weights."""
    for name, layer in network.named_modules():
        if isinstance(layer, nn.Linear | nn.modules.conv._ConvNd) and not any(
            part in name for part in _WHOLE
        ):
            yield layer


def _ways(layer: nn.Module) -> list[nn.Module]:
    """What is done to the stored weight of a layer, in order."""
    return list(layer.parametrizations.weight) if parametrize.is_parametrized(layer) else []


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


class _Moved(nn.Module):
    """A weight on the device on which its layer computes; without one, where it is."""

    device: torch.device | None = None

    def forward(self, stored: Tensor) -> Tensor:
        return stored if self.device is None else stored.to(self.device)
