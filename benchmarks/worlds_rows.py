"""The worlds of `worlds.py`: the clips of each, and how a row edits one."""

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from itertools import islice

import distillation
import torch
import videodirector_rows
from against_peers import tuned
from measuring import clip_of, loaded
from remembering import remembering
from rescore.pipelines.inversion.trajectory import NullText
from rescore.pipelines.models.denoiser import Denoiser
from rescore.shapeworld.edits import Edit, suite
from rescore.shapeworld.scene import Scene, fits
from torch import Tensor, nn

DIRECTIONS = {"right": (1, 0), "left": (-1, 0), "up": (0, -1), "down": (0, 1)}


@dataclass(frozen=True)
class World:
    """How the clips of a world differ from those that the models were trained on."""

    speed: int = 3  # of the object, pixels a frame
    run: int = 0  # of the backdrop, the other way: the camera follows the object
    texture: float = 0.0  # of all that is seen
    damage: float = 0.0  # of the video model: noise on its weights, by their own spread


WORLDS = {
    "slow": World(speed=1),  # a latent pixel in four frames
    "textured": World(texture=0.3),
    "camera": World(run=2),
    "weak model": World(damage=0.2),
    "usual": World(),
}
PARTS = distillation.ROWS | {
    "+ mask, T-SSM": ("dds", "mask", "temporal"),
    "ASSD + joint": ("sliding", "joint"),
}


def edits_of(world: World) -> Iterator[Edit]:
    """The edits of the suite that go with a world, moved there, without an end."""
    kinds = ("colour", "shape") if world.run else ("colour", "shape", "background")
    count = 0
    while True:
        for edit in suite("edits", count + 32, attributes=kinds)[count:]:
            if goes_with(world, edit.source):
                source, target = (moved(side, world) for side in (edit.source, edit.target))
                if fits(source) and fits(target):
                    yield Edit(source, target, edit.attribute)
        count += 32


def goes_with(world: World, scene: Scene) -> bool:
    """Whether a scene can be moved to a world.

    Only a checker shows every motion of a camera. The oracle reads no backdrop that moves, and
    would take a second object that moves with it for the first.
    """
    if world.run and (scene.background.pattern != "checker" or scene.second is not None):
        return False
    return scene.motion in DIRECTIONS


def moved(scene: Scene, world: World) -> Scene:
    """The scene as it is in a world, in whole pixels a frame."""
    steps = scene.frames - 1
    pan = tuple(float(-world.run * steps * part) for part in DIRECTIONS[scene.motion])
    return replace(scene, travel=float(world.speed * steps), pan=pan, texture=world.texture)


@cache
def edit_of(world: str, clip: int) -> Edit:
    return next(islice(edits_of(WORLDS[world]), clip, None))


def damaged(network: nn.Module, share: float) -> nn.Module:
    """A copy with noise on every matrix and kernel, `share` of its own standard deviation."""
    network, generator = deepcopy(network), torch.Generator().manual_seed(0)
    for weights in network.parameters():
        if weights.ndim > 1:
            noise = torch.randn(weights.shape, generator=generator)
            weights.data += share * weights.data.std() * noise
    return network


@lru_cache(maxsize=1)
def video_model(damage: float) -> Denoiser:
    model = loaded(distillation.MODEL)
    return model.with_network(damaged(model.network, damage)).denoiser if damage else model.denoiser


@lru_cache(maxsize=1)
def model_for(world: str, clip: int) -> Denoiser:
    """The video model of a world, which remembers of a clip what it said of the source."""
    return remembering(video_model(WORLDS[world].damage))


def distilled(row: str, world: str, clip: int) -> Tensor:
    parts = PARTS[row]
    plain = distillation.INSIDE.isdisjoint(parts)
    video = model_for(world, clip) if plain else video_model(WORLDS[world].damage)
    with torch.inference_mode():
        z = distillation.edit_once(parts, edit_of(world, clip), distillation.Run(), video=video)
        return clip_of(loaded(distillation.MODEL), z)


@lru_cache(maxsize=1)
def inverted(world: str, clip: int) -> videodirector_rows.Clip:
    return videodirector_rows.Clip(edit_of(world, clip), videodirector_rows.Run())


@lru_cache(maxsize=2)
def null_text(base: str, world: str, clip: int) -> NullText:
    return inverted(world, clip).null_text(*videodirector_rows.LADDER[base])


def directed(row: str, world: str, clip: int) -> Tensor:
    controls, base = videodirector_rows.EDITS[row]
    with torch.no_grad():
        return inverted(world, clip).edited(controls, null_text(base, world, clip))


def inflated(row: str, world: str, clip: int) -> Tensor:
    with torch.no_grad():
        return tuned(row, edit_of(world, clip), None)
