"""Training the three diffusion models: image, then video from it, then a motion adapter over it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler, MotionAdapter, UNetMotionModel
from einops import repeat
from torch import Tensor, nn
from torch.nn import functional

from ..models import (
    ANIMATEDIFF_SCHEDULE,
    SCHEDULE,
    build_image_unet,
    build_motion_adapter,
    build_text_encoder,
    build_video_unet,
)
from .data import Pool
from .loop import Recipe

STEPS = {"shapeworld-sd": 6000, "shapeworld-t2v": 2100, "shapeworld-animatediff": 1800}
_DROPOUT = 0.1  # of captions, for classifier-free guidance
_IMAGES, _CLIPS = 32, 8  # batch; a clip of twice the length counts twice


class Captions(nn.Module):
    """From captions to what a UNet's cross-attention reads, `[b, l, d]`."""

    def __init__(self, tokenizer, encoder: nn.Module) -> None:
        super().__init__()
        self.tokenizer, self.encoder = tokenizer, encoder

    def forward(self, captions: list[str]) -> Tensor:
        tokens = self.tokenizer(
            captions, padding="max_length", truncation=True, return_tensors="pt"
        )
        return self.encoder(tokens.input_ids).last_hidden_state


def noise_prediction_loss(
    predict: Callable[[Tensor, Tensor], Tensor],
    latents: Tensor,
    schedule: dict[str, Any],
    generator: torch.Generator,
) -> Tensor:
    """Mean squared error of the predicted noise (DDPM, Eq. 14).

    Timesteps are drawn with a density that grows linearly with t: much noise is where a caption
    decides what a clip shows and how it moves; removing a little of it is learnt fast.
    """
    noising = DDIMScheduler.from_config(schedule)
    noise = torch.randn(latents.shape, generator=generator)
    last = noising.config.num_train_timesteps - 1
    t = (torch.rand(len(latents), generator=generator).sqrt() * last).round().long()
    predicted = predict(noising.add_noise(latents, noise, t), t)
    return functional.mse_loss(predicted, noise)


def image_recipe(tokenizer, pools: dict[int, Pool], steps: int | None = None) -> Recipe:
    """Stable Diffusion's layout on single frames; the text encoder is trained along with it."""
    torch.manual_seed(1)
    unet = build_image_unet()
    captions = Captions(tokenizer, build_text_encoder(len(tokenizer)))
    # CLIP's own start, 0.02, leaves words that a still hardly shows too faint ever to be heard.
    nn.init.normal_(captions.encoder.get_input_embeddings().weight, std=0.25)
    pool = pools[8]

    def loss(generator: torch.Generator) -> Tensor:
        count, frames = _IMAGES, pool.latents.shape[2]
        clips = torch.randint(len(pool.captions), (count,), generator=generator)
        draw = torch.rand(count, generator=generator)
        names_motion = (draw >= _DROPOUT) & (draw < 0.55)
        # A caption that names the motion goes with a frame near its end, any other with any frame.
        # A still from anywhere would say nothing about motion, text encoder and UNet would learn
        # to swallow those words, and neither the video model nor the adapter would hear them.
        first = torch.where(names_motion, frames - frames // 4, 0)
        frame = first + (torch.rand(count, generator=generator) * (frames - first)).long()
        texts = [
            "" if d < _DROPOUT else (pool.captions if named else pool.still_captions)[i]
            for i, d, named in zip(clips, draw, names_motion, strict=True)
        ]
        text = captions(texts)
        return noise_prediction_loss(
            lambda z_t, t: unet(z_t, t, text).sample, pool.latents[clips, :, frame],
            SCHEDULE, generator,
        )  # fmt: skip

    trained = nn.ModuleDict({"unet": unet, "text_encoder": captions.encoder})
    steps = steps or STEPS["shapeworld-sd"]
    return Recipe("shapeworld-sd", trained, loss, steps, learning_rate=1.5e-3, seed=1)


def video_recipe(
    image_unet, captions: Captions, pools: dict[int, Pool], steps: int | None = None
) -> Recipe:
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

    def loss(generator: torch.Generator) -> Tensor:
        latents, texts = _draw_clips(pools, generator)
        with torch.no_grad():
            text = captions(texts)
        return noise_prediction_loss(
            lambda z_t, t: unet(z_t, t, text).sample, latents, SCHEDULE, generator
        )

    steps = steps or STEPS["shapeworld-t2v"]
    return Recipe("shapeworld-t2v", unet, loss, steps, learning_rate=8e-4, seed=2)


def motion_recipe(
    image_unet, captions: Captions, pools: dict[int, Pool], steps: int | None = None
) -> Recipe:
    """A motion adapter over the frozen image model, under AnimateDiff's linear noise schedule."""
    torch.manual_seed(3)
    unet = UNetMotionModel.from_unet2d(image_unet, build_motion_adapter())
    unet.freeze_unet2d_params()

    def loss(generator: torch.Generator) -> Tensor:
        latents, texts = _draw_clips(pools, generator)
        with torch.no_grad():
            text = repeat(captions(texts), "b l d -> (b f) l d", f=latents.shape[2])
        return noise_prediction_loss(
            lambda z_t, t: unet(z_t, t, text).sample, latents, ANIMATEDIFF_SCHEDULE, generator
        )

    steps = steps or STEPS["shapeworld-animatediff"]
    return Recipe("shapeworld-animatediff", unet, loss, steps, learning_rate=1e-3, seed=3)


def load_shipped(recipe: Recipe, folder: Path) -> None:
    """Begin a recipe with the finished weights in a folder instead of fresh ones."""
    if recipe.name == "shapeworld-animatediff":
        recipe.trained.load_motion_modules(load_adapter(folder))
        return
    parts = (
        recipe.trained if isinstance(recipe.trained, nn.ModuleDict) else {"unet": recipe.trained}
    )
    for name, module in parts.items():
        finished = type(module).from_pretrained(folder / name, local_files_only=True)
        module.load_state_dict(finished.float().state_dict())


def load_adapter(folder: Path) -> MotionAdapter:
    """The motion adapter that `UNetMotionModel.save_motion_modules` left in a folder."""
    return MotionAdapter.from_pretrained(folder, local_files_only=True)


def _draw_clips(pools: dict[int, Pool], generator: torch.Generator) -> tuple[Tensor, list[str]]:
    """A batch of clips of one length, `[b, 4, f, h, w]`, three in four of the shortest length."""
    lengths = sorted(pools)
    long = len(lengths) > 1 and float(torch.rand((), generator=generator)) < 0.25
    pool = pools[lengths[1] if long else lengths[0]]
    count = max(1, _CLIPS * lengths[0] // pool.latents.shape[2])
    chosen = torch.randint(len(pool.captions), (count,), generator=generator)
    dropped = torch.rand(count, generator=generator) < _DROPOUT
    texts = ["" if d else pool.captions[i] for i, d in zip(chosen, dropped, strict=True)]
    return pool.latents[chosen], texts
