"""Graphs that remove an object and that add one."""

from dataclasses import replace

from graph import Graph
from rescore.shapeworld.scene import Scene, caption
from rescore.shapeworld.showcase import TWO_OBJECTS

from .start import WIDER
from .wan import ETA, FALLING, FOLDERS, REAL, real_loop

ALONE = replace(TWO_OBJECTS, second=None)


def _edit(
    graph: Graph, clip: str, source: Scene, target: Scene, *, eta: float, **settings: float
) -> Graph:
    """Delta denoising from one scene to the other within a mask around the object.

    `settings` are those in which the loop differs from other edits on Wan.
    """
    graph.real["ReScoreGrowFeatherMask"] = WIDER
    graph.real["ReScoreScoreDistillation"] = real_loop(**settings)
    add = graph.add
    video = add("LoadVideo", "Load", "Clip to edit", file=f"{clip}.mp4")["VIDEO"]
    parts = add("GetVideoComponents", "Load", "Frames", video=video)
    painted = add("LoadVideo", "Load", "Mask: where the object is", file="second_object_mask.mp4")
    white = add("GetVideoComponents", "Load", "Frames of the mask", video=painted["VIDEO"])
    model = add("ReScoreLoadShapeWorldModel", "Load", model="shapeworld-wan")["model"]
    model.node.models = FOLDERS
    mask = add("ImageToMask", "Describe", image=white["images"], channel="red")["MASK"]
    mask = add("ThresholdMask", "Describe", mask=mask, value=0.5)["MASK"]
    mask = add("ReScoreGrowFeatherMask", "Describe", mask=mask, grow=3)["mask"]
    prompts = add(
        "ReScoreEncodePromptPair",
        "Describe",
        model=model,
        source_prompt=caption(source),
        target_prompt=caption(target),
        negative_prompt="",
    )
    latent = add("ReScoreVideoVAEEncode", "Edit", model=model, images=parts["images"])["latent"]
    terms = add("ReScoreDeltaDenoising", "Edit", weighting="velocity", eta=eta)["terms"]
    edit = add(
        "ReScoreScoreDistillation",
        "Edit",
        model=model,
        prompts=prompts["prompts"],
        latent=latent,
        terms=terms,
        mask=mask,
        **FALLING | settings,
    )
    images = add("ReScoreVideoVAEDecode", "Result", model=model, latent=edit["latent"])["images"]
    made = add("ReScoreEditedVideo", "Result", source=video, images=images, mask=mask)
    saved = add(
        "SaveVideo",
        "Result",
        "Save the edit",
        video=made["video"],
        filename_prefix=f"rescore/{graph.name}",
    )
    add(
        "ReScoreViewComparison",
        "Result",
        source=parts["images"],
        edited=made["images"],
        fps=parts["fps"],
        audio=parts["audio"],
    )
    by_title = {node.title: node for node in graph.nodes}
    graph.app = (
        [
            (by_title["Clip to edit"], "file"),
            (by_title["Mask: where the object is"], "file"),
            (by_title["Encode Prompt Pair"], "source_prompt"),
            (by_title["Encode Prompt Pair"], "target_prompt"),
        ],
        [saved],
    )
    return graph


def remove_object() -> Graph:
    graph = Graph(
        "remove_object",
        "## Remove an object\nThe source text names the green square, the target text does not. "
        "The mask covers it, a little wider; all else stays the clip's exactly. The loop is that "
        "of other edits on Wan. Measured by `benchmarks/removal.py`.\n\n" + REAL,
    )
    return _edit(graph, "two_objects", TWO_OBJECTS, ALONE, eta=ETA)


def add_object() -> Graph:
    graph = Graph(
        "add_object",
        "## Add an object\nThe mask says where, the target text what. Adding begins at noise "
        "alone, for with less of it the model sees that nothing is there, and takes more guidance "
        "and a larger *eta* than other edits. Measured by `benchmarks/removal.py`.\n\n" + REAL,
    )
    return _edit(graph, "one_object", ALONE, TWO_OBJECTS, eta=0.75, cfg=7.0, t_max=1.0)
