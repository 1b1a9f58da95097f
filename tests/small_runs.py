"""Short runs of the distillation loop with real models at tiny size, watched from outside."""

from dataclasses import dataclass
from functools import cache

import torch
from rescore.pipelines.distillation.consistency import GlobalConsistency
from rescore.pipelines.distillation.delta_denoising import DeltaDenoising
from rescore.pipelines.distillation.score_distillation import Settings, distil
from rescore.pipelines.distillation.self_similarity import (
    SpatialSelfSimilarity,
    TemporalSelfSimilarity,
)
from rescore.pipelines.distillation.terms import Draw, Result, Weighted
from rescore.pipelines.models.denoiser import Prompts
from rescore.pipelines.models.schedule import NoiseSchedule
from rescore.pipelines.models.unet.backbone import Backbone
from rescore.shapeworld.models import SCHEDULE as CONFIG
from tiny_unets import inputs, unet
from torch import nn

FRAMES = 3
KIND = {"image": "image", "video": "text-to-video", "motion": "animatediff"}
SCHEDULE = NoiseSchedule.from_config(CONFIG)
DDS = Weighted(DeltaDenoising())
SPATIAL, TEMPORAL = Weighted(SpatialSelfSimilarity()), Weighted(TemporalSelfSimilarity())
CONSISTENCY = Weighted(GlobalConsistency())
T = 400
# One step at one timestep, of which the gradient can be read off.
ONE_STEP = Settings(1, 1.0, 7.5, t_min=T / 999, t_max=T / 999)


@cache
def backbone(kind: str) -> Backbone:
    none = nn.Identity()
    return Backbone("tiny", KIND[kind], unet(kind), none, none, None, SCHEDULE)


def clip(clips: int = 1, frames: int = FRAMES, seed: int = 0) -> torch.Tensor:
    return inputs(clips, frames, seed)[0]


def prompts() -> Prompts:
    return Prompts(*(inputs(1, 1, seed)[1] for seed in (1, 2, 3)))


class Watched:
    """A model's `eps_theta` that notes with how many clips it is called, and which calls ended."""

    def __init__(self, kind: str) -> None:
        self.model, self.rows, self.finished = backbone(kind), [], []

    def __call__(self, z, t, cond):
        self.rows.append(len(z))
        self.finished.append(False)
        prediction = self.model.eps_theta(z, t, cond)
        self.finished[-1] = True
        return prediction


def run(kind, terms, settings=ONE_STEP, z_source=None, **options):
    model = Watched(kind)
    z_source = clip() if z_source is None else z_source
    options = {"unet": unet(kind)} | options
    return distil(z_source, terms, model, prompts(), SCHEDULE, settings, **options), model


@dataclass(frozen=True)
class Pull:
    """A term that asks nothing of the model: it pulls the latents to a value."""

    to: float
    name: str = "pull"
    needs: frozenset[str] = frozenset()

    def __call__(self, draw, predictions, z, z_source):
        return Result(0.1 * (z - self.to), 1.0)


def edited(kind) -> torch.Tensor:
    """A clip that is not its source any more, as a state to go on from."""
    state, _ = run(kind, (Weighted(Pull(0.3)),), unet=None)
    return state


def draw_of(z, z_source, seed=7) -> Draw:
    noise = torch.randn(z.shape, generator=torch.Generator().manual_seed(seed))
    noised = (SCHEDULE.add_noise(x, noise, T) for x in (z, z_source))
    return Draw(T, noise, *noised)
