"""Nodes between frames and latents, a few frames at a time."""

from math import prod
from typing import Any

from . import host, layouts
from .sockets import MODEL, PIXEL_SIZE

CATEGORY = f"{host.CATEGORY}/latents"
_FRAMES_PER_CHUNK = (
    "INT",
    {
        "default": 8,
        "min": 1,
        "max": 256,
        "step": 1,
        "tooltip": "Frames that go through the VAE at once. Lower it when memory runs out; the "
        "result is the same.",
    },
)
# What the autoencoder's activations take in float32, in bytes per pixel of a chunk; real Stable
# Diffusion's, as benchmarks/real_sizes.py has it.
_BYTES_PER_PIXEL = 3100


class VideoVAEEncode:
    """Frames to latents."""

    DESCRIPTION = (
        "Encodes a clip with the model's VAE, frame by frame in chunks, so that its length does "
        "not matter for memory. Any width and height: edges are padded inside and cropped back by "
        "Video VAE Decode. The result is an ordinary LATENT, as the host's own VAE nodes give."
    )
    CATEGORY = CATEGORY
    FUNCTION = "encode"
    RETURN_TYPES = ("LATENT",)
    RETURN_NAMES = ("latent",)
    OUTPUT_TOOLTIPS = ("One latent per frame.",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "model": (MODEL, {"tooltip": "The model whose VAE encodes the clip."}),
                "images": (
                    "IMAGE",
                    {"tooltip": "The clip, from Get Video Components or any node of frames."},
                ),
                "frames_per_chunk": _FRAMES_PER_CHUNK,
                "posterior": (
                    ["mean", "sample"],
                    {
                        "default": "mean",
                        "tooltip": "mean: the most likely latent, best for editing. sample: drawn "
                        "from the VAE's distribution with the seed.",
                    },
                ),
                "seed": (
                    "INT",
                    {
                        "default": 0,
                        "min": 0,
                        "max": 0xFFFFFFFF,
                        "step": 1,
                        "control_after_generate": False,
                        "tooltip": "Used only when posterior is sample.",
                    },
                ),
            }
        }

    def encode(self, model, images, frames_per_chunk: int, posterior: str, seed: int):
        import torch
        from einops import rearrange

        from ..pipelines.models.codec import encode_video

        clip = layouts.clip_from_image(images)
        host.load(model, "vae", memory=_BYTES_PER_PIXEL * frames_per_chunk * prod(clip.shape[-2:]))
        bar = host.progress(clip.shape[2])
        latents = encode_video(
            clip,
            model.encode_frames,
            model.vae_factor,
            frames_per_chunk=frames_per_chunk,
            generator=torch.Generator().manual_seed(seed) if posterior == "sample" else None,
            on_chunk=lambda done, _: bar(done),
        )
        samples = rearrange(latents, "1 c f h w -> f c h w").cpu()
        return ({"samples": samples, PIXEL_SIZE: tuple(clip.shape[-2:])},)


class VideoVAEDecode:
    """Latents to frames."""

    DESCRIPTION = (
        "Decodes latents with the model's VAE in chunks, and crops what Video VAE Encode padded: "
        "the clip has the size and the number of frames it came with."
    )
    CATEGORY = CATEGORY
    FUNCTION = "decode"
    RETURN_TYPES = ("IMAGE",)
    RETURN_NAMES = ("images",)
    OUTPUT_TOOLTIPS = ("The clip, for Create Video or Compare Clips.",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "model": (MODEL, {"tooltip": "The model whose VAE made the latents."}),
                "latent": ("LATENT", {"tooltip": "Latents, one per frame."}),
                "frames_per_chunk": _FRAMES_PER_CHUNK,
            }
        }

    def decode(self, model, latent, frames_per_chunk: int):
        from ..pipelines.models.codec import decode_video

        z = layouts.latents_of(latent["samples"], scale=1.0)
        pixels = model.vae_factor**2 * prod(z.shape[-2:])
        host.load(model, "vae", memory=_BYTES_PER_PIXEL * frames_per_chunk * pixels)
        bar = host.progress(z.shape[2])
        clip = decode_video(
            z,
            model.decode_frames,
            size=latent.get(PIXEL_SIZE),
            frames_per_chunk=frames_per_chunk,
            on_chunk=lambda done, _: bar(done),
        )
        return (layouts.image_from_clip(clip),)


NODE_CLASS_MAPPINGS = {
    "ReScoreVideoVAEEncode": VideoVAEEncode,
    "ReScoreVideoVAEDecode": VideoVAEDecode,
}
NODE_DISPLAY_NAME_MAPPINGS = {
    "ReScoreVideoVAEEncode": "Video VAE Encode",
    "ReScoreVideoVAEDecode": "Video VAE Decode",
}
