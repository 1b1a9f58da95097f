"""From prompts to text embeddings, and the part of a prompt that is too long."""

import logging
import unicodedata
from bisect import bisect_right
from collections.abc import Callable, Hashable, Sequence
from itertools import accumulate, takewhile
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

logger = logging.getLogger(__name__)


class EncodedPrompt(NamedTuple):
    """A prompt as a model sees it."""

    embedding: Float[Tensor, "1 l d"]  # float32, padded to the encoder's window
    tokens: tuple[str, ...]  # with start and end, without padding
    cut: str  # the end of the text that did not fit the window, "" if all of it fitted
    text: str  # the whole prompt, its letters composed (NFC)
    spans: tuple[tuple[int, int], ...]  # first and last character of each token in the text


def tokens_of(
    tokenizer: Any, text: str, window: int, special: int
) -> tuple[list[int], list[tuple[int, int]], str]:
    """The numbers of a text's tokens, the characters of each, and the end that was cut off.

    `special` of the `window` tokens are none of the text: its start and its end.
    """
    found = tokenizer(text, verbose=False, return_offsets_mapping=True)
    ids, spans = found["input_ids"], found["offset_mapping"]
    if len(ids) <= window:
        return ids, spans, ""
    cut = text[spans[window - 1][0] :]
    logger.warning(
        "The prompt is longer than the %d tokens the text encoder reads; cut off: %r",
        window - special,
        cut,
    )
    return [*ids[: window - 1], ids[-1]], [*spans[: window - 1], spans[-1]], cut


@torch.no_grad()
def encode_prompt(tokenizer: Any, text_encoder: nn.Module, text: str) -> EncodedPrompt:
    """The last hidden states of the text encoder, `[1, window, d]`, for one prompt.

    A text longer than the window is cut; the log and the result say so. The tokenizer must be a
    fast one (of the tokenizers package), which knows the characters of each token.
    """
    text = unicodedata.normalize("NFC", text)
    window = text_encoder.config.max_position_embeddings
    # In some folders the tokenizer's own maximum is wrong (8192 for a window of 77).
    window = min(window, int(tokenizer.model_max_length))
    ids, spans, cut = tokens_of(tokenizer, text, window, special=2)
    padded = [*ids, *[tokenizer.pad_token_id] * (window - len(ids))]
    device = next(text_encoder.parameters()).device
    hidden = text_encoder(torch.tensor([padded], device=device)).last_hidden_state
    tokens = tuple(tokenizer.convert_ids_to_tokens(ids))
    return EncodedPrompt(hidden.float(), tokens, cut, text, tuple(spans))


def spans_of(tokens: Callable[[str], Sequence[Hashable]], text: str) -> tuple[tuple[int, int], ...]:
    """First and last character of each token in a text, by any tokenizer; see `EncodedPrompt`.

    `tokens` gives the tokens of a text, with start, end and padding. A token is complete where all
    longer beginnings of the text begin with the same tokens, up to it. Inside a word that may be
    some letters late, where the pieces of a word depend on its end; words between blanks are exact.
    Tokens of one character share its span, and start tokens get (0, 0).
    """
    whole = tokens(f"{text} .")  # goes on, so that no end token counts as one of the text
    shared = [_shared(tokens(text[:end]), whole) for end in range(len(text) + 1)]
    complete = [*accumulate(reversed(shared), min)][::-1]
    ends = [bisect_right(complete, i) for i in range(complete[-1])]
    return tuple((max((e for e in ends if e < end), default=0), end) for end in ends)


def _shared(one: Sequence[Hashable], other: Sequence[Hashable]) -> int:
    """How many tokens two sequences begin with alike."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))
