"""Where a picture attends to some tokens of its prompt: maps of text cross-attention."""

from collections.abc import Sequence
from functools import partial

from jaxtyping import Float
from torch import Tensor

from .recording import Take


def take_attention_to(positions: Sequence[int]) -> Take:
    """Keeps the attention that each place pays to the tokens at `positions`, for a `Recorder`."""
    return partial(_attention_to, tuple(positions))


def _attention_to(
    positions: tuple[int, ...],
    q: Float[Tensor, "s h n d"],
    k: Float[Tensor, "s h l d"],
    v: Float[Tensor, "s h l d"],
) -> Float[Tensor, "s n"]:
    """The attention to all the tokens together, 0..1, averaged over heads.

    One head at a time, in float32: the maps to all tokens of a fine layer take much memory.
    """
    heads = q.shape[1]
    total = q.new_zeros(q.shape[0], q.shape[2]).float()
    for head in range(heads):
        scores = q[:, head].float() @ k[:, head].float().mT * q.shape[-1] ** -0.5
        total = total + scores.softmax(dim=-1)[..., list(positions)].sum(dim=-1)
    return total / heads
