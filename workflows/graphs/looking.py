"""Graphs that look closely: one step at a time, and several edits measured side by side."""

from graph import Graph, Output

from .start import VIDEO_MODEL, Start, distil


def step_by_step() -> Graph:
    graph = Graph(
        "step_by_step",
        "## One step at a time\nThree steps of ASSD, each a node of its own: the state goes from "
        "one to the next, and what lies between can be looked at or changed. Three are a "
        "beginning; an edit takes 60 or more. The box is drawn by "
        "its edges and moves along with the circle.\n\n" + VIDEO_MODEL,
    )
    start = Start(graph, "shapeworld-t2v", "red_circle")
    add = graph.add
    box = add(
        "ReScoreBoxMask",
        "Describe",
        images=start.parts["images"],
        left=0.0, top=0.2, right=0.6, bottom=0.8,
        moves=True,
        end_left=0.4, end_top=0.2, end_right=1.0, end_bottom=0.8,
    )["mask"]  # fmt: skip
    shown = add("ReScoreShowMask", "Describe", images=start.parts["images"], mask=box)
    add("PreviewImage", "Describe", "The box over the clip", images=shown["images"])
    terms = add("ReScoreAdaptiveSliding", "Edit")["terms"]
    state: dict[str, Output] = {}
    for number in (1, 2, 3):
        step = add(
            "ReScoreASSDStep",
            "Edit",
            f"Step {number}",
            model=start.model,
            prompts=start.prompts,
            latent=start.latent,
            terms=terms,
            step_size=0.2,
            cfg=5.0,
            mask=box,
            **state,
        )
        state = {"state": step["state"]}
    start.finish(step["latent"])
    return graph


def measures() -> Graph:
    graph = Graph(
        "measures",
        "## Two edits, measured\nThe same edit, free and within a mask. One row for each, and one "
        "for the source: how much of what lies outside the mask is kept, and how the clip moves. "
        "The table is also saved as CSV and JSON. Measures that need a model of their own (CLIP, "
        "PickScore, LPIPS) are wired in the same way.\n\n" + VIDEO_MODEL,
    )
    start = Start(graph, "shapeworld-t2v", "red_circle")
    add, source = graph.add, start.parts["images"]
    mask = start.painted_mask("red_circle")
    terms = add("ReScoreDeltaDenoising", "Edit")["terms"]

    def measured(label: str, clip: Output, others: dict[str, Output]) -> dict[str, Output]:
        """One more row of the table."""
        both = {"source": source, "edited": clip, "mask": mask}
        nodes = [add("ReScoreMotionSmoothness", "Result", f"Smoothness: {label}", images=clip)]
        nodes.append(
            add("ReScoreWarpingError", "Result", f"Flicker: {label}", images=clip, source=source)
        )
        if others:
            nodes += [
                add(f"ReScore{name}", "Result", f"{name}: {label}", **both)
                for name in ("PSNR", "SSIM", "MotionFidelity")
            ]
        rows = {f"measure_{i}": node["measure"] for i, node in enumerate(nodes, 1)}
        row = add("ReScoreCollectMeasures", "Result", label=label, **rows, **others)
        return {"measures": row["measures"]}

    table = measured("source", source, {})
    for label, given in (("free", {}), ("within a mask", {"mask": mask})):
        edit = distil(start, terms, **given)
        decoded = add("ReScoreVideoVAEDecode", "Edit", model=start.model, latent=edit["latent"])
        table = measured(label, decoded["images"], table)
    shown = add("ReScoreMeasuresTable", "Result", **table, name=graph.name)
    add("PreviewImage", "Result", "The table", images=shown["table"])
    start.finish(edit["latent"], mask=mask)
    return graph
