"""Prompts to text embeddings, with what did not fit."""

import logging
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

logger = logging.getLogger(__name__)


class EncodedPrompt(NamedTuple):
    """A prompt as a model sees it."""

    embedding: Float[Tensor, "1 l d"]  # float32, padded to the encoder's window
    tokens: tuple[str, ...]  # what the embedding stands for, start and end included, no padding
    cut: str  # the end of the text that the window had no room for, "" if all of it fitted


@torch.no_grad()
def encode_prompt(tokenizer: Any, text_encoder: nn.Module, text: str) -> EncodedPrompt:
    """The last hidden states of the text encoder, `[1, window, d]`, for one prompt.

    A text longer than the window is cut, which is logged and told in the result.
    """
    window = text_encoder.config.max_position_embeddings
    # A tokenizer's own maximum is only a wish in some folders (8192 for a window of 77).
    window = min(window, tokenizer.model_max_length)
    ids = tokenizer(text, verbose=False)["input_ids"]
    cut = ""
    if len(ids) > window:
        cut = tokenizer.decode(ids[window - 1 : -1])
        ids = [*ids[: window - 1], ids[-1]]
        logger.warning(
            "The prompt is longer than the %d tokens the text encoder reads; cut off: %r",
            window - 2,
            cut,
        )
    padded = [*ids, *[tokenizer.pad_token_id] * (window - len(ids))]
    device = next(text_encoder.parameters()).device
    hidden = text_encoder(torch.tensor([padded], device=device)).last_hidden_state
    return EncodedPrompt(hidden.float(), tuple(tokenizer.convert_ids_to_tokens(ids)), cut)
