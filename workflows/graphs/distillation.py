"""Graphs of score distillation: delta denoising, ASSD, DreamMotion, flow-enhanced, and mixtures."""

from graph import Graph
from rescore.shapeworld.scene import caption
from rescore.shapeworld.showcase import SHOWCASE

from .start import LOOP, VIDEO_MODEL, WIDER, Start, distil, smoothed


def delta_denoising() -> Graph:
    graph = Graph(
        "delta_denoising",
        "## Video delta denoising\nThe red circle becomes blue. The clip's own latents move, step "
        "by step, from the source prompt to the target prompt; outside the mask they stay exactly "
        "the source's.\n\n" + VIDEO_MODEL,
    )
    start = Start(graph, "shapeworld-t2v", "red_circle")
    mask = start.painted_mask("red_circle")
    term = graph.add("ReScoreDeltaDenoising", "Edit")
    edit = distil(start, term["terms"], mask=mask)
    start.finish(edit["latent"], mask=mask)
    return graph


def edit_region() -> Graph:
    graph = Graph(
        "edit_region",
        "## Only the region is computed\nThe object is small in a large picture. *Crop to Region* "
        "cuts it out at the model's own size, *Paste Region* puts the edit back: every pixel where "
        "the mask is black stays exactly the source's. Works with every method.\n\n" + VIDEO_MODEL,
    )
    graph.real["ReScoreCropToRegion"] = {"margin": 0.25, "width": 576, "height": 320}
    graph.real["ReScoreGrowFeatherMask"] = {"grow": 36}
    crop = {"margin": 0.05, "width": 64, "height": 64}
    start = Start(graph, "shapeworld-t2v", "red_circle", file="screen", crop=crop)
    term = graph.add("ReScoreDeltaDenoising", "Edit")
    edit = distil(start, term["terms"], mask=start.region["mask"])
    start.finish(edit["latent"])
    return graph


def assd() -> Graph:
    graph = Graph(
        "assd",
        "## ASSD\nNo mask is painted. The reference is smoothed in time around what is edited, the "
        "edit also attends to its source, and an image model guides along, frame by frame.\n\n"
        + VIDEO_MODEL
        + " For joint guidance load Stable Diffusion 1.5 with *Load Image Model*.",
    )
    graph.real["ReScoreScoreDistillation"] = {"step_size": 0.1}  # ASSD's
    start = Start(graph, "shapeworld-t2v", "red_circle")
    image = graph.add("ReScoreLoadShapeWorldModel", "Load", "Image model", model="shapeworld-sd")[
        "model"
    ]
    edit = SHOWCASE["red_circle"]
    image_prompts = graph.add(
        "ReScoreEncodePromptPair",
        "Describe",
        "Prompts of a frame",
        model=image,
        source_prompt=caption(edit.source, motion=False),
        target_prompt=caption(edit.target, motion=False),
        negative_prompt="",
    )["prompts"]
    terms = graph.add("ReScoreAdaptiveSliding", "Edit")["terms"]
    terms = graph.add(
        "ReScoreImageDeltaDenoising",
        "Edit",
        image_model=image,
        image_prompts=image_prompts,
        cfg=LOOP["cfg"],
        weight=0.5,
        terms=terms,
    )["terms"]
    fusion = graph.add("ReScoreAttentionFusion", "Edit", layers=2)["fusion"]
    seen = graph.add(
        "ReScoreInspectGradient",
        "Edit",
        model=start.model,
        prompts=start.prompts,
        latent=start.latent,
        terms=terms,
        cfg=LOOP["cfg"],
    )
    graph.add("PreviewImage", "Edit", "Where the terms act", images=seen["energy"])
    start.finish(distil(start, terms, fusion=fusion)["latent"], restore=True)
    return graph


def structure(start: Start, terms: object) -> object:
    """DreamMotion's two terms that hold space and time."""
    terms = start.graph.add("ReScoreSpatialSelfSimilarity", "Edit", terms=terms)["terms"]
    # The node begins with what goes with the papers' step; here it is a quarter as long.
    held = start.graph.add("ReScoreTemporalSelfSimilarity", "Edit", terms=terms, weight=1000.0)
    return held["terms"]


def dreammotion() -> Graph:
    graph = Graph(
        "dreammotion",
        "## DreamMotion\nDelta denoising within a box around the object, as the paper does, and "
        "self-similarity that holds shapes in space and in time.\n\n" + VIDEO_MODEL,
    )
    start = Start(graph, "shapeworld-t2v", "red_circle")
    box = graph.add("ReScoreBoundingBoxMask", "Describe", mask=start.painted_mask("red_circle"))[
        "mask"
    ]
    terms = graph.add("ReScoreDeltaDenoising", "Edit")["terms"]
    terms = graph.add("ReScoreGradientMask", "Edit", terms=terms, mask=box)["terms"]
    start.finish(distil(start, structure(start, terms))["latent"], restore=True)
    return graph


def flow_enhanced() -> Graph:
    graph = Graph(
        "flow_enhanced",
        "## Flow-enhanced distillation (inspired by)\nDelta denoising whose gradients are smoothed "
        "along the source's optical flow; what is not edited is pulled back, and frames are held "
        "together. Built after an abstract (arXiv 2406.04888v3); the definitions are ours.\n\n"
        + VIDEO_MODEL,
    )
    graph.real["ReScoreScoreDistillation"] = {"step_size": 0.1}  # ASSD's
    start = Start(graph, "shapeworld-t2v", "red_circle")
    terms = smoothed(start, graph.add("ReScoreDeltaDenoising", "Edit")["terms"])
    terms = graph.add("ReScoreContentPreservation", "Edit", terms=terms)["terms"]
    terms = graph.add("ReScoreGlobalConsistency", "Edit", terms=terms)["terms"]
    start.finish(distil(start, terms)["latent"], restore=True)
    return graph


def mixed_terms() -> Graph:
    graph = Graph(
        "mixed_terms",
        "## Pieces of three papers\nASSD's adaptive reference, smoothed along the optical flow, "
        "DreamMotion's self-similarity, and attention fusion, in one loop. The green triangle "
        "becomes a circle.\n\n" + VIDEO_MODEL,
    )
    graph.real["ReScoreScoreDistillation"] = {"step_size": 0.1}  # ASSD's
    start = Start(graph, "shapeworld-t2v", "green_triangle")
    mask = start.painted_mask("green_triangle")
    terms = smoothed(start, graph.add("ReScoreAdaptiveSliding", "Edit")["terms"])
    terms = graph.add("ReScoreSpatialSelfSimilarity", "Edit", terms=terms)["terms"]
    fusion = graph.add("ReScoreAttentionFusion", "Edit", layers=2)["fusion"]
    start.finish(distil(start, terms, fusion=fusion, mask=mask)["latent"], mask=mask)
    return graph


def mask_from_the_model() -> Graph:
    graph = Graph(
        "mask_from_the_model",
        "## A mask that nobody painted\nThe model itself says where the green triangle is, by its "
        "attention to these two words, and where the prompts would change the clip, by the energy "
        "of the gradient. Both are shown over the clip. The words' mask, a little wider, confines "
        "the edit. *Mask from Prompt* (Grounding DINO) and *Mask through Clip* (SAM 2) make "
        "sharper masks, with models of their own.\n\n" + VIDEO_MODEL,
    )
    graph.real["ReScoreGrowFeatherMask"] = WIDER
    start = Start(graph, "shapeworld-t2v", "green_triangle")
    add, known = graph.add, {"model": start.model, "prompts": start.prompts}
    terms = add("ReScoreDeltaDenoising", "Edit")["terms"]
    words = add(
        "ReScoreMaskFromWords", "Edit", **known, latent=start.latent, words="green triangle"
    )
    energy = add(
        "ReScoreMaskFromGradient",
        "Edit",
        **known,
        latent=start.latent,
        terms=terms,
        cfg=LOOP["cfg"],
    )
    for mask, title in ((words["mask"], "Where the words are"), (energy["mask"], "What changes")):
        shown = add("ReScoreShowMask", "Edit", images=start.parts["images"], mask=mask)
        add("PreviewImage", "Edit", title, images=shown["images"])
    mask = add("ReScoreGrowFeatherMask", "Edit", mask=words["mask"], grow=3)["mask"]
    edit = distil(start, terms, mask=mask)
    start.finish(edit["latent"], mask=mask)
    return graph
