"""Words of a prompt, and the tokens that the text encoder reads for each."""

import math
import re
import unicodedata
from typing import TypeAlias

from .text import EncodedPrompt

# Positions of tokens in the text window.
Positions: TypeAlias = tuple[int, ...]

# Scripts without spaces between words: Thai and Lao, Burmese, Khmer, pictures, kana and Chinese
# characters. A word may begin and end anywhere among these.
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2190-\u2bff\u3005-\u30ff\u3400-\u9fff\uf900-\ufaff"
    "\U0001f000-\U0003ffff"
)
_JOINERS = "\u200c\u200d"  # which join several emoji to one, or keep letters apart in a word
_SKIN = "\U0001f3fb\U0001f3fc\U0001f3fd\U0001f3fe\U0001f3ff"  # colours of an emoji
_BREAK = "\u200b"  # parts words without a space
_LETTERS_I = {ord("\u0131"): "i", ord("\u0307"): None}  # without a dot, and a dot by itself
_BEGIN, _END = f"(?<![^ {_UNSPACED}])", f"(?![^ {_UNSPACED}])"


def words_of(prompt: EncodedPrompt) -> list[tuple[str, Positions]]:
    """The words of a prompt that the text encoder reads, in lower case, and the tokens of each.

    Words are separated by spaces and punctuation. A word can be several tokens, such as "1990s".
    """
    letters = _letters(prompt.text)
    return [
        (found[0], _tokens(prompt, letters, *found.span()))
        for found in re.finditer(r"\S+", letters)
        if found.end() <= _read(prompt) and _folded(found[0])[0]
    ]


def find_word(prompt: EncodedPrompt, wanted: str) -> tuple[Positions, ...]:
    """The tokens of each place where a word, or several words in a row, stands in a prompt.

    Upper and lower case are the same, and punctuation is ignored: "trees" is found in "trees,".

    Raises:
        ValueError: if `wanted` has no letters or is not in the prompt. The message lists the words
            that are, and says if the word was cut off.
    """
    sought = _folded(wanted)[0].split()
    if not sought:
        raise ValueError(f'"{wanted}" is no word. Give a word of the prompt, or several in a row.')
    pattern = " +".join(map(re.escape, sought))
    begin, end = (
        "" if re.match(f"[{_UNSPACED}]", letter) else edge
        for letter, edge in ((sought[0][0], _BEGIN), (sought[-1][-1], _END))
    )
    letters, (folded, at) = _letters(prompt.text), _folded(prompt.text)
    # A lookahead, so that matches may overlap.
    matches = re.finditer(f"{begin}(?=({pattern}){end})", folded)
    places = [
        (at[match.start(1)], at[match.end(1)])
        for match in matches
        if not _parted(folded, match.start(1)) and not _parted(folded, match.end(1))
    ]
    found = [_tokens(prompt, letters, *place) for place in places if place[1] <= _read(prompt)]
    if found:
        return tuple(dict.fromkeys(found))
    listed = ", ".join(dict.fromkeys(word for word, _ in words_of(prompt))) or "none"
    if places:
        raise ValueError(
            f'"{wanted}" stands beyond the part of the prompt that the text encoder reads. Shorten '
            f"the prompt; the words it reads are: {listed}."
        )
    raise ValueError(f'"{wanted}" is not in the prompt. Its words are: {listed}.')


def _letters(text: str) -> str:
    """The text (NFC) in lower case, of the same length, with a blank for all but word letters."""
    return "".join(
        _lower(c) if _belongs_to_a_word(c) else " " for c in unicodedata.normalize("NFC", text)
    )


def _folded(text: str) -> tuple[str, list[int]]:
    """The text as it is compared, with a blank for all but word letters, and for each of its
    characters the number of the one in the text (NFC) that it comes from, and that of the end.

    Unicode folds some letters to several: "ß" to "ss", as in capitals. What only says how others
    are drawn, such as a soft hyphen or a mark of direction, folds to nothing. All letters i are
    one, with a dot or without: Turkish and English pair their capitals differently.
    """
    composed = unicodedata.normalize("NFC", text)
    pieces = [_fold(c) if _belongs_to_a_word(c) else " " for c in composed]
    return "".join(pieces), [i for i, p in enumerate(pieces) for _ in p] + [len(composed)]


def _fold(c: str) -> str:
    return "" if _says_how(c) else c.casefold().translate(_LETTERS_I)


def _says_how(c: str) -> bool:
    """Whether it is no letter, but says how others are drawn, or where a line may break."""
    return c in "\ufe0e\ufe0f" or (unicodedata.category(c) == "Cf" and c not in _JOINERS)


def _parted(text: str, place: int) -> bool:
    """Whether one letter or emoji lies on both sides of a place: before a mark, at a joiner."""
    before, after = text[place - 1 : place], text[place : place + 1]
    if before == "\u200d":
        return True
    return bool(after) and (
        after in _JOINERS or after in _SKIN or unicodedata.category(after)[0] == "M"
    )


def _lower(c: str) -> str:
    folded = c.casefold()
    return folded if len(folded) == 1 else c.lower()[0]


def _belongs_to_a_word(c: str) -> bool:
    """Whether it is a letter, a mark, a number, an emoji, or goes with one."""
    kind = unicodedata.category(c)
    if c == _BREAK:
        return False
    return kind[0] in "LMN" or kind in ("So", "Cf") or c in _SKIN


def _tokens(prompt: EncodedPrompt, letters: str, first: int, end: int) -> Positions:
    """The tokens that hold a letter between the characters `first` and `end`."""
    spans = enumerate(prompt.spans)
    return tuple(at for at, (a, b) in spans if letters[max(a, first) : min(b, end)].strip())


def _read(prompt: EncodedPrompt) -> int:
    """How many characters of a prompt the text encoder reads."""
    return max(stop for _, stop in prompt.spans)


def parse_weights(text: str) -> dict[str, float]:
    """Words and their weights, from lines such as "white: 2" or separated by commas.

    Raises:
        ValueError: for any other text, and for a word that is given twice.
    """
    weights: dict[str, float] = {}
    found = set()
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
        letters = tuple(_folded(word)[0].split())
        if letters in found:
            raise ValueError(f'"{word}" is given two weights. Keep one of them.')
        found.add(letters)
        weights[word] = weight
    return weights
