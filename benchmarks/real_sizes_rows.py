"""What the benchmark of real sizes runs: a step of each method."""

from collections.abc import Callable, Mapping
from functools import partial

import torch
from real_sizes_lab import WORDS, Case, Lab
from real_sizes_wan import WANS, wan_decoding, wan_delta_denoising, wan_encoding
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
from rescore.pipelines.models.codec import decode_video, encode_video
from rescore.pipelines.models.unet.inflation import inflate
from rescore.pipelines.tuning.one_shot_tuning import Settings as TuningSettings
from rescore.pipelines.tuning.one_shot_tuning import tune
from rescore.pipelines.windows import Windows
from torch import Tensor, nn


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
