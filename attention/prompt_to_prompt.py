"""Cross-attention control: the words of the target keep the places of the source's words.

Mappings from the tokens of a source prompt to those of a target prompt (Prompt-to-Prompt, Hertz et
al., 2022, Sec. 3), and the change that applies them (VideoDirector, Wang et al., 2025, Eq. 7).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from .counterparts import Counterparts, Parts
from .layers import Clip, Entry, Held, Layer, Layers, attention_maps, check_times

Positions: TypeAlias = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class TokenMap:
    """How the attention maps of a target prompt are made from both prompts' maps.

    The new map is `weight * (own * target's map + (1 - own) * (source's map @ mapper))`.
    """

    mapper: Float[Tensor, "l l"]  # [i, j]: the share of source token i that target token j takes
    own: Float[Tensor, " l"]  # gamma: 1 where a token of the target keeps its own attention
    weight: Float[Tensor, " l"]  # C: the factor of each token's attention

    def __call__(
        self, source: Float[Tensor, "*b n s"], target: Float[Tensor, "*b n t"]
    ) -> Float[Tensor, "*b n t"]:
        """The controlled attention maps, after the softmax.

        Texts of `s` and `t` tokens that are shorter than the window lack its last tokens.
        """
        s, t = source.shape[-1], target.shape[-1]
        parts = self.mapper[:s, :t], self.own[:t], self.weight[:t]
        mapper, own, weight = (part.to(target) for part in parts)
        return weight * (own * target + (1 - own) * (source @ mapper))


def swap_mapper(source: Sequence[Positions], target: Sequence[Positions], length: int) -> TokenMap:
    """Swap words: each word of the target gets the attention of the source word at its place.

    `source` and `target` are the tokens of each word, in a window of `length` tokens. If two words
    have equally many tokens, these are mapped one to one. Otherwise the attention of the source
    word is shared evenly by the tokens of the target word. In both cases its sum stays the same.
    Tokens before, between and after the words are mapped in order. Swapping a prompt with itself
    changes nothing.

    Raises:
        ValueError: if the prompts have different numbers of words.
    """
    if len(source) != len(target):
        raise ValueError(
            f"The source prompt has {len(source)} words and the target prompt {len(target)}; words "
            "can be swapped only one for one. Use refine for prompts of different length."
        )
    mapper = torch.zeros(length, length, dtype=torch.float64)
    gap = 0, 0  # the first token after the words so far, in either prompt
    ends = ((length,), (length,))
    for old, new in [*zip(source, target, strict=True), ends]:
        _in_order(mapper, range(gap[0], old[0]), range(gap[1], new[0]))
        gap = old[-1] + 1, new[-1] + 1
        if old[0] == length:
            continue
        if len(old) == len(new):
            mapper[old, new] = 1
        else:
            mapper[torch.tensor(old)[:, None], torch.tensor(new)] = 1 / len(new)
    return TokenMap(mapper, _uncovered(mapper), torch.ones(length, dtype=torch.float64))


def refine_mapper(source: Sequence[str], target: Sequence[str], length: int) -> TokenMap:
    """Refine a prompt: tokens in both prompts get the source's attention, new ones keep their own.

    `source` and `target` are the tokens of the prompts, with start and end; their numbers may
    differ. They are aligned by their longest common subsequence (Needleman-Wunsch with match 1 and
    no cost for gaps, so that mismatches never occur).

    Deviation: padding is mapped in order. In the authors' code it is mapped by its place in the
    window, so that it gets the attention of words where the source prompt is longer.
    """
    mapper = torch.zeros(length, length, dtype=torch.float64)
    for i, j in _aligned(source, target):
        mapper[i, j] = 1
    _in_order(mapper, range(len(source), length), range(len(target), length))
    return TokenMap(mapper, _uncovered(mapper), torch.ones(length, dtype=torch.float64))


def reweighted(tokens: TokenMap, weights: Mapping[Positions, float]) -> TokenMap:
    """The same `TokenMap` with factors for the attention to some tokens of the target.

    Raises:
        ValueError: for a token outside the window, or a factor that is not finite.
    """
    weight = tokens.weight.clone()
    for positions, factor in weights.items():
        if not all(0 <= position < len(weight) for position in positions):
            raise ValueError(
                f"Tokens {list(positions)} do not lie in a text window of {len(weight)}."
            )
        if not abs(factor) < float("inf"):
            raise ValueError(f"A word's weight is {factor}; it must be a finite number.")
        weight[list(positions)] *= factor
    return TokenMap(tokens.mapper, tokens.own, weight)


def cross_control(pairs: Mapping[int, int], tokens: TokenMap) -> Counterparts:
    """Clips attend to their prompt with maps that `tokens` makes from their counterpart's maps.

    Maps are formed only for these clips and their counterparts, one layer at a time, in float32.
    """

    def read(layer: Layer, own: Parts, source: Parts, unchanged: Callable[[], Tensor]) -> Tensor:
        controlled = tokens(attention_maps(*source[:2]), attention_maps(*own[:2]))
        return controlled.to(own[2].dtype) @ own[2]

    return Counterparts(pairs, read)


@dataclass(frozen=True, eq=False)
class PromptControl:
    """Cross-attention control: until `end`, words keep their places in the source.

    Default: VideoDirector (Sec. 4); its tau_c is `end`.
    """

    tokens: TokenMap  # from the source prompt's tokens to the target's
    end: float = 0.8
    start: float = 0.0
    name: ClassVar[str] = "Prompt control"
    reads: ClassVar[tuple[str, ...]] = ("cond",)

    def __post_init__(self) -> None:
        check_times(self)

    def on(self, layers: Layers, clip: Clip) -> Held:
        """The control in all text cross-attention layers."""
        sites = layers.find("*", "cross")
        return lambda pairs, frames: Entry(sites, cross_control(pairs, self.tokens))


def _in_order(mapper: Tensor, source: range, target: range) -> None:
    """Map tokens one to one in order, until one of the ranges ends."""
    for i, j in zip(source, target, strict=False):
        mapper[i, j] = 1


def _uncovered(mapper: Float[Tensor, "l l"]) -> Float[Tensor, " l"]:
    """1 for the tokens of the target that no source token is mapped to."""
    return (mapper.sum(dim=0) == 0).to(mapper)


def _aligned(source: Sequence[str], target: Sequence[str]) -> list[tuple[int, int]]:
    """The longest list of pairs of equal tokens that keeps the order of both prompts.

    If there are several, the one that matches earlier tokens of the target.
    """
    rows, columns = len(source), len(target)
    best = [[0] * (columns + 1) for _ in range(rows + 1)]  # matches from (i, j) to the ends
    for i in reversed(range(rows)):
        for j in reversed(range(columns)):
            match = best[i + 1][j + 1] + 1 if source[i] == target[j] else 0
            best[i][j] = max(match, best[i + 1][j], best[i][j + 1])
    pairs, i, j = [], 0, 0
    while i < rows and j < columns:
        if source[i] == target[j] and best[i][j] == best[i + 1][j + 1] + 1:
            pairs.append((i, j))
            i, j = i + 1, j + 1
        elif best[i][j] == best[i + 1][j]:
            i += 1
        else:
            j += 1
    return pairs
