"""What the models are told: captions through the text encoder, and how that learns to be heard."""

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPTextModel

from ..finished import WEIGHTS
from ..scene import BACKGROUNDS, COLOURS, MOTIONS, RADII, SHAPES
from ..tokenizer import load_tokenizer


class Captions(nn.Module):
    """From captions to what a UNet's cross-attention reads, `[b, l, d]`."""

    def __init__(self, tokenizer, encoder: nn.Module) -> None:
        super().__init__()
        self.tokenizer, self.encoder = tokenizer, encoder

    def forward(self, captions: list[str]) -> Tensor:
        tokens = self.tokens(captions).to(self.encoder.device)
        return self.encoder(tokens).last_hidden_state

    def tokens(self, captions: list[str]) -> Tensor:
        """Token ids `[b, l]`, padded to the window with the end token."""
        return self.tokenizer(
            captions, padding="max_length", truncation=True, return_tensors="pt"
        ).input_ids


def shipped_captions() -> Captions:
    """The finished text encoder, which the tiny Wan and the cascade read with, too."""
    folder = WEIGHTS / "shapeworld-sd"
    encoder = CLIPTextModel.from_pretrained(folder / "text_encoder").float().eval()
    return Captions(load_tokenizer(folder / "tokenizer"), encoder)


class WordReader(nn.Module):
    """Reads every attribute of a caption from the end token and the padding after it.

    CLIP's contrastive training makes the end of a caption sum up all of it. An encoder that is
    trained with stills alone does not: it lets "left" and "right" come out alike, and no video
    model that stands on it can tell them apart. The reading loss makes up for that training.
    """

    attributes: ClassVar[dict[str, tuple[str, ...]]] = {
        "colour": tuple(COLOURS),
        "shape": SHAPES,
        "motion": MOTIONS,
        "background": BACKGROUNDS,
        "size": tuple(RADII),
    }

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = nn.ModuleDict(
            {
                name: nn.Linear(width, len(words) + 1, bias=False)
                for name, words in self.attributes.items()
            }
        )

    def forward(self, tokens: Tensor, text: Tensor, captions: list[str], end: int) -> Tensor:
        """Mean cross-entropy of the attributes' words; the last class of each is "not named"."""
        after = tokens == end
        losses = []
        for name, words in self.attributes.items():
            named = torch.tensor([_first_of(words, caption) for caption in captions])
            # With rows of length 1 a word is read well only where it moves the embedding far.
            read = text[after] @ functional.normalize(self.heads[name].weight, dim=1).T
            losses.append(functional.cross_entropy(read, named.repeat_interleave(after.sum(1))))
        return torch.stack(losses).mean()


def _first_of(words: tuple[str, ...], caption: str) -> int:
    """The index in `words` of the first of them that a caption says, or their number."""
    return next((words.index(word) for word in caption.split() if word in words), len(words))
