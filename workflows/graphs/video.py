"""Graphs in which a VIDEO goes through one node."""

from graph import Graph
from rescore.shapeworld.scene import caption
from rescore.shapeworld.showcase import SHOWCASE

from .start import ANIMATEDIFF, VIDEO_MODEL


def _edit(graph: Graph, model: str, clip: str, kind: str, **settings: object) -> None:
    """Load Video, a model, the edit, Save Video."""
    add, edit = graph.add, SHOWCASE[clip]
    video = add("LoadVideo", "Load", "Clip to edit", file=f"{clip}.mp4")
    loaded = add("ReScoreLoadShapeWorldModel", "Load", model=model)
    node = add(
        kind,
        "Edit",
        model=loaded["model"],
        video=video["VIDEO"],
        source_prompt=caption(edit.source),
        target_prompt=caption(edit.target),
        **settings,
    )
    saved = add(
        "SaveVideo",
        "Result",
        "Save the edit",
        video=node["video"],
        filename_prefix=f"rescore/{graph.name}",
    )
    first = next(iter(settings))
    shown = [(video, "file"), (node, "source_prompt"), (node, "target_prompt"), (node, first)]
    graph.app = shown, [saved]


def edit_video() -> Graph:
    graph = Graph(
        "edit_video",
        "## A video in, a video out\nThe green triangle becomes a circle. One node edits the whole "
        "video, and keeps its sound and the time of every frame. Wire terms to it for DreamMotion, "
        "ASSD and mixtures, and a mask for what may change.\n\n" + VIDEO_MODEL,
    )
    # Chosen on the tune split: gentle steps, and few, leave the background as it is.
    _edit(graph, "shapeworld-t2v", "green_triangle", "ReScoreEditVideo", strength=0.2, steps=20)
    return graph


def edit_video_by_inversion() -> Graph:
    graph = Graph(
        "edit_video_by_inversion",
        "## A video in, a video out, by inversion\nThe clip goes to noise and back with another "
        "text, while attention is held to it.\n\n" + ANIMATEDIFF,
    )
    _edit(
        graph, "shapeworld-animatediff", "red_circle", "ReScoreEditVideoByInversion",
        keep_layout=0.3, cfg=5.0, steps=25,
    )  # fmt: skip
    return graph
