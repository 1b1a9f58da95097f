"""Grounding DINO (Liu et al., 2023): boxes around the things that a prompt names."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from transformers import BertTokenizerFast, GroundingDinoForObjectDetection

from ..layout import problem, read_json
from ..pretrained import load_pretrained
from ..tokenizer import load_tokenizer
from .clip_scorer import Preparation

_KIND = "grounding-dino"
# If the folder does not say: the values of its training.
_SIZE = {"shortest_edge": 800, "longest_edge": 1333}
_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)


class Detections(NamedTuple):
    """The boxes found in a frame, highest score first; n may be 0."""

    boxes: Float[Tensor, "n 4"]  # left, top, right, bottom, in pixels, inside the frame
    scores: Float[Tensor, " n"]  # 0..1


@dataclass(frozen=True, eq=False)
class Detector:
    """A Grounding DINO model, ready to look for things."""

    name: str
    model: nn.Module
    tokenizer: Any
    shortest: int  # the shorter edge of a frame is scaled to this many pixels,
    longest: int  # but the longer edge to no more than this
    mean: tuple[float, ...] = _MEAN
    std: tuple[float, ...] = _STD

    def modules(self) -> dict[str, nn.Module]:
        """The part that takes memory, under the name of a part that uses the same device."""
        return {"network": self.model}

    @torch.no_grad()
    def detect(self, frame: Float[Tensor, "3 H W"], prompt: str) -> Detections:
        """All boxes in a frame with pixels in 0..1, with any score, on the CPU.

        Things are separated by full stops, commas or lines, as in "a cat. a dog". The score of a
        box is that of the word that fits it best.

        Raises:
            ValueError: for a prompt without words or with too many; for a frame that is too small
                or too narrow.
        """
        height, width = frame.shape[-2:]
        weight = next(self.model.parameters())
        words = self._tokens(prompt)
        try:
            pixels = self._prepared(frame.to(weight))
            found = self.model(
                pixel_values=pixels,
                pixel_mask=torch.ones_like(pixels[:, 0], dtype=torch.long),
                **{name: value.to(weight.device) for name, value in words.items()},
            )
        # torch raises this if a frame has only one place at the coarsest level.
        except ValueError as error:
            raise ValueError(
                f"{self.name} finds nothing in frames of {width} x {height} pixels: they are too "
                "small or too narrow for it. Give it a larger clip."
            ) from error
        # After the last token of the prompt the logits are -inf, which gives a score of 0.
        scores, order = found.logits[0].sigmoid().amax(dim=-1).cpu().sort(descending=True)
        x, y, w, h = found.pred_boxes[0].cpu()[order].unbind(dim=-1)
        boxes = torch.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], dim=-1).clamp(0, 1)
        return Detections(boxes * torch.tensor([width, height, width, height]), scores)

    def _prepared(self, frame: Float[Tensor, "3 H W"]) -> Float[Tensor, "1 3 h w"]:
        height, width = frame.shape[-2:]
        short, long = min(height, width), max(height, width)
        size = self.shortest, self.shortest * long // short
        if size[1] > self.longest:
            size = max(1, round(self.longest * short / long)), self.longest
        target = size if height < width else size[::-1]
        prepare = Preparation(None, target, "bilinear", self.mean, self.std)
        return prepare(rearrange(frame, "c h w -> 1 c h w"))

    def _tokens(self, prompt: str) -> dict[str, Tensor]:
        things = [thing for part in re.split(r"[.,;\n]", prompt) if (thing := part.strip().lower())]
        if not things:
            raise ValueError("The prompt is empty; write what to look for, such as: a cat.")
        # The full stop after each thing tells the model where it ends.
        words = self.tokenizer(". ".join(things) + ".", verbose=False, return_tensors="pt")
        window, length = self.model.config.max_text_len, words["input_ids"].shape[1]
        if length > window:
            raise ValueError(
                f"The prompt has {length} tokens and {self.name} reads {window}. Look for fewer "
                "things at once."
            )
        names = ("input_ids", "token_type_ids", "attention_mask")
        return {name: words[name] for name in names}


def load_grounding_dino(folder: Path) -> Detector:
    """A Grounding DINO model as transformers saves it, in float32.

    Raises:
        ModelError: if files are missing, damaged, of another model, or pickles.
    """
    model = load_pretrained(GroundingDinoForObjectDetection, folder, _KIND)
    vocabulary = model.config.text_config.vocab_size
    tokenizer = load_tokenizer(BertTokenizerFast, folder, vocabulary, _KIND, folder)
    file = folder / "preprocessor_config.json"
    found = read_json(file, _KIND, folder) if file.exists() else {}
    try:
        size = found.get("size", _SIZE)
        shortest, longest = int(size["shortest_edge"]), int(size["longest_edge"])
        mean, std = tuple(found.get("image_mean", _MEAN)), tuple(found.get("image_std", _STD))
        Preparation(None, (shortest, longest), "bilinear", mean, std)  # checks the numbers
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        what = f"has a preprocessor_config.json that is not understood ({error!r})."
        raise problem(_KIND, folder, what) from error
    return Detector(folder.name, model, tokenizer, shortest, longest, mean, std)
