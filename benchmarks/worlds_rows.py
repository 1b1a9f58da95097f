"""The worlds of `worlds.py`: the clips of each, and how a row edits one."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from itertools import islice
from pathlib import Path
from shutil import copytree

import distillation
import torch
import videodirector_rows
from against_peers import tuned
from diffusers import UNet3DConditionModel
from kept import RUNS
from measuring import clip_of, latents_of, loaded
from remembering import remembering
from rescore.pipelines.inversion.trajectory import NullText
from rescore.pipelines.models.denoiser import Denoiser
from rescore.pipelines.models.process import noised
from rescore.shapeworld.edits import Edit, suite
from rescore.shapeworld.finished import WEIGHTS
from rescore.shapeworld.render import render
from rescore.shapeworld.scene import Scene, caption, fits
from rescore.shapeworld.train.order import Order
from rescore.shapeworld.train.unet_models import IMAGE, VIDEO, train_video_model
from torch import Tensor

TRAINED_ON = 1024  # clips of each length
LEVELS = 0.1, 0.3, 0.5, 0.7, 0.9  # shares of the noise schedule, at which models are compared
DIRECTIONS = {"right": (1, 0), "left": (-1, 0), "up": (0, -1), "down": (0, 1)}


@dataclass(frozen=True)
class World:
    """How the clips of a world differ from those that the models were trained on."""

    speed: int = 3  # of the object, pixels a frame
    run: int = 0  # of the backdrop, the other way: the camera follows the object
    texture: float = 0.0  # of all that is seen
    trained: int = 0  # steps of each stage of the video model's training; 0: all, as it ships


WORLDS = {
    "slow": World(speed=1),  # a latent pixel in four frames
    "textured": World(texture=0.3),
    "camera": World(run=2),
    "weak model": World(trained=100),
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


@torch.inference_mode(False)  # it is asked for within, and a training wants gradients
def barely_trained(steps: int) -> Path:
    """The folder of the video model after so few steps of each stage of its training.

    It is begun from the shipped image model, as the shipped one was, and trained where it is not
    there yet; a training that was stopped goes on.
    """
    folder = RUNS / "worlds" / f"trained-{steps}"
    weights = folder / "weights"
    if not (weights / VIDEO / "model_index.json").exists():  # written last
        copytree(WEIGHTS / IMAGE, weights / IMAGE, dirs_exist_ok=True)
        train_video_model(Order(folder, weights, steps=steps, clips=TRAINED_ON))
    return weights / VIDEO


@lru_cache(maxsize=1)
def video_model(trained: int) -> Denoiser:
    model = loaded(distillation.MODEL)
    if not trained:
        return model.denoiser
    network = UNet3DConditionModel.from_pretrained(barely_trained(trained) / "unet")
    return model.with_network(network.float().eval()).denoiser


@torch.inference_mode()
def errors(world: str, clip: int) -> dict[str, list[float]]:
    """How wrong each model is about the source: mean squared errors of the noise, at `LEVELS`.

    Both video models read the prompt, the image model that without the motion.
    """
    model, image, source = loaded(distillation.MODEL), loaded(IMAGE), edit_of(world, clip).source
    moving = model.encode_prompt(caption(source)).embedding
    asked = {
        "the image model": (
            image.denoiser,
            image.encode_prompt(caption(source, motion=False)).embedding,
        ),
        "the video model": (model.denoiser, moving),
        "here": (video_model(WORLDS[world].trained), moving),
    }
    z_0, found = latents_of(model, render(source).clip), {name: [] for name in asked}
    generator = torch.Generator().manual_seed(clip)
    for share in LEVELS:
        level, noise = model.process.at(share), torch.randn(z_0.shape, generator=generator)
        z_t = noised(z_0, noise, level)
        for name, (denoiser, text) in asked.items():
            said = denoiser(z_t, level, text).eps
            found[name].append(float((said - noise).square().mean()))
    return found


@lru_cache(maxsize=1)
def model_for(world: str, clip: int) -> Denoiser:
    """The video model of a world, which remembers of a clip what it said of the source."""
    return remembering(video_model(WORLDS[world].trained))


def distilled(row: str, world: str, clip: int) -> Tensor:
    parts = PARTS[row]
    plain = distillation.INSIDE.isdisjoint(parts)
    video = model_for(world, clip) if plain else video_model(WORLDS[world].trained)
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
