"""Loops with gradients hold no more after many steps than after few, and nothing in the end.

Also where they are stopped by the caller, or fail in the middle of a step: in a pass with a graph,
or while a checkpoint runs a layer again.
"""

from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from live_memory import Watch
from rescore.attention.dit.processor import WanLayers
from rescore.attention.fusion import Fusion
from rescore.attention.unet.checkpointing import checkpointed
from rescore.pipelines.distillation.delta_denoising import DeltaDenoising
from rescore.pipelines.distillation.direction import DirectionCorrection
from rescore.pipelines.distillation.score_distillation import Settings, distil
from rescore.pipelines.distillation.self_similarity import SpatialSelfSimilarity
from rescore.pipelines.distillation.source_pull import SourcePull
from rescore.pipelines.distillation.terms import Weighted
from rescore.pipelines.inversion.decoupled_guidance import GuidanceSettings
from rescore.pipelines.inversion.drift import DriftGuidance
from rescore.pipelines.inversion.null_text import NullTextSettings, optimise_null_text
from rescore.pipelines.inversion.trajectory import Trajectory
from rescore.pipelines.models.denoiser import Denoiser, Prompts
from rescore.pipelines.models.process import RectifiedFlow
from rescore.pipelines.models.unet.inflation import inflate
from rescore.pipelines.tuning.one_shot_tuning import Settings as TuningSettings
from rescore.pipelines.tuning.one_shot_tuning import tune
from rescore.pipelines.windows import Windows
from small_runs import (
    CONSISTENCY,
    DDS,
    FRAMES,
    ONE_STEP,
    SCHEDULE,
    SPATIAL,
    TEMPORAL,
    backbone,
    clip,
    prompts,
    run,
)
from tiny_unets import unet
from tiny_wan import CHANNELS, TEXT_WIDTH, tiny_transformer
from torch import nn

STEPS = 4
checkpointing = pytest.mark.parametrize("blocks", [False, True], ids=["whole", "checkpointed"])


class Stop(Exception):
    pass


@contextmanager
def failing(module: nn.Module, call: int):
    """Within the `with`, a layer fails when it has run for the given time."""
    ran = 0

    def fail(*_):
        nonlocal ran
        ran += 1
        if ran == call:
            raise Stop

    hook = module.register_forward_hook(fail)
    try:
        yield
    finally:
        hook.remove()


def holds_nothing(loop, layer: nn.Module, kept_per_step: int = 0) -> None:
    """Watch `loop(steps, on_step)`, whose result is dropped: run, stopped, and failing in a layer.

    `kept_per_step` is what a step adds to the loop's result, in bytes.
    """

    def stop():
        raise Stop

    with Watch() as watch:
        loop(1, lambda: None)  # what is made once and kept for good
        before, during = watch.live(), []
        loop(STEPS, lambda: during.append(watch.live()))
        assert watch.live() == before
        # The first step still has what the loop was given.
        added = [now.bytes - then.bytes for then, now in pairwise(during[1:])]
        assert added == [kept_per_step] * (STEPS - 2)
        assert len({now.nodes for now in during}) == 1
        with pytest.raises(Stop):
            loop(STEPS, stop)
        assert watch.live() == before
        for call in (2, 3):
            with suppress(Stop), failing(layer, call):
                loop(1, lambda: None)
            assert watch.live() == before


@checkpointing
@pytest.mark.parametrize(
    ("kind", "terms", "options"),
    [
        ("image", (SPATIAL,), {}),
        ("video", (DDS, TEMPORAL), {"controls": [Fusion(2)]}),
        ("motion", (DDS, CONSISTENCY), {"windows": Windows(2, 1)}),
    ],
    ids=["spatial", "temporal, fused", "consistency, windows"],
)
def test_distillation(kind, terms, options, blocks):
    def loop(steps, on_step):
        with checkpointed(unet(kind)) if blocks else nullcontext():
            settings = replace(ONE_STEP, steps=steps, optimiser="adam")
            run(kind, terms, settings, on_step=lambda _: on_step(), **options)

    holds_nothing(loop, unet(kind).get_submodule("up_blocks.1.resnets.0.conv1"))


@pytest.mark.parametrize("windows", [None, Windows(2, 1, anchored=True)], ids=["once", "windows"])
@pytest.mark.parametrize(
    "how",
    [
        {"order": "descending", "source_cfg": 3.0},
        {"order": "descending", "noise_memory": 0.5, "draws": "weighted", "draw_count": 2},
        {"guidance": "source as negative", "draws": "best against worst", "draw_count": 3},
    ],
    ids=["FlowEdit", "DynaEdit", "FlowAlign, FlowDirector"],
)
@checkpointing
def test_rules_of_flows_on_a_wan(how, windows, blocks):
    transformer = tiny_transformer(seed=1).requires_grad_(False)
    generator = torch.Generator().manual_seed(2)
    pair = Prompts(*(torch.randn(1, 3, TEXT_WIDTH, generator=generator) for _ in range(3)))
    z = torch.randn(1, CHANNELS, 3, 4, 6, generator=generator)

    def output(z, t, cond):
        return transformer(z, torch.full((len(z),), t), cond, return_dict=False)[0]

    flow = RectifiedFlow(3.0)
    model = Denoiser("tiny", flow, "flow", output, layers=WanLayers(transformer))
    moves = DeltaDenoising(weighting="velocity", eta=0.5, rising=True)
    terms = (
        Weighted(moves, corrections=(DirectionCorrection(),)),
        Weighted(SourcePull(), 0.1),
        Weighted(SpatialSelfSimilarity("blocks.0.*")),
    )

    def loop(steps, on_step):
        with model.checkpointed(blocks):
            distil(
                z, terms, model, pair, Settings(steps, 0.5, 4.0, **how),
                windows=windows, on_step=lambda _: on_step(),
            )  # fmt: skip

    holds_nothing(loop, transformer.blocks[0].ffn)


@checkpointing
@pytest.mark.parametrize("windows", [None, Windows(2, 1)], ids=["at once", "windows"])
@pytest.mark.parametrize("guided", [False, True], ids=["plain", "guided"])
def test_null_text(guided, windows, blocks):
    z, (cond, _, uncond) = clip(), prompts()
    latents = torch.stack(
        [(1 - i / STEPS) * z + i / STEPS * clip(seed=2) for i in range(STEPS + 1)]
    )
    path = Trajectory(latents, tuple(map(SCHEDULE.level, (0, 200, 500, 700, 999))))
    settings = NullTextSettings(3.0, inner_steps=1, early_stop=0.0, early_stop_growth=0.0)
    guidance = DriftGuidance(GuidanceSettings(sites="up_blocks.1.*"))

    def loop(steps, on_step):
        with checkpointed(unet("motion")) if blocks else nullcontext():
            optimise_null_text(
                path,
                backbone("motion").denoiser,
                cond,
                uncond,
                settings,
                guidance=guidance if guided else None,
                windows=windows,
                steps=steps,
                on_step=lambda _: on_step(),
            )

    holds_nothing(
        loop,
        unet("motion").get_submodule("up_blocks.1.resnets.0.conv1"),
        FRAMES * uncond.nbytes + (z.nbytes if guided else 0),
    )


@checkpointing
def test_one_shot_tuning(blocks):
    model = inflate(unet("image"), "ei2")

    def loop(steps, on_step):
        settings = TuningSettings(steps, 1e-3, checkpointing=blocks)
        tune(model, clip(), prompts().source, SCHEDULE, settings, on_step=lambda _: on_step())

    holds_nothing(loop, unet("image").get_submodule("up_blocks.1.resnets.0.conv1"))
