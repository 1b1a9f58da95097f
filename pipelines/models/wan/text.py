"""From prompts to Wan's text embeddings: UMT5's hidden states, zero after the last token."""

import unicodedata
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from ..text import EncodedPrompt, tokens_of

WINDOW = 512  # tokens of a prompt in Wan's training


@torch.no_grad()
def encode_umt5(tokenizer: Any, text_encoder: nn.Module, text: str) -> EncodedPrompt:
    """UMT5's last hidden states for one prompt, `[1, 512, d]`, zero after its last token.

    A text longer than the window is cut; the log and the result say so.
    """
    text = " ".join(unicodedata.normalize("NFC", text).split())
    ids, spans, cut = tokens_of(tokenizer, text, WINDOW, special=1)
    device = next(text_encoder.parameters()).device
    here = torch.tensor([ids], device=device)
    hidden = text_encoder(here, torch.ones_like(here)).last_hidden_state.float()
    embedding = functional.pad(hidden, (0, 0, 0, WINDOW - len(ids)))
    tokens = tuple(tokenizer.convert_ids_to_tokens(ids))
    return EncodedPrompt(embedding, tokens, cut, text, tuple(spans))
