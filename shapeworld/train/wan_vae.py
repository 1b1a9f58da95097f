"""Training the tiny Wan's autoencoder: pictures first, then clips, then long clips."""

from typing import TypeAlias

import torch
from diffusers import AutoencoderKLWan
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional

from ..wan import build_vae
from . import whole_clip
from .data import Source, demanding_scene
from .loop import Recipe
from .optimisers import Muon
from .rendering import in_chunks
from .vae import TRAINING_SEEDS

CLIPS = Source(demanding_scene, {9: 24_000, 17: 10_000}, TRAINING_SEEDS + (1 << 28))
LONG_CLIPS = Source(demanding_scene, {29: 160}, TRAINING_SEEDS + (1 << 28) + (1 << 21))
STEPS = {"wan-vae-stills": 1540, "wan-vae": 6900, "wan-vae-long": 1200}
# Deviation of the noise on the latents in training, where theirs is about 1. The decoder learns to
# pass over small errors, so that latents made by a transformer need not be exact.
SPREAD = 0.1
_EVENNESS = 0.05  # weight of the pull towards mean 0 and deviation 1 of every channel
_SQUARES = 4.0  # weight of the squared error beside the absolute one
_STILLS, _FRAMES = 256, 576  # pictures of a step, frames of the clips of a step
_LENGTHS = (57, 17, 9, 113, 17, 9)  # frames of the clips of long steps, in turn

Clips: TypeAlias = dict[int, UInt8[Tensor, "n 3 f h w"]]  # by length in frames


def rendered(rows: Float[Tensor, "n r"]) -> UInt8[Tensor, "n 3 f h w"]:
    """The clips of all rows, in 256 steps of brightness."""
    return torch.cat([(clip * 255).round().byte() for clip in in_chunks(rows, 64)])


def vae_recipes(clips: Clips, steps: int | None = None) -> tuple[Recipe, Recipe]:
    """Two stages: what a picture is made of, then how pictures follow one another."""
    torch.manual_seed(6)
    vae = build_vae().train()

    def still_loss(generator: torch.Generator) -> Tensor:
        return vae_loss(vae, _draw_stills(clips, generator), generator)

    def clip_loss(generator: torch.Generator) -> Tensor:
        return vae_loss(vae, _draw_clips(clips, generator), generator)

    def stage(name: str, loss, seed: int, settles: bool) -> Recipe:
        count = steps or STEPS[name]
        return Recipe(name, vae, loss, count, 0.012, seed=seed, settles=settles, optimiser=Muon)

    return (
        stage("wan-vae-stills", still_loss, 6, settles=False),
        stage("wan-vae", clip_loss, 7, settles=True),
    )


def vae_loss(
    vae: AutoencoderKLWan, pixels: UInt8[Tensor, "b 3 f h w"], generator: torch.Generator
) -> Tensor:
    """Absolute and squared errors of the pixels, and of the channels' means and deviations."""
    pixels = pixels.to(memory_format=torch.channels_last_3d).float() / 127.5 - 1
    mean = whole_clip.encode(vae, pixels)[:, : vae.config.z_dim].float()
    noise = torch.randn(mean.shape, generator=generator, device=mean.device)
    decoded = whole_clip.decode(vae, mean + SPREAD * noise).float()
    deviation, middle = torch.std_mean(mean, dim=(0, 2, 3, 4))
    evenness = (deviation.log() ** 2 + middle**2).mean()
    return _pixel_error(decoded, pixels) + _EVENNESS * evenness


def _pixel_error(decoded: Tensor, pixels: Tensor) -> Tensor:
    return functional.l1_loss(decoded, pixels) + _SQUARES * functional.mse_loss(decoded, pixels)


def _draw_stills(clips: Clips, generator: torch.Generator) -> Tensor:
    """Single pictures, as clips of one frame."""
    pool = clips[min(clips)]
    count = min(_STILLS, len(pool))
    which, when = (
        torch.randint(size, (count,), generator=generator, device=pool.device)
        for size in (len(pool), pool.shape[2])
    )
    return pool[which, :, when][:, :, None]


def _draw_clips(clips: Clips, generator: torch.Generator) -> Tensor:
    """Clips of one length: of three batches, two of the shortest and one of the longest."""
    long = generator.initial_seed() % 3 == 1  # the seeds of a training's steps follow one another
    pool = clips[max(clips) if long else min(clips)]
    count = min(_FRAMES // pool.shape[2], len(pool))
    return pool[torch.randint(len(pool), (count,), generator=generator, device=pool.device)]


def long_recipe(
    vae: AutoencoderKLWan, clips: UInt8[Tensor, "n 3 f h w"], steps: int | None = None
) -> Recipe:
    """The decoder alone, on clips longer than any before.

    Every frame of a decoder that looks back in time depends on about 30 latents. Of short clips
    it has always seen the beginning; without it, errors grew from frame to frame. The clips are
    played there and back again. The encoder stays: from its fourth latent on it forgets the
    beginning by itself, and the transformer knows its latents.
    """
    there_and_back = torch.cat([clips, clips.flip(2)[:, :, 1:-1]], dim=2)
    long = there_and_back.repeat(1, 1, 1 + max(_LENGTHS) // there_and_back.shape[2], 1, 1)
    long = long[:, :, : max(_LENGTHS)]
    latents = torch.cat([means(vae, part / 255).half() for part in long.split(1)])
    deviation = (vae.quant_conv.bias.detach()[vae.config.z_dim :] / 2).exp().view(-1, 1, 1, 1)

    def loss(generator: torch.Generator) -> Tensor:
        # The seeds of a training's steps follow one another, so lengths take turns.
        frames = _LENGTHS[generator.initial_seed() % len(_LENGTHS)]
        count = max(1, 51 // frames)
        chosen = torch.randint(len(long), (count,), generator=generator, device=long.device)
        z = latents[chosen, :, : (frames + 3) // 4].float()
        noise = torch.randn(z.shape, generator=generator, device=z.device)
        decoded = whole_clip.decode(vae, z + deviation * noise).float()
        pixels = long[chosen, :, :frames].float() / 127.5 - 1
        return _pixel_error(decoded, pixels)

    steps = steps or STEPS["wan-vae-long"]
    return Recipe("wan-vae-long", vae.decoder, loss, steps, 1e-3, averaging=0.99, seed=9)


@torch.no_grad()
def means(vae: AutoencoderKLWan, clips: Float[Tensor, "b 3 f h w"]) -> Float[Tensor, "b c k y x"]:
    """The latents of clips in 0..1: the means of the posterior."""
    pixels = (clips * 2 - 1).to(memory_format=torch.channels_last_3d)
    return whole_clip.encode(vae, pixels)[:, : vae.config.z_dim].float()


@torch.no_grad()
def settle(vae: AutoencoderKLWan, latents: Float[Tensor, "n c k y x"]) -> None:
    """Rescale every channel to the mean and deviation that the configuration names, exactly.

    `latents` are some of the autoencoder's own. The layers next to them, kernels of one pixel, take
    the factors in, so pictures stay as they are. From then on the posterior has the one deviation
    that the decoder was trained with.
    """
    deviation, middle = torch.std_mean(latents, dim=(0, 2, 3, 4))
    wanted, centre = (
        torch.tensor(values, device=latents.device)
        for values in (vae.config.latents_std, vae.config.latents_mean)
    )
    up, channels = wanted / deviation, vae.config.z_dim
    last, first = vae.quant_conv, vae.post_quant_conv
    last.weight[:channels] *= up.view(-1, 1, 1, 1, 1)
    last.bias[:channels] = (last.bias[:channels] - middle) * up + centre
    last.weight[channels:] = 0
    last.bias[channels:] = 2 * (SPREAD * up).log()
    first.bias += first.weight[:, :, 0, 0, 0] @ (middle - centre / up)
    first.weight /= up.view(1, -1, 1, 1, 1)
