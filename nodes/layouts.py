"""From the host's layouts of clips, masks and latents to those of the algorithms, and back."""

import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

log = logging.getLogger("rescore")


def clip_from_image(image: "torch.Tensor") -> "torch.Tensor":
    """IMAGE `[f, H, W, c]` in 0..1 to a clip `[1, 3, f, H, W]`: a view where it already has 3.

    Grey becomes three equal channels; an alpha channel is dropped, and the log says so.

    Raises:
        ValueError: for anything that is not an image batch.
    """
    from einops import rearrange

    if image.ndim != 4 or image.shape[-1] not in (1, 3, 4):
        raise ValueError(
            f"The clip has shape {list(image.shape)}; an IMAGE of [frames, height, width, 3] is "
            "expected."
        )
    if image.shape[-1] == 4:
        log.warning("The clip has an alpha channel; ReScore edits its colours and drops the alpha.")
        image = image[..., :3]
    clip = rearrange(image, "f h w c -> 1 c f h w")
    return clip.expand(-1, 3, -1, -1, -1)


def image_from_clip(clip: "torch.Tensor") -> "torch.Tensor":
    """A clip `[1, 3, f, H, W]` in 0..1 to IMAGE `[f, H, W, 3]`."""
    from einops import rearrange

    return rearrange(clip, "1 c f h w -> f h w c")


def latents_of(samples: "torch.Tensor", scale: float, shift: float = 0.0) -> "torch.Tensor":
    """LATENT samples `[f, c, h, w]`, unscaled, to model latents `[1, c, f, h, w]`, float32.

    Raises:
        ValueError: for latents of another layout.
    """
    from einops import rearrange

    if samples.ndim != 4:
        raise ValueError(
            f"The latents have shape {list(samples.shape)}; [frames, channels, height, width] is "
            "expected, as Video VAE Encode and the host's VAE Encode give."
        )
    return (rearrange(samples, "f c h w -> 1 c f h w").float() - shift) * scale


def samples_of(z: "torch.Tensor", scale: float, shift: float = 0.0) -> "torch.Tensor":
    """Model latents `[1, c, f, h, w]` to LATENT samples `[f, c, h, w]`, unscaled, on the CPU."""
    from einops import rearrange

    return rearrange(z / scale + shift, "1 c f h w -> f c h w").cpu()


def masks_of(mask: "torch.Tensor") -> "torch.Tensor":
    """MASK `[f, H, W]`, `[1, H, W]` or `[H, W]` to masks `[n, H, W]`, float32.

    Raises:
        ValueError: for anything that is not a mask.
    """
    if mask.ndim == 2:
        mask = mask[None]
    if mask.ndim != 3:
        raise ValueError(
            f"The mask has shape {list(mask.shape)}; a MASK of [frames, height, width] is expected."
        )
    return mask.float()


def edit_masks_of(mask: "torch.Tensor") -> "torch.Tensor":
    """As `masks_of`, for a mask outside of which nothing is edited: the log says if that is all."""
    masks = masks_of(mask)
    if not bool(masks.any()):
        log.warning(
            "The mask is black everywhere, so that nothing is edited. White is where the edit "
            "acts. Load Image gives a black mask for a picture without transparency, such as a "
            "JPEG: take Load Image (as Mask) with the channel red for it, or leave the mask out."
        )
    return masks


def samples_to_edit(latent: dict[str, Any]) -> "torch.Tensor":
    """The samples of a LATENT; the log says so if it has a noise mask, which nothing here reads."""
    if latent.get("noise_mask") is not None:
        log.warning(
            "The latent has a noise mask (Set Latent Noise Mask), and ReScore does not read it. "
            "Wire that mask into Score Distillation, Gradient Mask or Attention-Controlled "
            "Sampling instead."
        )
    return latent["samples"]
