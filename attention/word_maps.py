"""Where a picture attends to some tokens of its prompt, from text cross-attention."""

from collections.abc import Sequence
from functools import partial

from jaxtyping import Float
from torch import Tensor

from .recording import Take


def take_attention_to(positions: Sequence[int]) -> Take:
    """For a `Recorder`: the attention of each place to the tokens at `positions`."""
    return partial(_attention_to, tuple(positions))


def _attention_to(
    positions: tuple[int, ...],
    q: Float[Tensor, "s h n d"],
    k: Float[Tensor, "s h l d"],
    v: Float[Tensor, "s h l d"],
) -> Float[Tensor, "s n"]:
    """The sum of the attention to these tokens, 0..1, averaged over heads, in float32.

    It is computed one head at a time, because the maps of a fine layer need much memory.
    """
    heads = q.shape[1]
    total = q.new_zeros(q.shape[0], q.shape[2]).float()
    for head in range(heads):
        scores = q[:, head].float() @ k[:, head].float().mT * q.shape[-1] ** -0.5
        total = total + scores.softmax(dim=-1)[..., list(positions)].sum(dim=-1)
    return total / heads
