"""What the benchmark of real sizes runs: models of real size, and a step of each method on them."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLWan,
    MotionAdapter,
    UNet2DConditionModel,
    UNet3DConditionModel,
    UNetMotionModel,
    WanTransformer3DModel,
)
from rescore.attention.fusion import Fusion
from rescore.attention.mutual import SourceBackground, SourceLayout
from rescore.attention.prompt_to_prompt import PromptControl, refine_mapper
from rescore.pipelines.distillation.adaptive_sliding import AdaptiveSliding
from rescore.pipelines.distillation.consistency import GlobalConsistency
from rescore.pipelines.distillation.delta_denoising import DeltaDenoising
from rescore.pipelines.distillation.joint_guidance import ImageDeltaDenoising
from rescore.pipelines.distillation.prediction import predict
from rescore.pipelines.distillation.preservation import ContentPreservation
from rescore.pipelines.distillation.score_distillation import Settings, distil
from rescore.pipelines.distillation.self_similarity import (
    SpatialSelfSimilarity,
    TemporalSelfSimilarity,
)
from rescore.pipelines.distillation.terms import Draw, Term, Weighted
from rescore.pipelines.flow.fields import Flow
from rescore.pipelines.flow.smoothing import FlowSmoothing
from rescore.pipelines.inversion.attention_sampling import sample_edit
from rescore.pipelines.inversion.ddim_inversion import ddim_invert
from rescore.pipelines.inversion.decoupled_guidance import GuidanceSettings
from rescore.pipelines.inversion.drift import Drift, DriftGuidance
from rescore.pipelines.inversion.null_text import NullTextSettings, optimise_null_text
from rescore.pipelines.inversion.trajectory import Trajectory
from rescore.pipelines.models.codec import decode_video, encode_video
from rescore.pipelines.models.denoiser import Prompts
from rescore.pipelines.models.process import RectifiedFlow, VariancePreserving
from rescore.pipelines.models.unet.backbone import Backbone
from rescore.pipelines.models.unet.inflation import inflate
from rescore.pipelines.models.unet.load import ANIMATEDIFF_SCHEDULE, SD1_CONFIGS
from rescore.pipelines.models.wan.model import WanModel
from rescore.pipelines.tuning.one_shot_tuning import Settings as TuningSettings
from rescore.pipelines.tuning.one_shot_tuning import tune
from rescore.pipelines.windows import Windows
from rescore.shapeworld.models import load_shapeworld
from torch import Tensor, nn

WORDS = 77  # tokens of a prompt
SHAPEWORLD = {
    "text-to-video": "shapeworld-t2v",
    "image": "shapeworld-sd",
    "animatediff": "shapeworld-animatediff",
}


@dataclass(frozen=True)
class Run:
    """Sizes of clips, in pixels and frames, and what models are in."""

    video_width: int = 576  # of ZeroScope's clips
    video_height: int = 320
    image_width: int = 512  # of those of Stable Diffusion and AnimateDiff
    image_height: int = 512
    frames: int = 16
    short: int = 8  # frames of a short clip
    long: int = 48  # of one that goes through in windows
    precision: str = "bfloat16"  # of unets; autoencoders are in float32, as the loaders leave them


TINY = Run(64, 64, 64, 64, precision="float32")


# --- models and clips ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Lab:
    """Models on a device, and random clips and prompts for them."""

    run: Run
    device: str = "meta"
    tiny: bool = False
    clips_per_call: int | None = None  # that a unet gets at once; None: all

    def model(self, kind: str) -> Backbone:
        """One of the models, by its kind."""
        if self.tiny:
            model = load_shapeworld(SHAPEWORLD[kind])
            model.to(self.device)
        else:
            model = real_model(kind, self.device, getattr(torch, self.run.precision))
        model.denoiser.rows_per_call = self.clips_per_call
        return model

    def size(self, model: Backbone) -> tuple[int, int]:
        """Height and width of a model's clips."""
        if model.kind == "text-to-video":
            return self.run.video_height, self.run.video_width
        return self.run.image_height, self.run.image_width

    def latents(self, model: Backbone, frames: int) -> Tensor:
        """A clip as the model's scaled latents, `[1, c, f, h, w]`."""
        sides = (-(-side // model.vae_factor) for side in self.size(model))
        return torch.randn(1, model.unet.config.in_channels, frames, *sides, device=self.device)

    def prompts(self, model: Backbone) -> Prompts:
        width = model.unet.config.cross_attention_dim
        return Prompts(*(torch.randn(1, WORDS, width, device=self.device) for _ in range(3)))

    def path(self, model: Backbone, steps: int) -> Trajectory:
        """An inverted clip of `frames` frames."""
        latents = [self.latents(model, self.run.frames) for _ in range(steps + 1)]
        return Trajectory(torch.stack(latents), model.process.grid(steps))


def real_model(kind: str, device: str, dtype: torch.dtype) -> Backbone:
    """A model as published, with random weights and without its text encoder, which no step uses.

    ZeroScope's unet is diffusers' default `UNet3DConditionModel`, AnimateDiff's motion modules are
    its default `MotionAdapter`; the autoencoder and the noise schedule are Stable Diffusion's.
    """
    config = {
        part: json.loads((SD1_CONFIGS / part / f"{file}.json").read_text("utf-8"))
        for part, file in (("unet", "config"), ("vae", "config"), ("scheduler", "scheduler_config"))
    }

    def image_unet() -> nn.Module:
        return UNet2DConditionModel.from_config(config["unet"])

    makers = {
        "text-to-video": UNet3DConditionModel,
        "image": image_unet,
        "animatediff": lambda: UNetMotionModel.from_unet2d(
            image_unet(),
            MotionAdapter(use_motion_mid_block=False),  # as in v3, and v1; v2 has one more
            load_weights=False,
        ),
    }
    betas = ANIMATEDIFF_SCHEDULE if kind == "animatediff" else config["scheduler"]
    return Backbone(
        name=kind,
        kind=kind,
        unet=_random(makers[kind], device, dtype),
        vae=_random(lambda: AutoencoderKL.from_config(config["vae"]), device, torch.float32),
        text_encoder=nn.Identity(),
        tokenizer=None,
        process=VariancePreserving.from_config(betas),
    )


def _random(make: Callable[[], nn.Module], device: str, dtype: torch.dtype) -> nn.Module:
    """A module with random weights, made where they are to lie."""
    with torch.device("meta"):
        module = make()
    weights = {}
    for name, place in module.state_dict().items():
        weights[name] = torch.empty(place.shape, device=device, dtype=dtype).normal_(std=0.02)
        if place.ndim == 1 and name.endswith("weight"):
            weights[name].fill_(1)  # of a norm: features go through as they would
    module.load_state_dict(weights, assign=True)
    return module.eval().requires_grad_(False)


class WanSize(NamedTuple):
    """A Wan as published, by what differs from diffusers' defaults, and the clip it is made for."""

    transformer: Mapping[str, int]
    vae: Mapping[str, Any]
    clip: tuple[int, int, int]  # frames, height, width


_WIDE_VAE = {
    "base_dim": 160, "decoder_base_dim": 256, "z_dim": 48, "is_residual": True,
    "in_channels": 12, "out_channels": 12, "patch_size": 2, "scale_factor_spatial": 16,
    "dim_mult": [1, 2, 4, 4], "latents_mean": [0.0] * 48, "latents_std": [1.0] * 48,
}  # fmt: skip
WANS = {
    "Wan 2.1 1.3B": WanSize(
        {"num_attention_heads": 12, "ffn_dim": 8960, "num_layers": 30}, {}, (81, 480, 832)
    ),
    "Wan 2.2 5B": WanSize(
        {"num_attention_heads": 24, "ffn_dim": 14336, "num_layers": 30, "in_channels": 48,
         "out_channels": 48}, _WIDE_VAE, (121, 704, 1280),
    ),
    "Wan 2.1 14B": WanSize({}, {}, (81, 480, 832)),
}  # fmt: skip


def real_wan(size: WanSize, device: str, dtype: torch.dtype) -> WanModel:
    """A Wan with random weights and without its text encoder; its autoencoder is in float32."""
    return WanModel(
        "Wan",
        _random(lambda: WanTransformer3DModel(**size.transformer), device, dtype),
        _random(lambda: AutoencoderKLWan(**size.vae), device, torch.float32),
        nn.Identity(),
        None,
        RectifiedFlow(5.0),
    )


# --- steps --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """What lies on the card for some steps of a method, and the work of these steps.

    Two steps where a loop keeps something from the first. `batched` is for calls of several clips,
    which can also go through the model one after the other.
    """

    weights: tuple[nn.Module, ...]
    work: Callable[[], object]
    steps: int = 1
    batched: bool = False


def distilled(
    lab: Lab, *terms: Weighted, frames: int | None = None, fused: bool = False,
    windows: Windows | None = None, beside: tuple[nn.Module, ...] = (),
    checkpointing: bool = False,
) -> Case:  # fmt: skip
    """Score distillation with ZeroScope; `beside` are other models that the terms use."""
    model = lab.model("text-to-video")
    work = partial(
        distil,
        lab.latents(model, frames or lab.run.frames),
        terms,
        model.denoiser,
        lab.prompts(model),
        Settings(steps=2),
        controls=(Fusion(),) if fused else (),
        windows=windows,
    )
    if checkpointing:
        work = model.denoiser.checkpointed()(work)
    return Case((model.unet, *beside), work, 2, batched=True)


def delta_denoising(lab: Lab, frames: int | None = None) -> Case:
    return distilled(lab, Weighted(DeltaDenoising()), frames=frames)


def long_delta_denoising(lab: Lab) -> Case:
    windows = Windows(lab.run.frames, lab.run.frames // 4)
    return distilled(lab, Weighted(DeltaDenoising()), frames=lab.run.long, windows=windows)


def assd(lab: Lab, *, joint: bool = False, frames: int | None = None) -> Case:
    sliding = Weighted(AdaptiveSliding())
    if not joint:
        return distilled(lab, sliding, frames=frames, fused=True)
    image = lab.model("image")
    prompts = lab.prompts(image)

    def pair(draw: Draw) -> tuple[Tensor, Tensor]:
        needs = DeltaDenoising().needs
        seen = predict(needs, draw, image.denoiser, prompts, Settings().cfg).predictions
        return seen.target.eps, seen.source.eps

    term = ImageDeltaDenoising(pair, image.process, image.denoiser.space, image.name)
    return distilled(lab, sliding, Weighted(term), frames=frames, fused=True, beside=(image.unet,))


def held_by_keys(
    lab: Lab, *terms: Term, frames: int | None = None, checkpointing: bool = False
) -> Case:
    """Masked delta denoising beside terms that are losses of attention keys: these need a graph."""
    masked = Weighted(DeltaDenoising(), masks=(torch.ones(1, 8, 8),))
    held = (Weighted(term) for term in terms)
    return distilled(lab, masked, *held, frames=frames, checkpointing=checkpointing)


def flow_enhanced(lab: Lab, *terms: Term, checkpointing: bool = False) -> Case:
    size, count = (lab.run.video_height, lab.run.video_width), lab.run.frames - 1
    still, seen = torch.zeros(count, 2, *size), torch.ones(count, *size)
    smoothing = FlowSmoothing(Flow(still, still, seen, seen))
    smoothed = Weighted(DeltaDenoising(), refinements=(smoothing,))
    return distilled(
        lab, smoothed, *(Weighted(term) for term in terms), checkpointing=checkpointing
    )


def inversion(lab: Lab) -> Case:
    model = lab.model("animatediff")
    z, prompt = lab.latents(model, lab.run.frames), lab.prompts(model).source
    work = partial(
        ddim_invert,
        z,
        partial(model.denoiser, cond=prompt),
        model.process.grid(2),
    )
    return Case((model.unet,), work, 2)


def null_text(lab: Lab, *, per_frame: bool = True, checkpointing: bool = False) -> Case:
    model = lab.model("animatediff")
    path, prompts = lab.path(model, 1), lab.prompts(model)
    settings = NullTextSettings(inner_steps=2, per_frame=per_frame)

    def work() -> None:
        with model.denoiser.checkpointed(checkpointing):
            optimise_null_text(path, model.denoiser, prompts.source, prompts.negative, settings)

    return Case((model.unet,), work)


def decoupled_guidance(lab: Lab, *, checkpointing: bool = False) -> Case:
    """The drift of a step from its pivot, which has the guidance and the prompted prediction."""
    model = lab.model("animatediff")
    path = lab.path(model, 1)
    guidance = DriftGuidance(GuidanceSettings(), torch.ones(1, 8, 8))
    drift = Drift(guidance, lab.prompts(model).source, model.denoiser)

    def work() -> None:
        with model.denoiser.checkpointed(checkpointing):
            drift(path.latents[0], path.latents[1], path.levels[1])

    return Case((model.unet,), work)


def controlled_sampling(lab: Lab) -> Case:
    """One step with SA-I and one with SA-II, cross-attention controlled in both."""
    model = lab.model("animatediff")
    tokens = refine_mapper(("a", "red", "circle"), ("a", "blue", "circle"), WORDS)
    work = partial(
        sample_edit,
        lab.path(model, 2),
        model.denoiser,
        lab.prompts(model),
        8.5,
        (SourceLayout(), SourceBackground(mask=torch.ones(1, 8, 8)), PromptControl(tokens)),
    )
    return Case((model.unet,), work, 2, batched=True)


def one_shot_tuning(lab: Lab, variant: str, *, checkpointing: bool = False) -> Case:
    image = lab.model("image")
    unet = inflate(image.unet, variant)
    work = partial(
        tune,
        unet,
        lab.latents(image, lab.run.short),
        lab.prompts(image).source,
        image.process,
        TuningSettings(steps=2, checkpointing=checkpointing),
        predicts=image.predicts,
    )
    return Case((unet,), work, 2)


def encoding(lab: Lab) -> Case:
    model = lab.model("image")
    # Clips lie on the CPU; only a chunk goes to the card.
    clip = torch.zeros(1, 3, lab.run.frames, *lab.size(model))
    return Case((model.vae,), lambda: encode_video(clip, model.encode_frames, model.vae_factor))


def decoding(lab: Lab) -> Case:
    model = lab.model("image")
    z = lab.latents(model, lab.run.frames)
    return Case((model.vae,), lambda: decode_video(z, model.decode_frames))


def wan(lab: Lab, name: str) -> tuple[WanModel, tuple[int, int, int]]:
    """A Wan by its name, and frames, height and width of a clip; the tiny one where all is tiny."""
    if not lab.tiny:
        return real_wan(WANS[name], lab.device, getattr(torch, lab.run.precision)), WANS[name].clip
    model = load_shapeworld("shapeworld-wan")
    model.to(lab.device)
    return model, (9, lab.run.video_height, lab.run.video_width)


def wan_latents(lab: Lab, model: WanModel, clip: tuple[int, int, int]) -> Tensor:
    frames, height, width = clip
    codec, channels = model.codec, model.transformer.config.in_channels
    cells = 1 + (frames - 1) // codec.stride, height // codec.factor, width // codec.factor
    return torch.randn(1, channels, *cells, device=lab.device)


def wan_delta_denoising(lab: Lab, name: str) -> Case:
    model, clip = wan(lab, name)
    model.denoiser.rows_per_call = lab.clips_per_call
    width = model.transformer.config.text_dim
    prompts = Prompts(*(torch.randn(1, 512, width, device=lab.device) for _ in range(3)))
    work = partial(
        distil,
        wan_latents(lab, model, clip),
        (Weighted(DeltaDenoising()),),
        model.denoiser,
        prompts,
        Settings(steps=2),
    )
    return Case((model.transformer,), work, 2, batched=True)


def wan_encoding(lab: Lab, name: str) -> Case:
    model, clip = wan(lab, name)
    return Case((model.vae,), partial(model.codec.encode, torch.zeros(1, 3, *clip)))


def wan_decoding(lab: Lab, name: str) -> Case:
    model, clip = wan(lab, name)
    return Case((model.vae,), partial(model.codec.decode, wan_latents(lab, model, clip)))


# Heading, and under it what each row is called and how it is set up.
GROUPS: Mapping[str, Mapping[str, Callable[[Lab], Case]]] = {
    "ZeroScope": {
        "DDS, short clip": lambda lab: delta_denoising(lab, lab.run.short),
        "DDS": delta_denoising,
        "DDS, long clip in windows": long_delta_denoising,
        "ASSD with fusion, short clip": lambda lab: assd(lab, frames=lab.run.short),
        "ASSD with fusion": assd,
        "ASSD with fusion, joint guidance by SD 1.5": lambda lab: assd(lab, joint=True),
        "DreamMotion, short clip": lambda lab: held_by_keys(
            lab, SpatialSelfSimilarity(), TemporalSelfSimilarity(), frames=lab.run.short
        ),
        "DreamMotion, short clip, checkpointing": lambda lab: held_by_keys(
            lab,
            SpatialSelfSimilarity(),
            TemporalSelfSimilarity(),
            frames=lab.run.short,
            checkpointing=True,
        ),
        "DreamMotion": lambda lab: held_by_keys(
            lab, SpatialSelfSimilarity(), TemporalSelfSimilarity()
        ),
        "DreamMotion, checkpointing": lambda lab: held_by_keys(
            lab, SpatialSelfSimilarity(), TemporalSelfSimilarity(), checkpointing=True
        ),
        "flow-enhanced: smoothing, preservation": lambda lab: flow_enhanced(
            lab, ContentPreservation()
        ),
        "flow-enhanced, with consistency": lambda lab: flow_enhanced(
            lab, ContentPreservation(), GlobalConsistency()
        ),
        "flow-enhanced, with consistency, checkpointing": lambda lab: flow_enhanced(
            lab, ContentPreservation(), GlobalConsistency(), checkpointing=True
        ),
    },
    "AnimateDiff": {
        "DDIM inversion": inversion,
        "null-text, per frame": null_text,
        "null-text, per frame, checkpointing": partial(null_text, checkpointing=True),
        "null-text, shared": partial(null_text, per_frame=False),
        "null-text, shared, checkpointing": partial(null_text, per_frame=False, checkpointing=True),
        "decoupled guidance": decoupled_guidance,
        "decoupled guidance, checkpointing": partial(decoupled_guidance, checkpointing=True),
        "attention-controlled sampling": controlled_sampling,
    },
    "Stable Diffusion 1.5, inflated": {
        "Tune-A-Video": partial(one_shot_tuning, variant="tune-a-video"),
        "Tune-A-Video, checkpointing": partial(
            one_shot_tuning, variant="tune-a-video", checkpointing=True
        ),
        "EI2": partial(one_shot_tuning, variant="ei2"),
        "EI2, checkpointing": partial(one_shot_tuning, variant="ei2", checkpointing=True),
    },
    "Autoencoder": {"VAE encode": encoding, "VAE decode": decoding},
    "Wan": {f"{name}, DDS": partial(wan_delta_denoising, name=name) for name in WANS}
    | {
        f"{name}, VAE {way}": partial(case, name=name)
        for name in ("Wan 2.1 1.3B", "Wan 2.2 5B")
        for way, case in (("encode", wan_encoding), ("decode", wan_decoding))
    },
}
ROWS = {name: case for rows in GROUPS.values() for name, case in rows.items()}
