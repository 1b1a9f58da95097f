"""What a loop holds of a model: the noise it sees, and the text it is given."""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

from jaxtyping import Float
from torch import Tensor

from .schedule import Latents

EpsTheta: TypeAlias = Callable[[Latents, int, Float[Tensor, "b l d"]], Latents]


class Prompts(NamedTuple):
    """Text embeddings of an edit, each `[1, l, d]`."""

    source: Float[Tensor, "1 l d"]
    target: Float[Tensor, "1 l d"]
    negative: Float[Tensor, "1 l d"]
