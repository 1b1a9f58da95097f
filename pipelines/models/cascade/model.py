"""A cascade's keyframe stage with its text encoder, as one model."""

from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from typing import Any, ClassVar

import torch
from torch import nn

from ..coded import CodedModel, EncodeText
from ..denoiser import Denoiser
from ..fingerprint import pieces_of_weights
from ..process import Latents
from .codec import PixelCodec
from .stage import Stage
from .text import encode_t5


@dataclass(eq=False)
class KeyframeModel(CodedModel):
    """The stage that makes keyframes, whose latents are pixels, and the encoder of its texts."""

    stage: Stage
    text_encoder: nn.Module
    tokenizer: Any
    encode_text: EncodeText = encode_t5
    kind: ClassVar[str] = "cascade"
    by_frame: ClassVar[bool] = True
    whole_clips: ClassVar[bool] = True
    vae_factor: ClassVar[int] = 1  # a latent pixel is a pixel
    vae_stride: ClassVar[int] = 1
    max_frames: ClassVar[int] = 8  # that it was trained on; longer clips go in windows

    def modules(self) -> dict[str, nn.Module]:
        """The parts that hold weights; in place of an autoencoder there is nothing."""
        nothing = nn.Identity()
        return {"network": self.stage.unet, "vae": nothing, "text_encoder": self.text_encoder}

    @property
    def name(self) -> str:
        return self.stage.name

    @property
    def process(self):
        return self.stage.process

    @property
    def device(self) -> torch.device:
        return self.stage.device

    @property
    def dtype(self) -> torch.dtype:
        return self.stage.dtype

    @cached_property
    def fingerprint(self) -> str:
        """A short name of this very model, its text encoder included."""
        digest = sha256(self.stage.fingerprint.encode())
        for piece in pieces_of_weights([self.text_encoder]):
            digest.update(piece)
        return digest.hexdigest()[:16]

    @cached_property
    def codec(self) -> PixelCodec:
        """Clips to latents and back."""
        return PixelCodec(self.stage.multiple)

    def latents_in(self, unscaled: Latents) -> Latents:
        """The same: pixels have no other scale."""
        return unscaled

    def latents_out(self, z: Latents) -> Latents:
        """The same."""
        return z

    @cached_property
    def denoiser(self) -> Denoiser:
        """The model as a loop sees it."""
        return self.stage.denoiser()
