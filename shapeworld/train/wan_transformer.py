"""Training the tiny Wan's transformer by flow matching, on latents that were encoded once."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from diffusers import AutoencoderKLWan
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from ..wan import SCHEDULE, build_transformer, standard
from .captions import Captions
from .data import Source, demanding_scene
from .loop import Recipe
from .optimisers import Muon
from .rendering import in_chunks, scene_rows
from .vae import TRAINING_SEEDS
from .wan_vae import means

CLIPS = Source(
    demanding_scene, {9: 21_226, 13: 8490, 17: 12_735}, TRAINING_SEEDS + (1 << 28) + (1 << 20)
)
STEPS = 29_100
_BATCH, _DROPOUT = 512, 0.1


@dataclass(frozen=True)
class Told:
    """Clips of one length: standard latents, and which text goes with each."""

    latents: Float[Tensor, "n c k y x"]  # float16
    texts: Int[Tensor, " n"]  # rows of the table of texts


@dataclass(frozen=True)
class Lessons:
    """All that the transformer is trained on. The first text says nothing."""

    pools: dict[int, Told]  # by length in frames
    table: Float[Tensor, "m l d"]  # every text once, float16


@torch.no_grad()
def make_lessons(
    vae: AutoencoderKLWan, captions: Captions, source: Source, *, workers: int = 0
) -> Lessons:
    """Render and encode the clips of a source, and encode their captions, where the models lie."""
    scenes = {frames: scene_rows(source, frames, workers=workers) for frames in source.lengths}
    every = ["", *dict.fromkeys(text for _, texts in scenes.values() for text in texts)]
    row_of = {text: row for row, text in enumerate(every)}
    pools = {}
    for frames, (rows, texts) in scenes.items():
        parts = [
            standard(vae, means(vae, clips)).half() for clips in in_chunks(rows.to(vae.device), 64)
        ]
        index = torch.tensor([row_of[text] for text in texts], device=vae.device)
        pools[frames] = Told(torch.cat(parts), index)
    table = [captions(every[i : i + 512]).half() for i in range(0, len(every), 512)]
    return Lessons(pools, torch.cat(table))


def transformer_recipe(lessons: Lessons, steps: int | None = None) -> Recipe:
    """Flow matching (Lipman et al., 2022): the velocity from a clip to noise, at a random time."""
    torch.manual_seed(8)
    transformer = build_transformer()
    short, *longer = sorted(lessons.pools)
    turns = [length for long in longer[::-1] for length in (short, long)] or [short]

    def loss(generator: torch.Generator) -> Tensor:
        # The seeds of a training's steps follow one another, so lengths take turns.
        pool = lessons.pools[turns[generator.initial_seed() % len(turns)]]
        return flow_loss(transformer, pool, lessons.table, generator)

    return Recipe(
        "shapeworld-wan",
        transformer,
        loss,
        steps or STEPS,
        learning_rate=0.005,
        averaging=0.9995,
        seed=8,
        optimiser=Muon,
    )


def flow_loss(
    transformer: Callable[..., tuple[Tensor, ...]],
    told: Told,
    table: Tensor,
    generator: torch.Generator,
) -> Tensor:
    """Mean squared error of the predicted velocity, noise - z_0, where the two are mixed.

    `z_t = (1 - sigma) z_0 + sigma noise`. Times are spread evenly over the batch and shifted
    towards noise, as they are in sampling. A tenth of the clips is told nothing.
    """
    device, count = told.latents.device, min(_BATCH, len(told.texts))

    def draw(count: int) -> Tensor:
        return torch.rand(count, generator=generator, device=device)

    chosen = torch.randint(len(told.texts), (count,), generator=generator, device=device)
    text = table[torch.where(draw(count) < _DROPOUT, 0, told.texts[chosen])].float()
    z_0 = told.latents[chosen].float()
    share = (torch.arange(count, device=device) + draw(count)) / count
    shift = SCHEDULE["shift"]
    sigma = shift * share / (1 + (shift - 1) * share)
    noise = torch.randn(z_0.shape, generator=generator, device=device)
    level = sigma.view(-1, 1, 1, 1, 1)
    z_t = (1 - level) * z_0 + level * noise
    times = SCHEDULE["num_train_timesteps"] * sigma
    velocity = transformer(z_t, times, text, return_dict=False)[0]
    return functional.mse_loss(velocity.float(), noise - z_0)
