"""Training the stages of the tiny cascade, each by itself, on clips that are rendered once."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers.models.attention_processor import Attention, AttnProcessor
from einops import rearrange
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from ...pipelines.cascade.super_resolution import WINDOW, upsampled
from ...pipelines.models.process import VariancePreserving, noised
from ..cascade import FRAMES, KEYFRAMES, SCHEDULE, STAGES, TOLD, build_unet, settings, shrunk
from ..render import render
from ..scene import caption
from .captions import Captions, shipped_captions
from .data import Source, demanding_scene
from .export import write_json
from .loop import CURVE, Curve, Recipe, write_curve
from .optimisers import Muon
from .order import Order
from .vae import TRAINING_SEEDS
from .velocity import velocity_loss

NAME = "shapeworld-cascade"
STEPS = {"keyframes": 1500, "interpolation": 1400, "image-sr": 1000, "video-sr": 1200}
_SEEDS = TRAINING_SEEDS + (1 << 29)
_CLIPS = {"keyframes": Source(demanding_scene, {KEYFRAMES: 6000}, _SEEDS)}
_WHOLE = Source(demanding_scene, {FRAMES: 400}, _SEEDS + (1 << 20))  # of all other stages
_DROPOUT = 0.1  # of captions
_FAINT = 1e-5  # a squared error that nobody sees
_PIPELINES = {
    "keyframes": "TextToVideoIFPipeline",
    "interpolation": "TextToVideoIFInterpPipeline",
    "image-sr": "IFSuperResolutionPipeline",
    "video-sr": "TextToVideoIFSuperResolutionPipeline_Cond",
}
_BATCH = {"keyframes": 6, "interpolation": 6, "image-sr": 4, "video-sr": 1}
_NOISIEST, _CLEAN = 250, 0.75  # of a low-resolution clip: the last timestep, and how often it is 0


@dataclass(frozen=True)
class Told:
    """Clips in 0..255, and the embedding of each one's caption; the first says nothing."""

    clips: Tensor  # uint8 [n, 3, f, h, w]
    texts: Float[Tensor, "m l d"]
    text_of: Tensor  # [n], rows of `texts`


@torch.no_grad()
def rendered(source: Source, captions: Captions, file: Path, small: bool) -> Told:
    """The clips of a source, at the size of keyframes if `small`; kept in a file.

    Raises:
        ValueError: if the file holds another number of clips, or clips of another length.
    """
    (frames,) = source.lengths
    scenes = source.scenes(frames)
    told = [caption(scene) for scene in scenes]
    every = ["", *dict.fromkeys(told)]
    if not file.exists():
        clips = []
        for scene in scenes:
            clip = rearrange(render(scene).clip, "f h w c -> 1 c f h w")
            clips.append((255 * (shrunk(clip) if small else clip)).round().byte())
        file.parent.mkdir(parents=True, exist_ok=True)
        save_file({"clips": torch.cat(clips)}, file)
    kept = load_file(file)["clips"]
    if (found := (len(kept), kept.shape[2])) != (len(scenes), frames):
        raise ValueError(
            f"{file} holds {found[0]} clips of {found[1]} frames, but {len(scenes)} of {frames} "
            "are asked for: delete it, and it is made anew."
        )
    texts = torch.cat([captions(every[i : i + 256]) for i in range(0, len(every), 256)])
    rows = {text: row for row, text in enumerate(every)}
    return Told(kept, texts, torch.tensor([rows[text] for text in told]))


def recipe(stage: str, told: Told, steps: int | None = None) -> Recipe:
    """One stage, by Muon, under the cosine schedule: velocities of keyframes, else the frames."""
    torch.manual_seed(20 + STAGES.index(stage))
    unet = build_unet(stage)
    if stage != "keyframes":
        say_what_is_told(unet)
    for module in unet.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if isinstance(module, Attention) and module.added_kv_proj_dim is None:
            module.set_processor(AttnProcessor())  # faster on a CPU than the fused kernel
    batches = {
        "keyframes": keyframe_batch,
        "interpolation": interpolation_batch,
        "image-sr": image_batch,
        "video-sr": video_batch,
    }

    def loss(generator: torch.Generator) -> Tensor:
        clips, text = _drawn(told, generator, _BATCH[stage])
        z_0, beside, labels = batches[stage](clips, generator)

        def predict(z_t: Tensor, t: Tensor) -> Tensor:
            said = unet(torch.cat([z_t, *beside], dim=1), t, text, class_labels=labels)
            return getattr(said, "sample", said)[:, :3].float()

        if stage == "keyframes":
            return velocity_loss(predict, z_0, SCHEDULE, generator)
        return gain_loss(predict, z_0, beside[0], generator)

    return Recipe(
        f"{NAME}-{stage}",
        unet,
        loss,
        steps or STEPS[stage],
        learning_rate=2e-3,
        averaging=0.99,
        warmup=30,
        seed=20 + STAGES.index(stage),
        optimiser=Muon,
    )


def gain_loss(
    predict: Callable[[Tensor, Tensor], Tensor],
    z_0: Tensor,
    plain: Tensor,
    generator: torch.Generator,
) -> Tensor:
    """The logarithm of a prediction's squared error against that of the `plain` answer, the mean.

    A clip of which little is unknown then counts as much as one of which much is: 0 is as good as
    enlarging or blending linearly, and -0.23 is a decibel better.
    """
    process = VariancePreserving.from_config(TOLD)
    t = (len(process) - 1) * torch.rand(len(z_0), generator=generator).sqrt()
    t = t.round().long()
    a_t = process.alphas_bar[t].float().view(-1, *[1] * (z_0.ndim - 1))
    noise = torch.randn(z_0.shape, generator=generator)
    made = predict(a_t.sqrt() * z_0 + (1 - a_t).sqrt() * noise, t)
    errors = [(clip - z_0).square().flatten(1).mean(dim=1) for clip in (made, plain)]
    return ((errors[0] + _FAINT) / (errors[1] + _FAINT)).log().mean()


@torch.no_grad()
def say_what_is_told(unet: nn.Module) -> None:
    """Let a fresh UNet predict, whatever the noise, the frames that it is told beside the noised.

    A stage then begins with the plain answer, frames blended or enlarged linearly, and learns what
    is to be bettered in it, where thousands of steps would pass until it copied them well. What is
    told, and its negative, go through the first eight channels, past all layers but the last norm;
    two constants beside them, much larger, keep its scale, and gelu(x) - gelu(-x) is x.
    """
    last, groups = unet.up_blocks[-1].resnets[-1], unet.config.norm_num_groups
    large, width = 10.0, unet.conv_in.out_channels
    here = torch.arange(3), unet.conv_in.kernel_size[0] // 2, unet.conv_out.kernel_size[0] // 2
    colours, middle, centre = here
    for layer in (unet.conv_in, last.conv2, last.conv_shortcut):
        layer.weight[:8], layer.bias[:8] = 0, 0
    unet.conv_in.weight[colours, 3 + colours, middle, middle] = 1
    unet.conv_in.weight[3 + colours, 3 + colours, middle, middle] = -1
    unet.conv_in.bias[6:8] = torch.tensor([large, -large])
    passed = last.conv_shortcut.in_channels - width  # where the features of conv_in come in
    path = torch.arange(8)
    last.conv_shortcut.weight[path, passed + path] = last.output_scale_factor
    unet.conv_norm_out.weight[:8] = large * (2 * groups / width) ** 0.5  # what the norm takes out
    unet.conv_out.weight[:3], unet.conv_out.bias[:3] = 0, 0
    unet.conv_out.weight[colours, colours, centre, centre] = 1
    unet.conv_out.weight[colours, 3 + colours, centre, centre] = -1


# What is denoised, what is known beside it, and the level of its noise.
Batch = tuple[Tensor, Sequence[Tensor], Tensor | None]


def keyframe_batch(clips: Tensor, generator: torch.Generator) -> Batch:
    """Keyframes, of which nothing else is known."""
    return clips, (), None


def interpolation_batch(clips: Tensor, generator: torch.Generator) -> Batch:
    """Two keyframes and the three frames between, from anywhere in a clip."""
    first = 4 * int(torch.randint(KEYFRAMES - 1, (), generator=generator))
    z_0 = shrunk(clips[:, :, first : first + 5])
    ends = functional.interpolate(
        z_0[:, :, [0, -1]], z_0.shape[2:], mode="trilinear", align_corners=True
    )
    mask = torch.zeros_like(z_0[:, :1])
    mask[:, :, [0, -1]] = 1
    return z_0, (ends, mask), None


def image_batch(clips: Tensor, generator: torch.Generator) -> Batch:
    """One frame, and the same at low resolution, noised."""
    frame = int(torch.randint(clips.shape[2], (), generator=generator))
    z_0 = clips[:, :, frame : frame + 1]
    low, labels = _enlarged(z_0, generator)
    return z_0[:, :, 0], (low[:, :, 0],), labels


def video_batch(clips: Tensor, generator: torch.Generator) -> Batch:
    """A window of frames, of which the first is known, as sharp as a stage before may make it."""
    first = int(torch.randint(clips.shape[2] - WINDOW + 1, (), generator=generator))
    z_0 = clips[:, :, first : first + WINDOW]
    low, labels = _enlarged(z_0, generator)
    sharp = torch.rand((), generator=generator).sqrt()
    known = torch.lerp(enlarged(shrunk(z_0[:, :, :1])), z_0[:, :, :1], sharp)
    return z_0, (torch.cat([known, low[:, :, 1:]], dim=2),), labels


def enlarged(clips: Tensor) -> Tensor:
    """Keyframes at full size, as the stage that enlarges them is told them."""
    return upsampled(clips, 4 * clips.shape[-2], 4 * clips.shape[-1])


def _enlarged(clips: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Whole frames: how far enlarging shifts a pixel depends on where in the frame it lies."""
    low, t = enlarged(shrunk(clips)), 0
    if torch.rand((), generator=generator) > _CLEAN:
        t = int(torch.randint(_NOISIEST, (), generator=generator))
        level = VariancePreserving.from_config(TOLD).level(t)
        low = noised(low, torch.randn(low.shape, generator=generator), level)
    return low, torch.full((len(clips),), t)


def _drawn(told: Told, generator: torch.Generator, count: int) -> tuple[Tensor, Tensor]:
    chosen = torch.randint(len(told.clips), (count,), generator=generator)
    dropped = torch.rand(count, generator=generator) < _DROPOUT
    text = told.texts[torch.where(dropped, 0, told.text_of[chosen])]
    return told.clips[chosen].float() / 127.5 - 1, text


def train(order: Order, stages: Sequence[str] = STAGES) -> None:
    """Train stages to the end of their recipes, or on from their checkpoints, and ship them."""
    captions = shipped_captions()
    for stage in stages:
        source = _CLIPS.get(stage, _WHOLE).of(order.clips)
        small = stage == "keyframes"
        file = order.runs / f"cascade-{'small' if small else 'whole'}.safetensors"
        made = recipe(stage, rendered(source, captions, file, small), order.steps)
        points = order.fit(made, checkpoint_every=50)
        export_stage(order.weights / NAME / stage, stage, made.trained, {made.name: points})


def export_stage(folder: Path, stage: str, unet: nn.Module, curve: Curve) -> None:
    """Write a stage as it would be published, its weights in float16."""
    schedule = SCHEDULE if stage == "keyframes" else TOLD
    config, scheduler = settings(stage), ["diffusers", schedule["_class_name"]]
    weights = {name: value.half().contiguous() for name, value in unet.state_dict().items()}
    (folder / "unet").mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / "unet" / "diffusion_pytorch_model.safetensors")
    write_json(folder / "unet" / "config.json", config)
    write_json(folder / "scheduler" / "scheduler_config.json", schedule)
    index = {
        "_class_name": _PIPELINES[stage],
        "unet": ["diffusers", config["_class_name"]],
        "text_encoder": [None, None],
        "tokenizer": [None, None],
        "scheduler": scheduler,
    }
    if stage.endswith("sr"):
        index["image_noising_scheduler"] = scheduler
        write_json(folder / "image_noising_scheduler" / "scheduler_config.json", schedule)
    write_json(folder / "model_index.json", index)
    write_curve(folder / CURVE, curve)
