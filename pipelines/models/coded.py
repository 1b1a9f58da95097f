"""What models share whose clips go through a codec: Wan, and a cascade of pixels."""

from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .denoiser import Denoiser
from .process import Latents
from .text import EncodedPrompt

Result = TypeVar("Result")
# Encodes a prompt: (tokenizer, text encoder, text).
EncodeText: TypeAlias = Callable[[Any, nn.Module, str], EncodedPrompt]


class CodedModel:
    """Base of a model with a `codec`, a `denoiser`, a text encoder, and `modules` with weights."""

    # Autograd refuses weights that were moved in inference mode.
    @torch.inference_mode(False)
    def to(self, device: torch.device | str) -> None:
        """Move all parts to a device."""
        for module in self.modules().values():
            module.to(device)

    def encode_clip(self, clip: Float[Tensor, "1 3 F H W"], **options: Any) -> Latents:
        """Unscaled latents of a clip; see `encode` of the codec."""
        return self.codec.encode(clip, **options)

    def decode_clip(self, latents: Latents, **options: Any) -> Float[Tensor, "1 3 F H W"]:
        """The clip of unscaled latents; see `decode` of the codec."""
        return self.codec.decode(latents, **options)

    def encode_prompt(self, text: str) -> EncodedPrompt:
        """The embedding of a prompt, its tokens, and the part that did not fit the window."""
        return self.encode_text(self.tokenizer, self.text_encoder, text)

    def run(self, z: Latents, work: Callable[[Denoiser], Result]) -> Result:
        """Call `work` with the denoiser, for a clip's latents, and return its result."""
        return work(self.denoiser)
