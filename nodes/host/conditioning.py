"""CONDITIONING of the host's: a handle in place of it, and the words that it was made of."""

import unicodedata
from collections.abc import Mapping
from typing import Any

from torch import Tensor, tensor

from ...pipelines.models.text import EncodedPrompt, spans_of
from .fingerprint import digest_of

PROMPT = "rescore_prompt"  # the entry of a CONDITIONING that holds its `EncodedPrompt`


def encoded(clip: Any, text: str) -> list:
    """What CLIP Text Encode makes of a text, with its `EncodedPrompt`. Brackets weigh no words.

    Raises:
        ValueError: for a CLIP of several text encoders, whose tokens are not told apart.
    """
    text = unicodedata.normalize("NFC", text)
    tokens = clip.tokenize(_literal(text))
    if len(tokens) > 1:
        raise ValueError(
            f"This CLIP reads a text with {len(tokens)} text encoders ({', '.join(tokens)}), and "
            "words can be found only where one reads it, as with Wan and LTX-Video. Use CLIP Text "
            "Encode."
        )
    spans = spans_of(lambda part: _numbers(clip.tokenize(_literal(part))), text)
    numbers = tuple(map(str, _numbers(tokens)[: len(spans)]))
    return [
        [embedding, {**named, PROMPT: EncodedPrompt(embedding, numbers, "", text, spans)}]
        for embedding, named in clip.encode_from_tokens_scheduled(tokens)
    ]


def prompt_of(conditioning: list) -> EncodedPrompt:
    """The prompt of a CONDITIONING.

    Raises:
        ValueError: if it does not tell its words, or holds several prompts.
    """
    if len(conditioning) != 1:
        raise ValueError(
            f"The CONDITIONING holds {len(conditioning)} prompts, and words are found in one. Use "
            "a single prompt here."
        )
    ((_, named),) = conditioning
    if PROMPT not in named:
        raise ValueError(
            "The CONDITIONING does not tell which words it was made of. Put Encode Native Prompt "
            "in the place of CLIP Text Encode: it takes the same CLIP and text."
        )
    return named[PROMPT]


def _literal(text: str) -> str:
    """The text with brackets as letters: the host reads `(red:1.2)` as a weight."""
    return text.replace("(", "\\(").replace(")", "\\)")


def _numbers(tokens: dict[str, list]) -> list[int | None]:
    """The tokens of a text in one row; None for one of an embedding file."""
    (batches,) = tokens.values()
    return [t if isinstance(t, int) else None for batch in batches for t, *_ in batch]


# --- handles --------------------------------------------------------------------------------------


def handle_of(conditioning: list) -> Tensor:
    """A tensor `[1, 1, 3]` that stands for a CONDITIONING, in place of a text embedding.

    Equal conditionings have equal handles, different ones have different handles.
    """
    return tensor(key_of(conditioning)).view(1, 1, 3)


def key_of(conditioning: list) -> tuple[float, ...]:
    """A digest of a CONDITIONING as three whole numbers, which float32 stores exactly."""
    # Texts that encode alike are alike, and so are entries in any order.
    parts = [
        (embedding, sorted((str(k), v) for k, v in named.items() if k != PROMPT))
        for embedding, named in conditioning
    ]
    digest = digest_of(parts)
    return tuple(float(int.from_bytes(digest[i : i + 3], "big")) for i in (0, 3, 6))


def check_target(conditionings: Mapping[str, list]) -> None:
    """Check that the target says something, as far as a CONDITIONING tells.

    Raises:
        ValueError: if it is the negative's: both texts are empty, or one text is wired to both.
    """
    if key_of(conditionings["target"]) == key_of(conditionings["negative"]):
        raise ValueError(
            "The target says the same as the negative, so nothing leads to an edit. If its text is "
            "empty, write what the clip should show. If one text is wired to both, wire an empty "
            "one to negative."
        )
