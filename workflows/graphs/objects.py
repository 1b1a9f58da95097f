"""Graphs that remove an object and that add one."""

from dataclasses import replace

from graph import Graph
from rescore.shapeworld.scene import Scene, caption
from rescore.shapeworld.showcase import TWO_OBJECTS

from .start import VIDEO_MODEL, WIDER

ALONE = replace(TWO_OBJECTS, second=None)


def _edit(graph: Graph, clip: str, source: Scene, target: Scene, **settings: float) -> Graph:
    """Delta denoising from one scene to the other within a mask around the object."""
    graph.real["ReScoreGrowFeatherMask"] = WIDER
    add = graph.add
    video = add("LoadVideo", "Load", "Clip to edit", file=f"{clip}.mp4")["VIDEO"]
    parts = add("GetVideoComponents", "Load", "Frames", video=video)
    painted = add("LoadVideo", "Load", "Mask: where the object is", file="second_object_mask.mp4")
    white = add("GetVideoComponents", "Load", "Frames of the mask", video=painted["VIDEO"])
    model = add("ReScoreLoadShapeWorldModel", "Load", model="shapeworld-t2v")["model"]
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
    terms = add("ReScoreDeltaDenoising", "Edit")["terms"]
    edit = add(
        "ReScoreScoreDistillation",
        "Edit",
        model=model,
        prompts=prompts["prompts"],
        latent=latent,
        terms=terms,
        mask=mask,
        **settings,
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
        "The mask covers it, a little wider; all else stays the clip's exactly. What settings "
        "work is measured by `benchmarks/removal.py`: small steps do, more of them clean up.\n\n"
        + VIDEO_MODEL,
    )
    return _edit(graph, "two_objects", TWO_OBJECTS, ALONE, steps=60, step_size=0.1, cfg=5.0)


def add_object() -> Graph:
    graph = Graph(
        "add_object",
        "## Add an object\nThe mask says where, the target text what. Adding takes far larger "
        "steps and more guidance than removing: at levels of little noise the model sees that "
        "nothing is there, so low levels are left out. Measured by `benchmarks/removal.py`.\n\n"
        + VIDEO_MODEL,
    )
    return _edit(
        graph, "one_object", ALONE, TWO_OBJECTS,
        steps=60, step_size=1.0, cfg=12.0, t_min=0.3, t_max=0.98,
    )  # fmt: skip
