"""Words of a prompt, found among the tokens that the text encoder reads."""

import math
import re
from collections.abc import Sequence
from typing import TypeAlias

# Positions of tokens in the text window.
Positions: TypeAlias = tuple[int, ...]

_END_OF_WORD = "</w>"  # how a CLIP tokenizer marks the last token of a word
_SPECIAL = re.compile(r"<\|.*\|>")  # start and end of the text
_NO_LETTERS = re.compile(r"[\W_]+")


def words_of(tokens: Sequence[str]) -> list[tuple[str, Positions]]:
    """The words that tokens spell, in lower case and without punctuation, and where each stands.

    `tokens` are those of `encode_prompt`, from the start of the text to its end. A word may be
    several tokens; punctuation is none.
    """
    words: list[tuple[str, Positions]] = []
    letters, positions = "", []
    for position, token in enumerate(tokens):
        if _SPECIAL.fullmatch(token):
            continue
        letters += token.removesuffix(_END_OF_WORD)
        positions.append(position)
        if token.endswith(_END_OF_WORD):
            if word := _NO_LETTERS.sub("", letters).lower():
                words.append((word, tuple(positions)))
            letters, positions = "", []
    return words


def find_word(tokens: Sequence[str], wanted: str, cut: str = "") -> tuple[Positions, ...]:
    """Where a word, or several words in a row, stands in a prompt: each of its occurrences.

    Upper and lower case are the same, and punctuation is nothing, so "trees" is found in "trees,".
    `cut` is the end of the prompt that did not fit the text window.

    Raises:
        ValueError: if `wanted` holds no letters, or does not stand in the prompt; the message lists
            the words that do, and says if the word was cut off.
    """
    there = words_of(tokens)
    sought = [word for part in wanted.split() if (word := _NO_LETTERS.sub(" ", part).lower())]
    sought = " ".join(sought).split()
    if not sought:
        raise ValueError(f'"{wanted}" is no word. Give a word of the prompt, or several in a row.')
    found = [
        tuple(position for _, positions in there[i : i + len(sought)] for position in positions)
        for i in range(len(there) - len(sought) + 1)
        if [word for word, _ in there[i : i + len(sought)]] == sought
    ]
    if found:
        return tuple(found)
    listed = ", ".join(dict.fromkeys(word for word, _ in there)) or "none"
    beyond = " ".join(_NO_LETTERS.sub(" ", cut).lower().split())
    if f" {' '.join(sought)} " in f" {beyond} ":
        raise ValueError(
            f'"{wanted}" stands beyond the part of the prompt that the text encoder reads. Shorten '
            f"the prompt; the words it reads are: {listed}."
        )
    raise ValueError(f'"{wanted}" is not in the prompt. Its words are: {listed}.')


def parse_weights(text: str) -> dict[str, float]:
    """Words and their weights from lines such as "white: 2", or several on a line, by commas.

    Raises:
        ValueError: for anything else, and for a word that is given twice.
    """
    weights: dict[str, float] = {}
    for entry in filter(str.strip, re.split(r"[,;\n]", text)):
        word, _, number = (part.strip() for part in entry.rpartition(":"))
        try:
            weight = float(number)
        except ValueError:
            weight = math.nan
        if not word or not math.isfinite(weight):
            raise ValueError(
                f'"{entry.strip()}" is no weight of a word. Write the word, a colon and a number, '
                'such as "white: 2", one on each line.'
            )
        if word in weights:
            raise ValueError(f'"{word}" is given two weights. Keep one of them.')
        weights[word] = weight
    return weights
