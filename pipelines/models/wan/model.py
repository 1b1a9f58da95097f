"""A loaded Wan as one model: diffusers' transformer, its autoencoder and its text encoder."""

from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from typing import Any, ClassVar

import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from torch import nn

from ....attention.dit.processor import WanLayers
from ..coded import CodedModel, EncodeText
from ..denoiser import Cond, Denoiser, LatentSpace, one_text_a_clip
from ..fingerprint import pieces_of_weights
from ..process import Latents, RectifiedFlow
from .codec import WanCodec
from .text import encode_umt5


@dataclass(eq=False)
class WanModel(CodedModel):
    """Wan's text-to-video transformer, its causal autoencoder and its text encoder.

    The modules are the real ones of diffusers and transformers, in eval mode and not trainable.
    """

    name: str  # of its folder, for messages
    transformer: WanTransformer3DModel
    vae: AutoencoderKLWan
    text_encoder: nn.Module
    tokenizer: Any
    process: RectifiedFlow
    encode_text: EncodeText = encode_umt5
    max_frames: int | None = None  # that it was trained on; longer clips go in windows
    kind: ClassVar[str] = "wan"
    by_frame: ClassVar[bool] = False  # a LATENT is one clip, not a batch of frames
    whole_clips: ClassVar[bool] = True  # the autoencoder takes a whole clip in one call

    def modules(self) -> dict[str, nn.Module]:
        """The parts with weights, under the names that all families of models share."""
        return {"network": self.transformer, "vae": self.vae, "text_encoder": self.text_encoder}

    @property
    def device(self) -> torch.device:
        """The device of the transformer."""
        return self.transformer.patch_embedding.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the transformer."""
        return self.transformer.patch_embedding.weight.dtype

    @cached_property
    def fingerprint(self) -> str:
        """A short name of this model, equal for equal weights, settings and shift.

        It is computed once, from a few numbers of every weight.
        """
        digest = sha256(f"{self.kind} {self.process.shift!r}".encode())
        for module in (self.transformer, self.vae):
            settings = {key: v for key, v in module.config.items() if not key.startswith("_")}
            digest.update(repr(sorted(settings.items())).encode())
        for piece in pieces_of_weights(self.modules().values()):
            digest.update(piece)
        return digest.hexdigest()[:16]

    @cached_property
    def codec(self) -> WanCodec:
        """Encodes and decodes clips."""
        return WanCodec(self.vae, max(self.transformer.config.patch_size[1:]))

    @property
    def vae_factor(self) -> int:
        """Pixels per latent pixel."""
        return self.codec.factor

    @property
    def vae_stride(self) -> int:
        """Frames that each latent frame after the first stands for."""
        return self.codec.stride

    def latents_in(self, unscaled: Latents) -> Latents:
        """Latents of the autoencoder as the transformer takes them."""
        return self.codec.standard(unscaled)

    def latents_out(self, z: Latents) -> Latents:
        """The inverse of `latents_in`."""
        return self.codec.own(z)

    @cached_property
    def denoiser(self) -> Denoiser:
        """The model as a loop sees it."""
        space = LatentSpace(self.transformer.config.in_channels, self.codec.factor, 1.0, 0.0)
        layers = WanLayers(self.transformer)
        return Denoiser(self.name, self.process, "flow", self._output, space, layers)

    def _output(self, z: Latents, t: float, cond: Cond) -> Latents:
        """The raw output of the transformer, float32, on the device of `z`; see `Denoiser`."""
        self._check(z, cond)
        here = {"device": self.device, "dtype": self.dtype}
        times = torch.full((len(z),), t, device=self.device)
        output = self.transformer(z.to(**here), times, cond.to(**here), return_dict=False)[0]
        return output.to(z.device, torch.float32)

    def _check(self, z: Latents, cond: Cond) -> None:
        config = self.transformer.config
        if z.shape[1] != config.in_channels:
            raise ValueError(
                f"The latents have {z.shape[1]} channels, {self.name} takes {config.in_channels}. "
                "Encode the clip with the same model's VAE."
            )
        cells = tuple(z.shape[2:])
        if any(size % patch for size, patch in zip(cells, config.patch_size, strict=True)):
            raise ValueError(
                f"The latents are {cells[0]} frames of {cells[2]} x {cells[1]}, {self.name} takes "
                f"them in blocks of {config.patch_size[2]} x {config.patch_size[1]}. Encode the "
                "clip with Video VAE Encode, which pads it."
            )
        one_text_a_clip(cond, z, self.name)
        if cond.shape[-1] != config.text_dim:
            raise ValueError(
                f"The text embeddings are {cond.shape[-1]} wide, {self.name} takes "
                f"{config.text_dim}. Encode the prompts with the same model's text encoder."
            )
