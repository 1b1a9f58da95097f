"""Training the three diffusion models: image, then video from it, then a motion adapter over it."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import MotionAdapter, UNetMotionModel
from einops import repeat
from torch import Tensor, nn

from ..models import (
    ANIMATEDIFF_SCHEDULE,
    SCHEDULE,
    build_image_unet,
    build_motion_adapter,
    build_text_encoder,
    build_video_unet,
)
from .captions import Captions, WordReader
from .data import Pools, draw_clips, draw_stills
from .loop import Recipe
from .optimisers import Muon
from .velocity import FAINT, velocity_loss

STEPS = {
    "shapeworld-sd": 6000,
    "shapeworld-sd-moving": 4500,
    "shapeworld-t2v": 10000,
    "shapeworld-animatediff": 1500,
}
LESSONS = ((500, 0.2), (500, 0.35))  # steps of each, and the share of batches of other clips
# What is faint teaches to hear the words, and with its large errors drowns out finer lessons.
_FAINT_AT_FIRST, _FAINT_IN_LESSONS = 0.4, 0.9
_READING = 0.05  # weight of the reading loss beside the denoising one


def image_recipe(tokenizer, pools: Pools, steps: int | None = None) -> Recipe:
    """Stable Diffusion's layout on single frames; the text encoder is trained along with it."""
    torch.manual_seed(1)
    unet = build_image_unet()
    captions = Captions(tokenizer, build_text_encoder(len(tokenizer)))
    # CLIP's own start, 0.02, leaves words that a still hardly shows too faint ever to be heard.
    nn.init.normal_(captions.encoder.get_input_embeddings().weight, std=0.25)
    reader = WordReader(captions.encoder.config.hidden_size)

    def loss(generator: torch.Generator) -> Tensor:
        latents, texts = draw_stills(pools, generator)
        tokens = captions.tokens(texts)
        text = captions.encoder(tokens).last_hidden_state
        denoising = velocity_loss(
            lambda z_t, t: unet(z_t, t, text).sample, latents, SCHEDULE, generator, _FAINT_AT_FIRST
        )
        return denoising + _READING * reader(tokens, text, texts, tokenizer.eos_token_id)

    trained = nn.ModuleDict({"unet": unet, "text_encoder": captions.encoder, "reader": reader})
    steps = steps or STEPS["shapeworld-sd"]
    return Recipe("shapeworld-sd", trained, loss, steps, learning_rate=1.5e-3, seed=1)


def moving_image_recipes(
    image_unet, captions: Captions, pools: Pools, *lessons: Pools, steps: int | None = None
) -> tuple[Recipe, ...]:
    """The image model once more, on stills and, together with a motion adapter, on clips.

    An adapter hears of a prompt only what the frozen image model makes of it, and of what a still
    hardly shows that is little. Here both learn at once to let the words for motion through.
    """
    torch.manual_seed(3)
    moving = over(image_unet, build_motion_adapter())
    for unet in (image_unet, moving):
        unet.set_default_attn_processor()

    def loss(clips: Pools, generator: torch.Generator, faint: float = FAINT) -> Tensor:
        # Stills are of all kinds even in a lesson, so that the image model unlearns nothing.
        latents, texts = draw_stills(pools, generator, 10)
        with torch.no_grad():
            text = captions(texts)
        stills = velocity_loss(
            lambda z_t, t: image_unet(z_t, t, text).sample, latents, SCHEDULE, generator
        )
        clips_loss = _clip_loss(moving, captions, ANIMATEDIFF_SCHEDULE, clips, generator, faint)
        return stills + clips_loss

    trained = nn.ModuleDict({"unet": image_unet, "moving": moving})
    return _lessons_first("shapeworld-sd-moving", trained, loss, pools, lessons, steps, seed=4)


def video_recipes(
    image_unet, captions: Captions, pools: Pools, *lessons: Pools, steps: int | None = None
) -> tuple[Recipe, ...]:
    """ModelScope's layout, begun as ModelScope was: from the image model, with idle time layers."""
    torch.manual_seed(2)
    unet = build_video_unet()
    shapes = {name: value.shape for name, value in unet.state_dict().items()}
    # Image models project into attention by 1 x 1 convolutions, video models by linear layers.
    spatial = {n: v.reshape(shapes[n]) for n, v in image_unet.state_dict().items() if n in shapes}
    unet.load_state_dict(spatial, strict=False)
    for name, parameter in unet.named_parameters():
        if name.endswith(("proj_out.weight", "proj_out.bias")) and (
            "temp_attentions" in name or "transformer_in" in name
        ):
            nn.init.zeros_(parameter)
    unet.set_default_attn_processor()
    for module in unet.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0  # of fresh noise in every batch a model this small remembers nothing

    loss = partial(_clip_loss, unet, captions, SCHEDULE)
    return _lessons_first("shapeworld-t2v", unet, loss, pools, lessons, steps, seed=2)


def motion_recipe(
    image_unet, adapter: MotionAdapter, captions: Captions, pools: Pools, steps: int | None = None
) -> Recipe:
    """A motion adapter over the frozen image model, under AnimateDiff's linear noise schedule.

    `adapter` is the one that the image model has learnt beside.
    """
    unet = UNetMotionModel.from_unet2d(image_unet, adapter)
    unet.freeze_unet2d_params()
    unet.set_default_attn_processor()
    loss = partial(_clip_loss, unet, captions, ANIMATEDIFF_SCHEDULE, pools)
    name = "shapeworld-animatediff"
    steps = steps or STEPS[name]
    return Recipe(name, unet, loss, steps, learning_rate=5e-4, seed=3, optimiser=Muon)


def over(image_unet: nn.Module, adapter: MotionAdapter) -> UNetMotionModel:
    """An image model with a motion adapter in it; it shares the image model's own parameters."""
    unet = UNetMotionModel.from_unet2d(image_unet, adapter)
    for name, parameter in image_unet.named_parameters():
        module, _, last = name.rpartition(".")
        setattr(unet.get_submodule(module), last, parameter)
    return unet


def _clip_loss(
    unet: nn.Module,
    captions: Captions,
    schedule: dict[str, Any],
    clips: Pools,
    generator: torch.Generator,
    faint: float = FAINT,
) -> Tensor:
    """The loss of a batch of clips."""
    latents, texts = draw_clips(clips, generator)
    with torch.no_grad():
        text = captions(texts)
    if isinstance(unet, UNetMotionModel):  # reads the text frame by frame
        text = repeat(text, "b l d -> (b f) l d", f=latents.shape[2])
    return velocity_loss(
        lambda z_t, t: unet(z_t, t, text).sample, latents, schedule, generator, faint
    )


def _lessons_first(
    name: str,
    trained: nn.Module,
    loss: Callable[..., Tensor],
    pools: Pools,
    lessons: tuple[Pools, ...],
    steps: int | None,
    seed: int,
) -> tuple[Recipe, ...]:
    """The lessons in motion, with some other clips so that nothing is unlearnt, and the rest."""

    def lesson(clips: Pools, other: float, generator: torch.Generator) -> Tensor:
        if float(torch.rand((), generator=generator)) < other:
            return loss(pools, generator)
        return loss(clips, generator, _FAINT_IN_LESSONS)

    first = (
        Recipe(
            f"{name}-lesson-{number}",
            trained,
            partial(lesson, clips, other),
            steps or lesson_steps,
            learning_rate=1e-3,
            seed=10 * number + seed,
            settles=False,
        )
        for number, (clips, (lesson_steps, other)) in enumerate(
            zip(lessons, LESSONS, strict=True), 1
        )
    )
    last = Recipe(
        name,
        trained,
        partial(loss, pools),
        steps or STEPS[name],
        learning_rate=5e-4,
        seed=seed,
        optimiser=Muon,
    )
    return (*first, last)


def load_shipped(recipe: Recipe, folder: Path) -> None:
    """Begin a recipe with the finished weights in a folder instead of fresh ones."""
    trained = recipe.trained
    if isinstance(trained, UNetMotionModel):
        return  # it was given its adapter, perhaps one newer than the finished one
    for name, module in (
        trained.items() if isinstance(trained, nn.ModuleDict) else (("unet", trained),)
    ):
        if isinstance(module, WordReader):
            continue  # it serves training alone
        if isinstance(module, UNetMotionModel):
            module.load_motion_modules(load_adapter(folder.parent / "shapeworld-animatediff"))
            continue
        finished = type(module).from_pretrained(folder / name, local_files_only=True)
        module.load_state_dict(finished.float().state_dict())


def load_adapter(folder: Path) -> MotionAdapter:
    """The motion adapter that `UNetMotionModel.save_motion_modules` left in a folder."""
    return MotionAdapter.from_pretrained(folder, local_files_only=True)
