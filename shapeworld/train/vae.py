"""Training the autoencoder that all shape-world models share."""

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional

from ..edits import HELD_OUT_SEEDS
from ..models import build_vae
from ..render import render
from ..scene import sample_scene
from .loop import Recipe

STEPS = 4000
_SCENES = 6  # a step, two frames of each
_KL_WEIGHT = 1e-6
TRAINING_SEEDS = HELD_OUT_SEEDS  # scenes below this seed are kept for suites, tests and figures


def recipe(steps: int = STEPS) -> Recipe:
    torch.manual_seed(0)
    vae = build_vae().train()

    def loss(generator: torch.Generator) -> Tensor:
        """Mean squared error of the pixels, with a trace of the KL divergence."""
        pixels = _frames(generator)
        posterior = vae.encode(pixels).latent_dist
        decoded = vae.decode(posterior.sample(generator)).sample
        return functional.mse_loss(decoded, pixels) + _KL_WEIGHT * posterior.kl().mean()

    return Recipe("vae", vae, loss, steps, learning_rate=2e-3)


def _frames(generator: torch.Generator) -> Tensor:
    """Frames of random scenes, `[b, 3, h, w]` in -1..1."""
    seeds = torch.randint(TRAINING_SEEDS, 1 << 31, (_SCENES,), generator=generator).tolist()
    clips = torch.cat([render(sample_scene(seed, frames=2)).clip for seed in seeds])
    return rearrange(clips, "b h w c -> b c h w") * 2 - 1
