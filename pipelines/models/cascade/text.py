"""Prompts to what a cascade reads: T5's states in a window of 77 tokens."""

import unicodedata
from typing import Any

import torch
from torch import nn

from ..text import EncodedPrompt, tokens_of

WINDOW = 77  # tokens that DeepFloyd IF and Show-1 were trained on


@torch.no_grad()
def encode_t5(tokenizer: Any, text_encoder: nn.Module, text: str) -> EncodedPrompt:
    """T5's last hidden states for one prompt, `[1, 77, d]`, in small letters, padding included.

    A text longer than the window is cut, which is logged and told in the result.
    """
    text = unicodedata.normalize("NFC", text).lower().strip()
    ids, spans, cut = tokens_of(tokenizer, text, WINDOW, special=1)
    missing = WINDOW - len(ids)
    device = next(text_encoder.parameters()).device
    padded = torch.tensor([[*ids, *[tokenizer.pad_token_id] * missing]], device=device)
    mask = torch.tensor([[1] * len(ids) + [0] * missing], device=device)
    hidden = text_encoder(padded, mask).last_hidden_state.float()
    tokens = tuple(tokenizer.convert_ids_to_tokens(ids))
    return EncodedPrompt(hidden, tokens, cut, text, tuple(spans))
