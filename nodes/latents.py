"""Nodes that encode frames as latents and decode them, a few frames at a time."""

import logging

from . import host, layouts
from .running import decoded
from .shared import FIXED_SEED
from .sockets import FRAMES, MODEL, PIXEL_SIZE
from .widgets import COMBO, INT, SOCKET, Node, outputs

log = logging.getLogger("rescore")

CATEGORY = f"{host.CATEGORY}/latents"
_FRAMES_PER_CHUNK = INT(8, 1, 256,
    "Frames that go through the VAE at once. Lower it when memory runs "
    "out; the result is the same.", advanced=True
)  # fmt: skip
# The memory for activations of Stable Diffusion's autoencoder in float32, in bytes per pixel of a
# chunk, measured by benchmarks/real_sizes.py.
_BYTES_PER_PIXEL = 3100


class VideoVAEEncode(Node):
    TITLE = "Video VAE Encode"
    SEARCH_ALIASES = ["video to latent", "encode video", "VAE encode", "image to latent"]
    DESCRIPTION = (
        "Encodes a clip with the model's VAE, a few frames at a time, so that its length does not "
        "matter for memory. Any width, height and number of frames: clips are padded inside and "
        "cropped back by Video VAE Decode. The result is an ordinary LATENT, as the host's own VAE "
        "nodes give."
    )
    CATEGORY = CATEGORY
    FUNCTION = "encode"
    RETURN_TYPES, RETURN_NAMES, OUTPUT_TOOLTIPS = outputs(
        latent=("LATENT", "One latent per frame, or per four frames where the VAE says so (Wan)."),
    )
    REQUIRED = {
        "model": SOCKET(MODEL, "The model whose VAE encodes the clip."),
        "images": SOCKET("IMAGE", "The clip, from Get Video Components or any node of frames."),
        "frames_per_chunk": _FRAMES_PER_CHUNK,
        "posterior": COMBO(["mean", "sample"],
            "mean: the most likely latent, best for editing. sample: drawn from the VAE's "
            "distribution with the seed.", advanced=True),
        "seed": FIXED_SEED("Used only when posterior is sample.", advanced=True),
    }  # fmt: skip

    def encode(self, model, images, frames_per_chunk: int, posterior: str, seed: int):
        import torch

        from ..pipelines.models.codec import encode_video

        clip = layouts.clip_from_image(images)
        _tell_padding(model, clip.shape[2])
        host.load(model, "vae", memory=_memory(model, frames_per_chunk, *clip.shape[-2:]))
        bar = host.progress(clip.shape[2])
        options = {
            "generator": torch.Generator().manual_seed(seed) if posterior == "sample" else None,
            "on_chunk": lambda done, _: bar(done),
        }
        if model.whole_clips:
            latents = model.encode_clip(clip, **options)
        else:
            latents = encode_video(
                clip,
                model.encode_frames,
                model.vae_factor,
                frames_per_chunk=frames_per_chunk,
                **options,
            )
        samples = layouts.samples_of_unscaled(latents, model).cpu()
        kept = {PIXEL_SIZE: tuple(clip.shape[-2:]), FRAMES: clip.shape[2]}
        return ({"samples": samples, **kept},)


class VideoVAEDecode(Node):
    TITLE = "Video VAE Decode"
    SEARCH_ALIASES = ["latent to video", "decode video", "VAE decode", "latent to image"]
    DESCRIPTION = (
        "Decodes latents with the model's VAE in chunks, and crops what Video VAE Encode padded: "
        "the clip has the size and the number of frames it came with."
    )
    CATEGORY = CATEGORY
    FUNCTION = "decode"
    RETURN_TYPES, RETURN_NAMES, OUTPUT_TOOLTIPS = outputs(
        images=("IMAGE", "The clip, for Create Video or Compare Clips."),
    )
    REQUIRED = {
        "model": SOCKET(MODEL, "The model whose VAE made the latents."),
        "latent": SOCKET("LATENT", "The latents of a clip."),
        "frames_per_chunk": _FRAMES_PER_CHUNK,
    }  # fmt: skip

    def decode(self, model, latent, frames_per_chunk: int):
        samples = latent["samples"]
        sides = (side * model.vae_factor for side in samples.shape[-2:])
        host.load(model, "vae", memory=_memory(model, frames_per_chunk, *sides))
        bar = host.progress(samples.shape[-4 if model.by_frame else -3])
        clip = decoded(
            model,
            samples,
            size=latent.get(PIXEL_SIZE),
            frames=latent.get(FRAMES),
            frames_per_chunk=frames_per_chunk,
            on_chunk=lambda done, _: bar(done),
        )
        return (layouts.image_from_clip(clip),)


def _tell_padding(model, frames: int) -> None:
    """Say on the node and in the log if the VAE takes other numbers of frames, and which."""
    stride = model.vae_stride
    fits = 1 + (frames - 1) // stride * stride
    told = ""
    if frames != fits:
        told = (
            f"{frames} frames: this VAE takes 1 + {stride} n of them, such as {fits} or "
            f"{fits + stride}. The last frame is repeated up to {fits + stride}, and Video VAE "
            "Decode cuts what was added."
        )
        log.info(told)
    host.tell(told)


def _memory(model, frames_per_chunk: int, height: int, width: int) -> int:
    """Bytes that encoding or decoding takes; Wan's autoencoder has its own chunks."""
    frames = frames_per_chunk if model.by_frame else model.vae_stride
    return _BYTES_PER_PIXEL * frames * height * width


NODE_CLASS_MAPPINGS = {
    "ReScoreVideoVAEEncode": VideoVAEEncode,
    "ReScoreVideoVAEDecode": VideoVAEDecode,
}
