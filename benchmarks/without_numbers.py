"""Runs the pack's loops on tensors that have a size and no numbers, torch's device "meta"."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves


class _WithoutNumbers(TorchDispatchMode):
    """Lets work run on meta tensors as on a card's: what it asks of their numbers is made up.

    Every number read is 1, every condition true, and no two tensors are equal. What goes on on the
    CPU is out of sight of the modes around this one, for it takes nothing of the card.
    """

    def __torch_dispatch__(self, func, types, args=(), kwargs=None) -> Any:
        kwargs = kwargs or {}
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        to_meta = torch.device(kwargs.get("device") or "cpu").type == "meta"
        if not any(tensor.is_meta for tensor in given):
            with nullcontext() if to_meta else _disable_current_modes():
                return func(*args, **kwargs)
        if func is torch.ops.aten._local_scalar_dense.default:
            return torch.ones((), dtype=args[0].dtype).item()
        if func is torch.ops.aten.equal.default:
            return False
        if func is torch.ops.aten.copy_.default and not args[0].is_meta:
            return args[0]
        if func is torch.ops.aten._to_copy.default and kwargs.get("device") and not to_meta:
            with _disable_current_modes():
                dtype = kwargs.get("dtype") or args[0].dtype
                return torch.zeros(args[0].shape, dtype=dtype)
        return func(*args, **kwargs)


def _fused_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,  # which changes nothing where all have as many heads
) -> Tensor:
    """Attention on meta tensors as a fused kernel does it, which keeps no maps.

    By itself torch takes the plain formula there. The CPU's kernel stands for all: like the card's
    it makes the output and a logarithm per query, and keeps these and its inputs for the gradient.
    """
    kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    return kernel(query, key, value, dropout_p, is_causal, attn_mask=attn_mask, scale=scale)[0]


@contextmanager
def on_meta() -> Iterator[None]:
    """Within the `with`, loops run on meta tensors, along the same way as on numbers."""
    with (
        _WithoutNumbers(),
        mock.patch.object(functional, "scaled_dot_product_attention", _fused_attention),
        # It knows no such device; no step here leaves casting to it.
        mock.patch.object(torch, "autocast", lambda *_, **__: nullcontext()),
    ):
        yield
