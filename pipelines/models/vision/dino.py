"""DINO (Caron et al., 2021): the layout of a picture, from the keys of a vision transformer."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from transformers import ViTModel

from ..pretrained import load_pretrained

_KIND = "vit"
# From its training: the size in pixels, and the mean and deviation of ImageNet.
_SHORTEST, _LONGEST = 224, 480
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# How the names of layers that make keys end, in transformers 5 and before.
_KEYS = (".attention.k_proj", ".attention.key")


@dataclass(frozen=True, eq=False)
class Dino:
    """A DINO model, ready to look at frames."""

    name: str
    model: nn.Module

    def modules(self) -> dict[str, nn.Module]:
        """The part that takes memory, under the name of a part that uses the same device."""
        return {"vae": self.model}

    @torch.no_grad()
    def keys(
        self,
        clip: Float[Tensor, "1 3 f H W"],
        *,
        scale: float = 1.0,
        on_frame: Callable[[int], None] | None = None,
    ) -> Float[Tensor, "f t d"]:
        """The keys of the last attention layer, all heads side by side, for each frame.

        The first of the t tokens is the class token. Frames with pixels in 0..1 are scaled to 224
        pixels on the shorter edge, or to 480 on the longer edge if that makes them smaller. Their
        pixels are multiplied by `scale`, then normalised with ImageNet's mean and deviation.
        """
        layer = [m for name, m in self.model.named_modules() if name.endswith(_KEYS)][-1]
        found: list[Tensor] = []
        hook = layer.register_forward_hook(lambda *call: found.append(call[-1].cpu()))
        try:
            for number, frame in enumerate(rearrange(clip, "1 c f h w -> f 1 c h w"), 1):
                pixels = _prepared(frame.to(layer.weight), scale)
                self.model(pixel_values=pixels, interpolate_pos_encoding=True)
                if on_frame is not None:
                    on_frame(number)
        finally:
            hook.remove()
        return torch.cat(found)


def _prepared(frame: Float[Tensor, "1 3 H W"], scale: float) -> Float[Tensor, "1 3 h w"]:
    height, width = frame.shape[-2:]
    short, long = _SHORTEST, _SHORTEST * max(height, width) // min(height, width)
    if long > _LONGEST:
        short, long = max(1, _LONGEST * short // long), _LONGEST
    size = (short, long) if height <= width else (long, short)
    frame = functional.interpolate(frame, size, mode="bilinear", antialias=True)
    mean, std = (frame.new_tensor(x)[:, None, None] for x in (_MEAN, _STD))
    return (scale * frame - mean) / std


def load_dino(folder: Path) -> Dino:
    """A DINO model as transformers saves it, in float32.

    Raises:
        ModelError: if files are missing, damaged or of another model.
    """
    # Published models have no pooler, and some are pickled.
    model = load_pretrained(ViTModel, folder, _KIND, pickles=True, add_pooling_layer=False)
    return Dino(folder.name, model)
