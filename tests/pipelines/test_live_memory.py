"""Loops with gradients leave nothing behind, after few steps and after many."""

from contextlib import nullcontext
from dataclasses import replace

import pytest
from live_memory import Watch
from rescore.attention.checkpointing import checkpointed
from rescore.attention.fusion import Fusion
from rescore.pipelines.windows import Windows
from small_runs import CONSISTENCY, DDS, ONE_STEP, SPATIAL, TEMPORAL, run
from tiny_unets import unet

checkpointing = pytest.mark.parametrize(
    "checkpointing", [False, True], ids=["whole", "checkpointed"]
)


def watched(steps) -> None:
    """Assert that `steps(n)`, whose result is dropped, leaves nothing for any n."""
    steps(1)  # what is made once and kept for good
    with Watch() as watch:
        before = watch.live()
        for count in (1, 3):
            steps(count)
            assert watch.live() == before


@checkpointing
@pytest.mark.parametrize(
    ("kind", "terms", "options"),
    [
        ("video", (DDS,), {}),
        ("video", (SPATIAL,), {}),
        ("video", (DDS, TEMPORAL), {"fusion": Fusion(2)}),
        ("video", (CONSISTENCY, DDS), {"windows": Windows(2, 1)}),
        ("image", (SPATIAL, DDS), {"fusion": Fusion(2), "windows": Windows(2, 1)}),
        ("motion", (DDS, SPATIAL, TEMPORAL), {}),
    ],
)
def test_distillation(kind, terms, options, checkpointing):
    def steps(count):
        with checkpointed(unet(kind)) if checkpointing else nullcontext():
            run(kind, terms, replace(ONE_STEP, steps=count), **options)

    watched(steps)
