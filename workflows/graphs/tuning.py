"""Graphs of EI2 and Tune-A-Video: an image model learns one clip."""

from pathlib import Path

from graph import Graph

from .start import IMAGE_MODEL, Start

# What `ei2` has learned, for `ei2_apply`.
TUNED = Path(__file__).parents[1] / "models" / "rescore_tuned" / "ei2_red_circle.safetensors"

# Chosen on this clip and a few of the tune split. Blue for red moves the object, for a colour so
# far off loses its place; yellow keeps it. A cfg like the papers' burns what the tiny model draws.
TUNING = {"steps": 100, "learning_rate": 0.0001}
TUNED_STEPS, TUNED_CFG = 25, 1.5


def learn(graph: Graph, variant: str) -> tuple[Start, object]:
    """Inflate, tune, save: the clip, and the model that has learned it."""
    target = "a yellow circle on a checker background"
    start = Start(graph, "shapeworld-sd", "red_circle", target=target, motion=False)
    inflated = graph.add("ReScoreInflateImageModel", "Edit", model=start.model, variant=variant)
    tuned = graph.add(
        "ReScoreOneShotTune",
        "Edit",
        model=inflated["model"],
        prompts=start.prompts,
        latent=start.latent,
        checkpointing=False,
        preview_cfg=TUNED_CFG,
        preview_describe=True,
        **TUNING,
    )
    saved = graph.add("ReScoreSaveTunedWeights", "Edit", model=tuned["model"], name=graph.name)
    return start, saved["model"]


def _invert_and_sample(start: Start, model: object, cfg: float = 7.5) -> None:
    """How a tuned model edits: inverted, and sampled with the target's prompt.

    `cfg` is a real model's guidance: 7.5 is EI2's.
    """
    add = start.graph.add
    start.graph.real["ReScoreAttentionControlledSampling"] = {
        "cfg": cfg,
        "layout_control": False,
        "background_control": False,
    }
    trajectory = add(
        "ReScoreDDIMInversion",
        "Edit",
        model=model,
        prompts=start.prompts,
        latent=start.latent,
        steps=TUNED_STEPS,
        # With the source prompt: the background stays closer to the clip, by about 7 dB here, than
        # without one (cfg 0), which is Tune-A-Video's way and what EI2 leaves open.
        cfg=1.0,
    )
    edit = add(
        "ReScoreAttentionControlledSampling",
        "Edit",
        "Sample the edit",
        model=model,
        prompts=start.prompts,
        trajectory=trajectory["trajectory"],
        cfg=TUNED_CFG,
        layout_control=False,
        background_control=False,
        prompt_control="off",
    )
    start.finish(edit["latent"], model)


def ei2() -> Graph:
    graph = Graph(
        "ei2",
        "## EI2\nAn image model becomes a video model, learns this one clip, and samples it again "
        "with another prompt. What it has learned is saved for later; the charts show how far each "
        "layer along time moves the statistics of what passes through it.\n\n" + IMAGE_MODEL,
    )
    graph.real["ReScoreOneShotTune"] = {"preview_describe": True}  # as the inversion below
    start, model = learn(graph, "ei2")
    shift = graph.add(
        "ReScoreCovariateShift", "Edit", model=model, prompts=start.prompts, latent=start.latent
    )
    graph.add("PreviewImage", "Edit", "Shift of the features, by layer", images=shift["charts"])
    _invert_and_sample(start, model)
    return graph


def ei2_apply() -> Graph:
    graph = Graph(
        "ei2_apply",
        "## EI2, with what was learned before\nThe weights that the graph `ei2` has learned from "
        "this clip come with the pack. They are loaded, and the clip is sampled with yet another "
        "prompt: no tuning, the same motion. Your own are in the list once *Save Tuned Weights* "
        "has run; they go with the model they were tuned on.\n\n" + IMAGE_MODEL,
    )
    target = "a red square on a checker background"
    start = Start(graph, "shapeworld-sd", "red_circle", target=target, motion=False)
    loaded = graph.add("ReScoreLoadTunedWeights", "Load", model=start.model, file=TUNED.name)
    _invert_and_sample(start, loaded["model"])
    return graph


def tune_a_video() -> Graph:
    graph = Graph(
        "tune_a_video",
        "## Tune-A-Video\nThe baseline that EI2 is compared with: sparse-causal attention, and "
        "plain attention along time.\n\n"
        + IMAGE_MODEL
        + " Its authors encode a sample of the VAE, and so does the switch.",
    )
    # Of a real model: inverted without a prompt, and sampled with the authors' guidance.
    graph.real["ReScoreVideoVAEEncode"] = {"posterior": "sample"}
    graph.real["ReScoreDDIMInversion"] = {"cfg": 0}
    graph.real["ReScoreOneShotTune"] = {"preview_cfg": 12.5, "preview_describe": False}
    _invert_and_sample(*learn(graph, "tune-a-video"), cfg=12.5)
    return graph
