"""Short runs of the distillation loop with real models at tiny size, watched from outside."""

from dataclasses import dataclass, replace
from functools import cache
from typing import ClassVar

import torch
from rescore.pipelines.distillation.consistency import GlobalConsistency
from rescore.pipelines.distillation.delta_denoising import DeltaDenoising
from rescore.pipelines.distillation.score_distillation import Settings, distil
from rescore.pipelines.distillation.self_similarity import (
    SpatialSelfSimilarity,
    TemporalSelfSimilarity,
)
from rescore.pipelines.distillation.terms import Draw, Needs, Result, Weighted
from rescore.pipelines.models.denoiser import Denoiser, Prompts
from rescore.pipelines.models.process import VariancePreserving, noised
from rescore.pipelines.models.unet.backbone import Backbone
from rescore.shapeworld.models import SCHEDULE as CONFIG
from tiny_models import tiny_vae
from tiny_unets import inputs, unet
from torch import nn

FRAMES = 3
KIND = {"image": "image", "video": "text-to-video", "motion": "animatediff"}
SCHEDULE = VariancePreserving.from_config(CONFIG)
DDS = Weighted(DeltaDenoising())
SPATIAL, TEMPORAL = Weighted(SpatialSelfSimilarity()), Weighted(TemporalSelfSimilarity())
CONSISTENCY = Weighted(GlobalConsistency())
T = 400
LEVEL = SCHEDULE.level(T)
# One step at one timestep, of which the gradient can be read off.
ONE_STEP = Settings(1, 1.0, 7.5, t_min=T / 999, t_max=T / 999)


@cache
def backbone(kind: str) -> Backbone:
    return backbone_of(kind, unet(kind))


def backbone_of(kind: str, model: nn.Module) -> Backbone:
    with torch.random.fork_rng():
        vae = tiny_vae()
    return Backbone("tiny", KIND[kind], model, vae, nn.Identity(), None, SCHEDULE)


def clip(clips: int = 1, frames: int = FRAMES, seed: int = 0) -> torch.Tensor:
    return inputs(clips, frames, seed)[0]


def prompts() -> Prompts:
    return Prompts(*(inputs(1, 1, seed)[1] for seed in (1, 2, 3)))


class Watched:
    """A model's output that notes with how many clips it is called, and which calls ended."""

    def __init__(self, model: Denoiser) -> None:
        self.output, self.rows, self.finished = model.output, [], []

    def __call__(self, z, t, cond):
        self.rows.append(len(z))
        self.finished.append(False)
        prediction = self.output(z, t, cond)
        self.finished[-1] = True
        return prediction


def run(kind, terms, settings=ONE_STEP, z_source=None, *, seen_into=True, **options):
    """A run of the loop, and the `Watched` model; not `seen_into`, its layers are unknown."""
    model = backbone(kind).denoiser
    watched = Watched(model)
    z_source = clip() if z_source is None else z_source
    model = replace(model, output=watched, **({} if seen_into else {"layers": None}))
    return distil(z_source, terms, model, prompts(), settings, **options), watched


@dataclass(frozen=True)
class Pull:
    """A term that asks nothing of the model: it pulls the latents to a value."""

    to: float
    rate: float = 0.1
    name: str = "pull"
    needs: ClassVar[Needs] = Needs()

    def __call__(self, draw, predictions, z, z_source):
        return Result(self.rate * (z - self.to), 1.0)


def edited(kind) -> torch.Tensor:
    """A clip that is not its source any more, as a state to go on from."""
    state, _ = run(kind, (Weighted(Pull(0.3)),))
    return state


def draw_of(z, z_source, seed=7) -> Draw:
    noise = torch.randn(z.shape, generator=torch.Generator().manual_seed(seed))
    return Draw(LEVEL, noise, noised(z, noise, LEVEL), noised(z_source, noise, LEVEL))
