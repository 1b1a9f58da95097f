"""Attention of the host's own transformers: how to change it, and how to get gradients."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import comfy.model_management
import torch
from einops import rearrange
from torch import Tensor, nn

from ...attention.dit.layers import TransformerLayers
from ...attention.dit.sites import family_of
from ...attention.layers import attend


def layers_of(patcher: Any) -> TransformerLayers | None:
    """The attention layers of a MODEL; None if its family is not known."""
    network = patcher.model.diffusion_model
    family = family_of(network)
    if family is None:
        return None
    return TransformerLayers(network, family, partial(with_graph, patcher))


def watched(options: dict[str, Any], layers: TransformerLayers) -> dict[str, Any]:
    """Model options with an attention override that calls `layers`, or the override before it."""
    inner = options.get("transformer_options", {})
    before = inner.get("optimized_attention_override")
    override = partial(_attention, layers, before)
    return {**options, "transformer_options": {**inner, "optimized_attention_override": override}}


def _attention(
    layers: TransformerLayers,
    before: Callable[..., Tensor] | None,
    kernel: Callable[..., Tensor],
    q: Tensor,
    k: Tensor,
    v: Tensor,
    heads: int,
    mask: Tensor | None = None,
    **named: Any,
) -> Tensor:
    """The attention override: calls the host's `kernel` if nothing changes the layer."""
    with_graph = torch.is_grad_enabled() and q.requires_grad
    if not (layers.changing or with_graph):
        call = kernel if before is None else partial(before, kernel)
        return call(q, k, v, heads, mask=mask, **named)
    if mask is not None:
        raise ValueError(
            "The model masks its attention, and ReScore looks only into attention without a mask. "
            "Leave out self-similarity, fusion and other controls of attention."
        )
    if not named.get("skip_reshape", False):
        q, k, v = (rearrange(part, "b n (h d) -> b h n d", h=heads) for part in (q, k, v))
    read = layers.attention(attend, q, k, v)
    whole = named.get("skip_output_reshape", False)
    return read if whole else rearrange(read, "b h n d -> b n (h d)")


@contextmanager
def with_graph(patcher: Any) -> Iterator[None]:
    """Within the `with`, gradients can go through the network of a loaded MODEL.

    The host loads weights in inference mode, where they cannot be part of a graph. Here they are
    replaced by tensors that share their memory, and restored at the end. The host also avoids
    kernels without gradients.

    Raises:
        ValueError: if the host is too old, or the weights are quantised.
    """
    management, network = comfy.model_management, patcher.model.diffusion_model
    name = type(patcher.model).__name__
    if not hasattr(management, "in_training"):
        raise ValueError(
            f"Gradients through {name} need ComfyUI 0.14 or later. Update it, or leave out terms "
            "that compare keys, such as self-similarity."
        )
    places = [
        (table, key, value)
        for module in network.modules()
        for table in (module._parameters, module._buffers)
        for key, value in table.items()
        if value is not None and value.is_inference()
    ]
    if any(type(value) not in (nn.Parameter, Tensor) for _, _, value in places):
        raise ValueError(
            f"The weights of {name} are quantised, and no gradient goes through them. Load the "
            "model in bf16 or fp16, or leave out terms that compare keys, such as self-similarity."
        )
    before = management.in_training
    try:
        for table, key, value in places:
            table[key] = _alias(value)
        management.in_training = True
        yield
    finally:
        management.in_training = before
        for table, key, value in places:
            table[key] = value


@torch.inference_mode(False)
def _alias(value: Tensor) -> Tensor:
    alias = torch.empty(0, dtype=value.dtype, device=value.device)
    alias.set_(value.untyped_storage(), value.storage_offset(), value.size(), value.stride())
    is_weight = isinstance(value, nn.Parameter)
    return nn.Parameter(alias, requires_grad=False) if is_weight else alias
