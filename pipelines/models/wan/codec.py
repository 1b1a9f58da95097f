"""Encode and decode clips with Wan's causal autoencoder: four frames in one latent frame."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeAlias

import torch
from diffusers import AutoencoderKLWan
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from ..codec import check_decoded, check_frames, check_pixels, shown_size
from ..process import Latents

OnChunk: TypeAlias = Callable[[int, int], None]  # (frames done, all frames); may raise to stop


@dataclass(frozen=True, eq=False)
class WanCodec:
    """The causal autoencoder of Wan (Wan Team, 2025, Sec. 4.1.1).

    The first latent frame stands for one picture, each later one for `stride` pictures. So a clip
    needs 1 + 4 n frames; others are padded by repeating the last frame. The autoencoder takes a
    whole clip in one call, and works on one latent frame after another.
    """

    vae: AutoencoderKLWan
    patch: int  # latent pixels per side of one token of the transformer

    @property
    def factor(self) -> int:
        """Pixels per latent pixel."""
        return self.vae.config.scale_factor_spatial

    @property
    def stride(self) -> int:
        """Pictures that each latent frame after the first stands for."""
        return self.vae.config.scale_factor_temporal

    @torch.no_grad()
    def encode(
        self,
        clip: Float[Tensor, "1 3 F H W"],
        *,
        generator: torch.Generator | None = None,
        on_chunk: OnChunk | None = None,
    ) -> Latents:
        """The autoencoder's own latents of a clip with pixels in 0..1, float32.

        They are the mean of the posterior, or with a `generator` a sample of it, drawn on the CPU.
        The right and lower edges are repeated until both sides are whole tokens.

        Raises:
            ValueError: if the clip has no frame, or a pixel is not a finite number.
        """
        check_frames(clip)
        frames = clip.shape[2]
        check_pixels(rearrange(clip, "1 c f h w -> f c h w"), 0)
        weight = next(self.vae.parameters())
        pixels = (self._padded(clip) * 2 - 1).to(weight.device, weight.dtype)
        with self._watched(self.vae.encoder, frames, on_chunk):
            posterior = self.vae.encode(pixels).latent_dist
        latents = posterior.mean
        if generator is not None:
            noise = torch.randn(latents.shape, generator=generator)
            latents = latents + posterior.std * noise.to(latents)
        return latents.to(clip.device, torch.float32)

    @torch.no_grad()
    def decode(
        self,
        latents: Latents,
        *,
        size: tuple[int, int] | None = None,
        frames: int | None = None,
        on_chunk: OnChunk | None = None,
    ) -> Float[Tensor, "1 3 F H W"]:
        """The clip of the autoencoder's own latents, pixels in 0..1, float32 on the CPU.

        `size` (height, width) and `frames` crop what `encode` padded.

        Raises:
            ValueError: if the latents hold no frame, have a wrong number of channels, or decode to
                less than `size`.
            FloatingPointError: if a decoded frame is not finite.
        """
        _, channels, count = latents.shape[:3]
        if count == 0:
            raise ValueError("The latents hold no frames.")
        if channels != self.vae.config.z_dim:
            raise ValueError(
                f"The latents have {channels} channels, this VAE takes {self.vae.config.z_dim}. "
                "Decode them with the VAE of the model that made them."
            )
        weight = next(self.vae.parameters())
        whole = 1 + self.stride * (count - 1)
        with self._watched(self.vae.decoder, whole, on_chunk):
            decoded = self.vae.decode(latents.to(weight.device, weight.dtype)).sample
        pixels = rearrange(decoded[:, :, :frames], "1 c f h w -> f c h w")
        check_decoded(pixels, 0)
        height, width = shown_size(pixels, size)
        # Channels last, as ComfyUI keeps images: no copy is needed to hand them over.
        shown = rearrange(pixels[..., :height, :width], "f c h w -> f h w c").float().cpu()
        return rearrange((shown / 2 + 0.5).clamp(0, 1).contiguous(), "f h w c -> 1 c f h w")

    def standard(self, latents: Latents) -> Latents:
        """Latents with mean 0 and deviation 1 in every channel, as the transformer takes them."""
        mean, deviation = self._statistics(latents)
        return (latents - mean) / deviation

    def own(self, z: Latents) -> Latents:
        """The inverse of `standard`."""
        mean, deviation = self._statistics(z)
        return z * deviation + mean

    def _statistics(self, like: Latents) -> tuple[Tensor, Tensor]:
        config = self.vae.config
        if like.shape[1] != config.z_dim:
            raise ValueError(
                f"The latents have {like.shape[1]} channels, this model takes {config.z_dim}. "
                "Encode the clip with the same model's VAE."
            )
        mean, deviation = (
            rearrange(torch.tensor(values).to(like), "c -> c 1 1 1")
            for values in (config.latents_mean, config.latents_std)
        )
        return mean, deviation

    def _padded(self, clip: Tensor) -> Tensor:
        missing = -(clip.shape[2] - 1) % self.stride
        sides = [-side % (self.factor * self.patch) for side in clip.shape[-2:]]
        return functional.pad(clip, (0, sides[1], 0, sides[0], 0, missing), mode="replicate")

    @contextmanager
    def _watched(self, part: nn.Module, frames: int, on_chunk: OnChunk | None) -> Iterator[None]:
        """Within the `with`, `on_chunk` is called after each latent frame that `part` has done.

        At the end, also after an error, the autoencoder's memory of earlier frames is cleared.
        """
        handle = (
            None
            if on_chunk is None
            else part.register_forward_hook(_counting(frames, self.stride, on_chunk))
        )
        try:
            yield
        finally:
            if handle is not None:
                handle.remove()
            self.vae.clear_cache()


def _counting(frames: int, stride: int, on_chunk: OnChunk) -> Callable[..., None]:
    done = 1 - stride

    def count(*_: object) -> None:
        nonlocal done
        done += stride
        on_chunk(min(done, frames), frames)

    return count
