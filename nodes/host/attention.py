"""Attention of the host's own transformers: how to change it, and how to get gradients."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import comfy.model_management
import torch
from einops import rearrange
from torch import Tensor, nn

from ...attention.dit.in_place import WritesAside, unchecked
from ...attention.dit.layers import TransformerLayers
from ...attention.dit.sites import family_of
from ...attention.layers import attend


def layers_of(patcher: Any) -> TransformerLayers | None:
    """The attention layers of a MODEL; None if its family is not known."""
    network = patcher.model.diffusion_model
    family = family_of(network)
    if family is None or patcher.model.latent_format.latent_dimensions == 2:
        return None  # pictures have no frames that attention could read together
    return TransformerLayers(network, family, partial(with_graph, patcher, again=True))


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
    if not named.get("skip_reshape", False):
        q, k, v = (rearrange(part, "b n (h d) -> b h n d", h=heads) for part in (q, k, v))
    if not layers.changing:
        read = attend(q, k, v, _bias(mask))
    else:
        read = layers.attention(attend, q, *_unmasked(k, v, mask))
    whole = named.get("skip_output_reshape", False)
    return read if whole else rearrange(read, "b h n d -> b n (h d)")


def _bias(mask: Tensor | None) -> Tensor | None:
    """A mask of the host's, of two to four dimensions, as a bias `[b, h, n, m]`, each side or 1."""
    if mask is None or mask.ndim == 4:
        return mask
    return mask[:, None] if mask.ndim == 3 else mask[None, None]


def _unmasked(k: Tensor, v: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Keys and values without those that nothing reads: what fills up a text that is short.

    Raises:
        ValueError: if the mask does anything else.
    """
    if mask is None:
        return k, v
    bias = _bias(mask)
    seen = bias if bias.dtype == torch.bool else bias == 0
    hidden = ~seen if bias.dtype == torch.bool else bias < torch.finfo(bias.dtype).min / 2
    if bias.shape[:3] != (1, 1, 1) or not bool((seen | hidden).all()):
        raise ValueError(
            "The model weighs what its attention reads, and ReScore looks only into attention that "
            "does not. Leave out guide frames, or self-similarity, fusion and other controls of "
            "attention."
        )
    return k[:, :, seen[0, 0, 0]], v[:, :, seen[0, 0, 0]]


@contextmanager
def with_graph(patcher: Any, again: bool = False) -> Iterator[None]:
    """Within the `with`, gradients can go through the network of a loaded MODEL.

    The host loads weights in inference mode, where they cannot be part of a graph. Here they are
    replaced by tensors that share their memory, and restored at the end. The host also avoids
    kernels without gradients. `again` is for the second run of a checkpointed block.

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
    family = family_of(network)
    writes = family is not None and family.in_place
    before = management.in_training
    try:
        for table, key, value in places:
            table[key] = _alias(value)
        management.in_training = True
        with (
            WritesAside() if writes else nullcontext(),
            # A second run hands what it saves to the first one.
            unchecked() if writes and not again else nullcontext(),
        ):
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
