"""Wan's autoencoder as a codec: four frames a latent, each of which knows those before it."""

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

OnChunk: TypeAlias = Callable[[int, int], None]  # frames done, of how many; may raise to stop


@dataclass(frozen=True, eq=False)
class WanCodec:
    """The causal autoencoder of Wan (Wan Team, 2025, Sec. 4.1.1).

    The first latent frame holds one picture and each later one `stride`, so it takes 1 + 4 n
    frames: other clips are padded by repeating their last one. It goes through a clip by itself,
    one latent frame after the other, whatever its length.
    """

    vae: AutoencoderKLWan
    patch: int  # latent pixels, in each direction, that the transformer takes as one token

    @property
    def factor(self) -> int:
        """Pixels per latent pixel."""
        return self.vae.config.scale_factor_spatial

    @property
    def stride(self) -> int:
        """Pictures in each latent frame after the first."""
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
        Sides are padded to whole tokens by repeating the right and lower edge.

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
            ValueError: if the latents hold no frame, have other channels than the autoencoder's,
                or `size` is larger than what they show.
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
        # Channels last, as the host keeps images: its view of the clip then needs no copy.
        shown = rearrange(pixels[..., :height, :width], "f c h w -> f h w c").float().cpu()
        return rearrange((shown / 2 + 0.5).clamp(0, 1).contiguous(), "f h w c -> 1 c f h w")

    def standard(self, latents: Latents) -> Latents:
        """With mean 0 and deviation 1 in every channel, as the transformer takes them."""
        mean, deviation = self._statistics(latents)
        return (latents - mean) / deviation

    def own(self, z: Latents) -> Latents:
        """The way back from `standard`."""
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
        """Within the `with`, `on_chunk` hears of each latent frame that went through `part`.

        However it ends, what the autoencoder remembers of the frames before is dropped.
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
