"""Latents and captions to train the diffusion models on, encoded once and kept in one file."""

from dataclasses import dataclass
from pathlib import Path

import torch
from einops import rearrange
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from ..render import render
from ..scene import caption, sample_scene
from .vae import TRAINING_SEEDS

# Mostly the usual eight frames; the longer clips teach the temporal layers other lengths.
LENGTHS = {8: 4608, 16: 1024}


@dataclass(frozen=True)
class Pool:
    """Clips of one length: scaled latents, and captions with and without the motion."""

    latents: Tensor  # [n, 4, f, h, w] float32, scaled to about unit variance
    captions: list[str]
    still_captions: list[str]


@torch.no_grad()
def encode_pools(vae, file: Path, lengths: dict[int, int] = LENGTHS) -> None:
    """Render and encode the training clips of every length; float16, unscaled posterior means."""
    tensors, first = {}, TRAINING_SEEDS
    for frames, count in lengths.items():
        latents = []
        for seed in tqdm(range(first, first + count), desc=f"clips of {frames} frames"):
            clip = rearrange(render(sample_scene(seed, frames=frames)).clip, "f h w c -> f c h w")
            mean = vae.encode(clip * 2 - 1).latent_dist.mean
            latents.append(rearrange(mean, "f c h w -> c f h w").half())
        tensors[str(frames)] = torch.stack(latents)
        first += count
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, file)


def latent_scale(file: Path) -> float:
    """The factor that brings the latents to unit variance: the VAE's `scaling_factor`."""
    with safe_open(file, "pt") as opened:
        return 1 / float(opened.get_tensor("8").float().std())


def load_pools(file: Path, scale: float) -> dict[int, Pool]:
    """The pools of a file, with their captions derived again from the scenes' seeds."""
    pools, first = {}, TRAINING_SEEDS
    with safe_open(file, "pt") as opened:
        for frames in sorted(int(key) for key in opened.keys()):
            latents = opened.get_tensor(str(frames)).float() * scale
            scenes = [
                sample_scene(seed, frames=frames) for seed in range(first, first + len(latents))
            ]
            pools[frames] = Pool(
                latents, [caption(s) for s in scenes], [caption(s, motion=False) for s in scenes]
            )
            first += len(latents)
    return pools
