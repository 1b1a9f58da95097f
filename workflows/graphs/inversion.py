"""Graphs of VideoDirector: pivotal inversion, and edits upon it."""

from graph import Graph, Node

from .start import ANIMATEDIFF, Start


def _pivotal(
    start: Start, learning_rate: float, *, background: bool = False
) -> tuple[Node, Node, object]:
    """Stage 1 of VideoDirector: trajectory, guidance, null-text. Also the mask that edits use."""
    add = start.graph.add
    trajectory = add(
        "ReScoreDDIMInversion",
        "Edit",
        model=start.model,
        prompts=start.prompts,
        latent=start.latent,
        steps=25,
    )
    mask = add("ReScoreEllipseMask", "Describe", mask=start.painted_mask("red_circle"))["mask"]
    guidance = add("ReScoreDecoupledGuidance", "Edit", mask=mask)["guidance"]
    if background:
        swapped = add("ReScoreEditBackground", "Describe", mask=mask, guidance=guidance)
        mask, guidance = swapped["mask"], swapped["guidance"]
    null_text = add(
        "ReScoreNullTextOptimisation",
        "Edit",
        model=start.model,
        prompts=start.prompts,
        trajectory=trajectory["trajectory"],
        cfg=5.0,
        learning_rate=learning_rate,
        guidance=guidance,
    )
    return trajectory, null_text, mask


def _director(name: str, note: str, *, background: bool = False) -> Graph:
    graph = Graph(name, note + "\n\n" + ANIMATEDIFF)
    described = "a red circle moving right on a striped background" if background else None
    start = Start(graph, "shapeworld-animatediff", "red_circle", target=described)
    # An edit is freer for little; but at 0.01 this clip's new background has no stripes.
    learning_rate = 0.06 if background else 0.01
    trajectory, null_text, mask = _pivotal(start, learning_rate, background=background)
    edit = graph.add(
        "ReScoreAttentionControlledSampling",
        "Edit",
        model=start.model,
        prompts=start.prompts,
        trajectory=trajectory["trajectory"],
        cfg=5.0,
        null_text=null_text["null_text"],
        mask=mask,
    )
    start.finish(edit["latent"])
    return graph


def videodirector() -> Graph:
    return _director(
        "videodirector",
        "## VideoDirector\nThe clip is inverted to noise and back: null-text embeddings, one per "
        "frame, and decoupled guidance make the way back exact. On it the prompt changes, while "
        "self-attention holds the layout first and the background later.",
    )


def videodirector_background() -> Graph:
    return _director(
        "videodirector_background",
        "## VideoDirector, background\nThe same with mask and coefficients swapped: the object is "
        "held and the background changes.",
        background=True,
    )


def pivotal_reconstruction() -> Graph:
    graph = Graph(
        "pivotal_reconstruction",
        "## Pivotal inversion\nThe first stage of VideoDirector alone: how well the clip is found "
        "again from its noise, in dB. Editing can be no better than this.\n\n" + ANIMATEDIFF,
    )
    start = Start(graph, "shapeworld-animatediff", "red_circle")
    # The tiny model's embeddings are narrow: to find the clip back they have far to go.
    trajectory, null_text, _ = _pivotal(start, learning_rate=0.06)
    saved = graph.add(
        "ReScoreSaveNullText", "Edit", null_text=null_text["null_text"], name=graph.name
    )
    again = graph.add(
        "ReScoreReconstruct",
        "Result",
        model=start.model,
        prompts=start.prompts,
        trajectory=trajectory["trajectory"],
        cfg=5.0,
        null_text=saved["null_text"],
        images=start.parts["images"],
    )
    start.finish(again["latent"])
    return graph
