"""Convert clips, masks and latents between the host's layouts and those of the algorithms."""

import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

log = logging.getLogger("rescore")


def clip_from_image(image: "torch.Tensor") -> "torch.Tensor":
    """IMAGE `[f, H, W, c]` in 0..1 to a clip `[1, 3, f, H, W]`; a view if c is 3.

    Grey becomes three equal channels; an alpha channel is dropped, and the log says so.

    Raises:
        ValueError: if it is not an image batch.
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


def latents_of(samples: "torch.Tensor", model: Any) -> "torch.Tensor":
    """The samples of a LATENT to model latents `[1, c, f, h, w]`, float32.

    Samples are `[f, c, h, w]` for models that encode frame by frame, otherwise `[1, c, f, h, w]`.

    Raises:
        ValueError: for latents of another layout.
    """
    return model.latents_in(unscaled_of(samples, model))


def samples_of(z: "torch.Tensor", model: Any) -> "torch.Tensor":
    """Model latents `[1, c, f, h, w]` to the samples of a LATENT, on the CPU."""
    return samples_of_unscaled(model.latents_out(z), model).cpu()


def unscaled_of(samples: "torch.Tensor", model: Any) -> "torch.Tensor":
    """The samples of a LATENT as `[1, c, f, h, w]`, float32, as the autoencoder gives them.

    Raises:
        ValueError: for latents of another layout.
    """
    from einops import rearrange

    if getattr(samples, "is_nested", False):
        raise ValueError(
            "The latents are of a model that makes sound and video at once, packed together. "
            "ReScore edits video alone: use a model without sound."
        )
    if model.by_frame and samples.ndim == 4:
        return rearrange(samples, "f c h w -> 1 c f h w").float()
    if not model.by_frame and samples.ndim == 5 and len(samples) == 1:
        return samples.float()
    expected = "[frames, channels, height, width]"
    if not model.by_frame:
        expected = "[1, channels, frames, height, width], one clip,"
    raise ValueError(
        f"The latents have shape {list(samples.shape)}; {expected} is expected for {model.name}. "
        "Encode the clip with Video VAE Encode and this model, or with the VAE that belongs to it."
    )


def samples_of_unscaled(latents: "torch.Tensor", model: Any) -> "torch.Tensor":
    """Any `[1, c, f, h, w]` laid out as the samples of a LATENT."""
    from einops import rearrange

    return rearrange(latents, "1 c f h w -> f c h w") if model.by_frame else latents


def masks_of(mask: "torch.Tensor") -> "torch.Tensor":
    """MASK `[f, H, W]`, `[1, H, W]` or `[H, W]` to masks `[n, H, W]`, float32.

    Raises:
        ValueError: if it is not a mask, or holds anything but numbers from 0 to 1.
    """
    from ..pipelines.models.grid import check_values

    if mask.ndim == 2:
        mask = mask[None]
    if mask.ndim != 3:
        raise ValueError(
            f"The mask has shape {list(mask.shape)}; a MASK of [frames, height, width] is expected."
        )
    mask = mask.float()
    check_values(mask)
    return mask


def if_black(mask: "torch.Tensor | None", note: str) -> str:
    """A note on a mask that is black everywhere; "" on any other, and without a mask."""
    return "" if mask is None or bool(mask.any()) else note


def note_on_mask(latent: dict[str, Any]) -> str:
    """What to tell of a LATENT with a noise mask, which is not used; "" without one."""
    if latent.get("noise_mask") is None:
        return ""
    return (
        "The latent has a noise mask (Set Latent Noise Mask), and ReScore does not read it. Wire "
        "that mask into Score Distillation, Gradient Mask or Attention-Controlled Sampling instead."
    )
