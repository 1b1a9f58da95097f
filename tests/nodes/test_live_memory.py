"""Nodes with gradients, as the host keeps and calls them: a run, and one cancelled, leave nothing.

But for what a node keeps on purpose, which does not grow.
"""

from contextlib import suppress

import pytest
import rescore
import rescore.nodes.host as host
import torch
from live_memory import Watch


class Cancelled(Exception):
    pass


@pytest.fixture
def scene(given, clip):
    """`scene(kind)`: the model, prompts and latents that nodes are given."""
    return lambda kind: given(kind, clip(3, 12, 14))


def distillation(run, scene):
    terms = run("ReScoreSpatialSelfSimilarity", terms=run("ReScoreDeltaDenoising")[0])[0]
    fusion = run("ReScoreAttentionFusion", layers=1)[0]
    return {
        **scene("text-to-video"), "terms": terms, "fusion": fusion, "steps": 3, "window": 2,
        "overlap": 1,
    }  # fmt: skip


def single_step(run, scene):
    return {**scene("animatediff"), "terms": run("ReScoreGlobalConsistency")[0]}


def inspection(run, scene):
    return {**scene("image"), "terms": run("ReScoreTemporalSelfSimilarity")[0]}


def gradient_mask(run, scene):
    return {**scene("text-to-video"), "terms": run("ReScoreDeltaDenoising")[0], "timesteps": 3}


def null_text(run, scene):
    given = scene("animatediff")
    guidance = run("ReScoreDecoupledGuidance", sites="up_blocks.1.*")[0]
    path = run("ReScoreDDIMInversion", **given, steps=3, window=2, overlap=1)[0]
    del given["latent"]
    return {
        **given, "trajectory": path, "guidance": guidance, "cfg": 3.0, "inner_steps": 1,
        "checkpointing": True,
    }  # fmt: skip


def tuning(run, scene):
    given = scene("image")
    inflated = run("ReScoreInflateImageModel", model=given["model"])[0]
    return {**given, "model": inflated, "steps": 3, "preview_every": 2, "preview_steps": 2}


@pytest.mark.parametrize(
    ("node_id", "prepared"),
    [
        ("ReScoreScoreDistillation", distillation),
        ("ReScoreASSDStep", single_step),
        ("ReScoreInspectGradient", inspection),
        ("ReScoreMaskFromGradient", gradient_mask),
        ("ReScoreNullTextOptimisation", null_text),
        ("ReScoreOneShotTune", tuning),
    ],
)
def test_a_node_leaves_nothing_behind(run, scene, monkeypatch, node_id, prepared):
    node = rescore.NODE_CLASS_MAPPINGS[node_id]()
    defaults = {
        name: options[0]["default"]
        for name, (_, *options) in node.INPUT_TYPES()["required"].items()
        if options and "default" in options[0]
    }
    inputs = {**defaults, **prepared(run, scene)}
    cancels = iter(())

    def check():
        if next(cancels, False):
            raise Cancelled

    monkeypatch.setattr(host, "check_cancelled", check)

    @torch.inference_mode()
    def queued(at: int | None = None, **changed):
        nonlocal cancels
        cancels = iter([done == at for done in range(8)])
        with suppress(Cancelled):
            getattr(node, node.FUNCTION)(**{**inputs, **changed})

    with Watch() as watch:
        for at in (None, 1):
            # Another seed or rate each time: none goes on from the one before.
            name = "learning_rate" if "learning_rate" in inputs else "seed"
            left = []
            for change in (1, 2, 3):
                queued(at, **{name: change * 1e-3 if name == "learning_rate" else change})
                left.append(watch.live())
            assert left[0] == left[1] == left[2]
