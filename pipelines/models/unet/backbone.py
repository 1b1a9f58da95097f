"""A loaded UNet model: diffusers' UNet, its autoencoder and its text encoder, as one object."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256
from typing import Any, ClassVar, TypeAlias, TypeVar

import torch
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor, nn

from ....attention.unet.layers import UNetLayers
from ..denoiser import Cond, Denoiser, LatentSpace, one_text_a_clip
from ..fingerprint import pieces_of_weights
from ..process import Latents, VariancePreserving
from ..text import EncodedPrompt, encode_prompt

Result = TypeVar("Result")
# Calls the UNet of one kind of model: (unet, z [b,c,f,h,w], t [b], cond) -> [b,c,f,h,w].
Call: TypeAlias = Callable[[nn.Module, Tensor, Tensor, Tensor], Tensor]


def _call_video(unet: nn.Module, z: Tensor, t: Tensor, cond: Tensor) -> Tensor:
    return unet(z, t, cond).sample


def _call_image(unet: nn.Module, z: Tensor, t: Tensor, cond: Tensor) -> Tensor:
    frames = z.shape[2]
    images = rearrange(z, "b c f h w -> (b f) c h w")
    prediction = unet(images, repeat(t, "b -> (b f)", f=frames), _per_frame(cond, frames)).sample
    return rearrange(prediction, "(b f) c h w -> b c f h w", f=frames)


def _call_animatediff(unet: nn.Module, z: Tensor, t: Tensor, cond: Tensor) -> Tensor:
    return unet(z, t, _per_frame(cond, z.shape[2])).sample


def _per_frame(cond: Tensor, frames: int) -> Tensor:
    if cond.ndim == 3:
        return repeat(cond, "b l d -> (b f) l d", f=frames)
    return rearrange(cond, "b f l d -> (b f) l d")


def _call_inflated(unet: nn.Module, z: Tensor, t: Tensor, cond: Tensor) -> Tensor:
    return unet(z, t, cond)


_CALLS: dict[str, Call] = {
    "text-to-video": _call_video,
    "image": _call_image,
    "animatediff": _call_animatediff,
    "inflated": _call_inflated,
}


@dataclass(eq=False)
class Backbone:
    """A text-conditional diffusion model, its autoencoder and its text encoder.

    The modules are the real ones of diffusers and transformers, in eval mode and not trainable.
    """

    name: str  # of its folder or file, for messages
    kind: str  # "text-to-video", "image", "animatediff" or "inflated"
    unet: nn.Module
    vae: nn.Module
    text_encoder: nn.Module
    tokenizer: Any
    process: VariancePreserving
    predicts: str = "epsilon"  # one of process.KINDS

    by_frame: ClassVar[bool] = True  # a LATENT is a batch of frames
    whole_clips: ClassVar[bool] = False  # the autoencoder takes any number of single frames
    vae_stride: ClassVar[int] = 1  # frames that one latent frame stands for

    def __post_init__(self) -> None:
        if self.kind not in _CALLS:
            raise ValueError(f"A backbone is one of {', '.join(_CALLS)}, and not {self.kind!r}.")

    def modules(self) -> dict[str, nn.Module]:
        """The parts with weights, under the names that all families of models share."""
        return {"network": self.unet, "vae": self.vae, "text_encoder": self.text_encoder}

    @property
    def network(self) -> nn.Module:
        """The network that predicts, under the name that all families of models share."""
        return self.unet

    def with_network(self, network: nn.Module) -> "Backbone":
        """The same model with another network, such as a tuned one."""
        return replace(self, unet=network)

    # Autograd refuses weights that were moved in inference mode.
    @torch.inference_mode(False)
    def to(self, device: torch.device | str) -> None:
        """Move all parts to a device."""
        for module in self.modules().values():
            module.to(device)

    @property
    def device(self) -> torch.device:
        """The device of the UNet."""
        return next(self.unet.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the UNet."""
        return next(self.unet.parameters()).dtype

    @property
    def scaling_factor(self) -> float:
        """Model latents are `(unscaled - shift_factor) * scaling_factor`."""
        return float(self.vae.config.scaling_factor)

    @property
    def shift_factor(self) -> float:
        """See `scaling_factor`; 0 in all models of the Stable Diffusion 1 family."""
        return float(self.vae.config.get("shift_factor") or 0.0)

    def latents_in(self, unscaled: Latents) -> Latents:
        """Latents of the autoencoder as the UNet takes them."""
        return (unscaled - self.shift_factor) * self.scaling_factor

    def latents_out(self, z: Latents) -> Latents:
        """The inverse of `latents_in`."""
        return z / self.scaling_factor + self.shift_factor

    @property
    def vae_factor(self) -> int:
        """Pixels per latent pixel."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    @property
    def max_frames(self) -> int | None:
        """The most frames a clip may have; None: any number."""
        return self.unet.config.get("motion_max_seq_length")

    @cached_property
    def fingerprint(self) -> str:
        """A short name of this model, equal for equal weights, settings and schedule.

        It is computed once, from a few numbers of every weight. So a tuned model needs its own
        `Backbone`.
        """
        digest = sha256(self.kind.encode())
        digest.update(self.predicts.encode())
        digest.update(self.process.alphas_bar.numpy().tobytes())
        settings = {key: v for key, v in self.unet.config.items() if not key.startswith("_")}
        digest.update(repr(sorted(settings.items())).encode())
        for piece in pieces_of_weights(self.modules().values()):
            digest.update(piece)
        return digest.hexdigest()[:16]

    def encode_prompt(self, text: str) -> EncodedPrompt:
        """The embedding of a prompt, its tokens, and the part that did not fit the window."""
        return encode_prompt(self.tokenizer, self.text_encoder, text)

    def encode_frames(self, pixels: Float[Tensor, "n 3 H W"]) -> tuple[Tensor, Tensor]:
        """Mean and deviation of unscaled latents `[n, c, h, w]`, float32, for pixels in -1..1."""
        posterior = self.vae.encode(self._for_vae(pixels)).latent_dist
        return posterior.mean.to(pixels.device).float(), posterior.std.to(pixels.device).float()

    def decode_frames(self, latents: Float[Tensor, "n c h w"]) -> Float[Tensor, "n 3 H W"]:
        """The pixels of unscaled latents, about -1..1, float32.

        Raises:
            ValueError: if they have a wrong number of channels.
        """
        if (found := latents.shape[1]) != (channels := self.vae.config.latent_channels):
            raise ValueError(
                f"The latents have {found} channels, this VAE takes {channels}. Decode them with "
                "the VAE of the model that made them."
            )
        pixels = self.vae.decode(self._for_vae(latents)).sample
        return pixels.to(latents.device).float()

    def _for_vae(self, frames: Tensor) -> Tensor:
        weight = next(self.vae.parameters())
        return frames.to(weight.device, weight.dtype)

    @cached_property
    def denoiser(self) -> Denoiser:
        """The model as a loop sees it."""
        space = LatentSpace(
            self.unet.config.in_channels, self.vae_factor, self.scaling_factor, self.shift_factor
        )
        layers = UNetLayers(self.unet)
        return Denoiser(self.name, self.process, self.predicts, self._output, space, layers)

    def run(self, z: Latents, work: Callable[[Denoiser], Result]) -> Result:
        """Call `work` with the denoiser, for a clip's latents, and return its result."""
        return work(self.denoiser)

    def _output(self, z: Latents, t: float, cond: Cond) -> Latents:
        """The raw output of the UNet, float32, on the device of `z`; see `Denoiser`."""
        self._check(z, cond)
        here = {"device": self.device, "dtype": self.dtype}
        times = torch.full((len(z),), round(t), device=self.device)
        output = _CALLS[self.kind](self.unet, z.to(**here), times, cond.to(**here))
        return output.to(z.device, torch.float32)

    def _check(self, z: Tensor, cond: Tensor) -> None:
        b, channels, frames = z.shape[:3]
        if channels != self.unet.config.in_channels:
            raise ValueError(
                f"The latents have {channels} channels, {self.name} takes "
                f"{self.unet.config.in_channels}. Encode the clip with the same model's VAE."
            )
        if self.max_frames is not None and frames > self.max_frames:
            raise ValueError(
                f"The clip has {frames} frames; the motion module of {self.name} knows "
                f"{self.max_frames}. Edit a shorter clip, or use a motion module for longer ones."
            )
        if self.kind == "text-to-video":
            one_text_a_clip(cond, z, self.name)
        leading = (b, frames)[: cond.ndim - 2]
        if cond.ndim not in (3, 4) or tuple(cond.shape[:-2]) != leading:
            raise ValueError(
                f"The text embeddings have shape {list(cond.shape)}, the latents {list(z.shape)}. "
                f"Expected one embedding [tokens, width] for each of the {b} clips, or for each of "
                f"the {b} x {frames} frames."
            )
        width = self.unet.config.cross_attention_dim
        if cond.shape[-1] != width:
            raise ValueError(
                f"The text embeddings are {cond.shape[-1]} wide, {self.name} takes {width}. Encode "
                "the prompts with the same model's text encoder."
            )
