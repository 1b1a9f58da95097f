"""CLIP with both encoders: embeddings of pictures and texts that can be compared."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPConfig, CLIPModel, CLIPTokenizerFast

from ..layout import SD1_CONFIGS, check_config, problem, read_json, weight_files
from ..tokenizer import has_tokenizer, load_tokenizer
from ..weights import build, read_weights

logger = logging.getLogger(__name__)

_KIND = "clip"
# Filters by their numbers in preprocessor_config.json, which are Pillow's.
_FILTERS = {2: "bilinear", 3: "bicubic"}
_LARGEST = 8192  # the longest edge in pixels for any of these models
# If the folder does not say: the values of CLIP's training.
_MEAN = (0.48145466, 0.4578275, 0.40821073)
_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class Preparation:
    """How a frame is prepared for the model."""

    shortest: int | None  # the shorter edge is scaled to this; None: the frame is scaled to `size`
    size: tuple[int, int]  # (height, width) that is cut from the middle
    method: str
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        sizes = self.size if self.shortest is None else (self.shortest, *self.size)
        if not all(isinstance(size, int) and 0 < size <= _LARGEST for size in sizes):
            raise ValueError(f"sizes of {sizes} pixels")
        for numbers in (self.mean, self.std):
            if len(numbers) != 3 or not all(isinstance(n, int | float) for n in numbers):
                raise ValueError(f"{numbers} for three colours")
        if min(self.std) <= 0:
            raise ValueError(f"a deviation of {min(self.std)}")

    def __call__(self, frames: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b 3 h w"]:
        """Frames with pixels in 0..1, scaled, cut and normalised, in steps of 1/255.

        Raises:
            ValueError: for frames so narrow that their longer edge would become too long.
        """
        height, width = frames.shape[-2:]
        target = self.size
        if self.shortest is not None:
            short = min(height, width)
            target = (height * self.shortest // short, width * self.shortest // short)
            if max(target) > _LARGEST:
                raise ValueError(
                    f"Frames of {width} x {height} pixels are too narrow: scaled for the model "
                    f"they would be {target[1]} x {target[0]}. Cut them to another shape."
                )
        # As Pillow does for published numbers: 8-bit values, scaled first in width, then in height.
        for between in ((height, target[1]), target):
            if between != tuple(frames.shape[-2:]):
                frames = functional.interpolate(frames, between, mode=self.method, antialias=True)
            frames = (frames.clamp(0, 1) * 255).round() / 255
        (top, bottom), (left, right) = (
            _margins(have, want) for have, want in zip(target, self.size, strict=True)
        )
        frames = functional.pad(frames, (left, right, top, bottom))
        mean, std = (frames.new_tensor(x)[:, None, None] for x in (self.mean, self.std))
        return (frames - mean) / std


@dataclass(frozen=True, eq=False)
class ClipScorer:
    """A CLIP model, or one of its layout such as PickScore's, ready to embed."""

    name: str
    model: nn.Module
    tokenizer: Any
    prepare: Preparation

    def modules(self) -> dict[str, nn.Module]:
        """The parts that take memory."""
        return {"text_encoder": self.model}

    @property
    def scale(self) -> float:
        """The temperature: the factor of cosines."""
        return float(self.model.logit_scale.exp())

    @torch.no_grad()
    def embed_frames(
        self,
        clip: Float[Tensor, "1 3 f H W"],
        *,
        chunk: int = 16,
        on_frames: Callable[[int], None] | None = None,
    ) -> Float[Tensor, "f d"]:
        """Embeddings of the frames, pixels in 0..1, `chunk` at a time, on the CPU."""
        found = []
        for frames in rearrange(clip, "1 c f h w -> f c h w").split(chunk):
            pixels = self.prepare(frames.to(self.model.logit_scale))
            pooled = self.model.vision_model(pixel_values=pixels).pooler_output
            found.append(self.model.visual_projection(pooled).cpu())
            if on_frames is not None:
                on_frames(sum(map(len, found)))
        return torch.cat(found)

    @torch.no_grad()
    def embed_prompt(self, text: str) -> Float[Tensor, "1 d"]:
        """The embedding of a text, on the CPU. A text that is too long is cut; the log says so.

        Raises:
            ValueError: if the text is empty.
        """
        if not text.strip():
            raise ValueError("The prompt is empty; write what the clip should show.")
        ids = self.tokenizer(text, verbose=False)["input_ids"]
        window = self.model.config.text_config.max_position_embeddings
        if len(ids) > window:
            logger.warning(
                "The prompt is longer than the %d tokens that %s reads; cut off: %r",
                window - 2,
                self.name,
                self.tokenizer.decode(ids[window - 1 : -1]),
            )
            ids = [*ids[: window - 1], ids[-1]]
        device = self.model.logit_scale.device
        pooled = self.model.text_model(input_ids=torch.tensor([ids], device=device)).pooler_output
        return self.model.text_projection(pooled).cpu()


@torch.inference_mode(False)
def load_clip(folder: Path) -> ClipScorer:
    """A CLIP model from its folder, in float32; with CLIP's own tokenizer if the folder has none.

    Raises:
        ModelError: if files are missing, damaged or of another model.
    """
    if not folder.is_dir():
        raise problem(_KIND, folder, "is a file." if folder.exists() else "does not exist.")
    settings = check_config(folder, "CLIPModel", _KIND, folder)
    config = CLIPConfig.from_dict(settings)
    preparation = _preparation(folder, config.vision_config.image_size)
    place = folder if has_tokenizer(CLIPTokenizerFast, folder) else SD1_CONFIGS / "tokenizer"
    vocabulary = config.text_config.vocab_size
    tokenizer = load_tokenizer(CLIPTokenizerFast, place, vocabulary, _KIND, folder)

    weights = read_weights(weight_files(folder, _KIND, folder), _KIND, folder)
    model = build(lambda: CLIPModel(config), weights, torch.float32, _KIND, folder)
    return ClipScorer(folder.name, model, tokenizer, preparation)


def _preparation(folder: Path, image_size: int) -> Preparation:
    """The preparation from preprocessor_config.json, or that of CLIP's training without one."""
    file = folder / "preprocessor_config.json"
    found = read_json(file, _KIND, folder) if file.exists() else {}
    try:
        size, cut = found.get("size", image_size), found.get("crop_size", image_size)
        size = {"shortest_edge": size} if isinstance(size, int) else size
        shortest = size.get("shortest_edge")
        whole = size if shortest is None else cut
        if isinstance(whole, int):
            whole = {"height": whole, "width": whole}
        return Preparation(
            shortest,
            (whole["height"], whole["width"]),
            _FILTERS[found.get("resample", 3)],
            tuple(found.get("image_mean", _MEAN)),
            tuple(found.get("image_std", _STD)),
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        what = f"has a preprocessor_config.json that is not understood ({error!r})."
        raise problem(_KIND, folder, what) from error


def _margins(have: int, want: int) -> tuple[int, int]:
    """Pixels to add before and after, for `want` around the middle; negative means to cut."""
    before = int((want - have) / 2)
    return before, want - have - before
