"""Latents and captions to train the diffusion models on, encoded once and kept in one file."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from einops import rearrange
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from ..render import render
from ..scene import CANVAS, Background, Scene, caption, sample_scene
from .vae import TRAINING_SEEDS

# Mostly the usual eight frames; the longer clips teach other lengths. With 6,144 of them a
# video model's error at much noise was a tenth less on the clips it knew than on others.
LENGTHS = {8: 16_384, 16: 1536}
_CLIPS = 8  # of a batch; a clip of twice the length counts twice
_DROPOUT = 0.1  # of captions, for classifier-free guidance


@dataclass(frozen=True)
class Pool:
    """Clips of one length: scaled latents, and captions with and without the motion."""

    latents: Tensor  # [n, 4, f, h, w] float32, scaled to about unit variance
    captions: list[str]
    still_captions: list[str]


Pools: TypeAlias = dict[int, Pool]  # by length in frames


@dataclass(frozen=True)
class Source:
    """Where a pool's clips come from: `sample(seed, frames=...)`, and how many of each length."""

    sample: Callable[..., Scene]
    lengths: dict[int, int]
    first_seed: int = TRAINING_SEEDS

    def of(self, clips: int | None) -> "Source":
        """The same with so many clips of each length, or as it is."""
        return self if clips is None else replace(self, lengths=dict.fromkeys(self.lengths, clips))

    def seeds(self, frames: int) -> range:
        """The seeds of one length; none serves two lengths."""
        lengths = list(self.lengths)
        first = self.first_seed + sum(self.lengths[n] for n in lengths[: lengths.index(frames)])
        return range(first, first + self.lengths[frames])

    def scenes(self, frames: int) -> list[Scene]:
        """The scenes of one length."""
        return [self.sample(seed, frames=frames) for seed in self.seeds(frames)]


def demanding_scene(seed: int, *, frames: int) -> Scene:
    """A scene of the world that asks more of a model than most.

    Two in five have a second object, one in three circles and one in three lies before a checker:
    more than usual, since these are harder than all else.
    """
    generator = np.random.default_rng([1, seed])
    second = bool(generator.random() < 0.4)
    circling = "circling" if generator.random() < 0.2 else None
    checker = "checker" if generator.random() < 0.13 else None
    return sample_scene(seed, frames=frames, second=second, motion=circling, background=checker)


def first_lesson(seed: int, *, frames: int) -> Scene:
    """A large red circle that moves about the middle of a grey canvas.

    Elsewhere how things move is a small part of what a clip shows, and which way a word changes a
    pixel depends on the colours, on the place and on the frame all at once: of such a product of
    four a network learns nothing for thousands of steps. Here nearly all that varies is the motion.
    """
    return replace(second_lesson(seed, frames=frames), shape="circle", colour="red", size="large")


def second_lesson(seed: int, *, frames: int) -> Scene:
    """Anything that moves about the middle of a grey canvas: what was learnt holds for all."""
    grey, middle = (0.5, 0.5, 0.5), CANVAS / 2
    scene = sample_scene(seed, frames=frames, second=False)
    return replace(scene, background=Background("plain", (grey, grey)), x=middle, y=middle)


CLIPS = Source(demanding_scene, LENGTHS)
_LESSON_SEEDS = TRAINING_SEEDS + sum(LENGTHS.values())
LESSONS = (
    Source(first_lesson, {8: 256}, first_seed=_LESSON_SEEDS),
    Source(second_lesson, {8: 512}, first_seed=_LESSON_SEEDS + 256),
)


@torch.no_grad()
def encode_pools(vae, file: Path, source: Source = CLIPS) -> None:
    """Render and encode the clips of a source; float16, unscaled posterior means."""
    tensors = {}
    for frames in source.lengths:
        latents = []
        for scene in tqdm(source.scenes(frames), desc=f"clips of {frames} frames"):
            clip = rearrange(render(scene).clip, "f h w c -> f c h w")
            mean = vae.encode(clip * 2 - 1).latent_dist.mean
            latents.append(rearrange(mean, "f c h w -> c f h w").half())
        tensors[str(frames)] = torch.stack(latents)
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, file)


def latent_scale(file: Path) -> float:
    """The factor that brings the latents to unit variance: the VAE's `scaling_factor`."""
    with safe_open(file, "pt") as opened:
        return 1 / float(opened.get_tensor("8").float().std())


def load_pools(file: Path, scale: float, source: Source = CLIPS) -> Pools:
    """The pools of a file, with their captions derived again from the scenes' seeds.

    Raises:
        ValueError: if the file was encoded with other numbers of clips than the source has.
    """
    tensors, pools = load_file(file), {}
    found = {int(frames): len(latents) for frames, latents in tensors.items()}
    if found != source.lengths:
        raise ValueError(
            f"{file} holds clips as {found} (frames: clips), but {source.lengths} are asked for: "
            "delete it, and it is made anew."
        )
    for frames in sorted(source.lengths):
        scenes = source.scenes(frames)
        pools[frames] = Pool(
            tensors[str(frames)].float() * scale,
            [caption(scene) for scene in scenes],
            [caption(scene, motion=False) for scene in scenes],
        )
    return pools


def draw_clips(pools: Pools, generator: torch.Generator) -> tuple[Tensor, list[str]]:
    """A batch of clips of one length, `[b, 4, f, h, w]`, three in four of the shortest length."""
    lengths = sorted(pools)
    long = len(lengths) > 1 and float(torch.rand((), generator=generator)) < 0.25
    pool = pools[lengths[1] if long else lengths[0]]
    count = max(1, _CLIPS * lengths[0] // pool.latents.shape[2])
    chosen = torch.randint(len(pool.captions), (count,), generator=generator)
    dropped = torch.rand(count, generator=generator) < _DROPOUT
    texts = ["" if d else pool.captions[i] for i, d in zip(chosen, dropped, strict=True)]
    return pool.latents[chosen], texts


def draw_stills(
    pools: Pools, generator: torch.Generator, count: int = 32
) -> tuple[Tensor, list[str]]:
    """A batch of frames of clips of eight, `[b, 4, h, w]`.

    A caption that names the motion goes with a frame near its end, any other with any frame. A
    still from anywhere would say nothing about motion, text encoder and UNet would learn to swallow
    those words, and neither the video model nor the adapter would hear them.
    """
    pool = pools[8]
    frames = pool.latents.shape[2]
    clips = torch.randint(len(pool.captions), (count,), generator=generator)
    draw = torch.rand(count, generator=generator)
    names_motion = (draw >= _DROPOUT) & (draw < 0.55)
    first = torch.where(names_motion, frames - frames // 4, 0)
    frame = first + (torch.rand(count, generator=generator) * (frames - first)).long()
    texts = [
        "" if d < _DROPOUT else (pool.captions if named else pool.still_captions)[i]
        for i, d, named in zip(clips, draw, names_motion, strict=True)
    ]
    return pool.latents[clips, :, frame], texts
