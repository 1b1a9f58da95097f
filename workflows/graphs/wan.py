"""Graphs on Wan through diffusers: the recommended edit, and what other papers make of the loop."""

from graph import Graph

from .start import Start, distil, smoothed

REAL = """**With a real model:** replace *Load Shape-World Model* by *Load Video Model* and choose \
`Wan2.1-T2V-1.3B-Diffusers` or `Wan2.1-T2V-14B-Diffusers` (huggingface.co/Wan-AI, diffusers layout \
with UMT5 and VAE, in `models/diffusers/`); 832 x 480, 17 to 81 frames (1 + 4 n; others are padded \
and cut again)."""

# Each with transformer, UMT5 and VAE, for `models/diffusers/`.
FOLDERS = [
    {"name": name, "url": f"https://huggingface.co/Wan-AI/{name}", "directory": "diffusers"}
    for name in ("Wan2.1-T2V-1.3B-Diffusers", "Wan2.1-T2V-14B-Diffusers")
]

# On the other clip, of the red circle, the tiny Wan moves what it edits.
CLIP = "green_triangle"

# From t_max down to no noise; the steps add up to the whole way. Measured in flow_models_report.
FALLING = {
    "order": "descending",
    "steps": 20,
    "step_size": 1.0,
    "cfg": 3.0,
    "t_min": 0.0,
    "t_max": 0.8,
}
REAL_STEPS = 50  # as many as Wan's authors sample with
ETA = 0.25
# Where papers ask for much more guidance of the target than of the source.
UNEQUAL = {**FALLING, "cfg": 4.5}
# FlowEdit on a real Wan, by the authors of FiVE-Bench.
WAN_EDIT = {"steps": 35, "t_max": 0.7, "cfg": 12.0, "source_cfg": 5.0}


def real_loop(**others: float) -> dict[str, float]:
    """The loop's numbers for a real Wan: those of `FALLING` but for some, and for `others`."""
    numbers = {key: value for key, value in FALLING.items() if key != "order"}
    return {**numbers, "steps": REAL_STEPS, "cfg": 4.5, **others}


def _graph(name: str, words: str, **real: float) -> Graph:
    graph = Graph(name, f"## {words}\n\n{REAL}")
    graph.real["ReScoreScoreDistillation"] = real_loop(**real)
    return graph


def _start(graph: Graph) -> Start:
    start = Start(graph, "shapeworld-wan", CLIP)
    start.model.node.models = FOLDERS
    return start


def wan_edit() -> Graph:
    graph = _graph(
        "wan_edit",
        "An edit on Wan\nThe green triangle becomes a circle, without a mask. Delta denoising of "
        "velocities from much noise to none, smoothed along the optical flow: of the rules that "
        "edit every clip it keeps most. If the edit is too weak, raise *eta*. If the object "
        "wanders, as on red_circle.mp4 with the tiny Wan, take *eta* 0.5 and *cfg* 6.",
    )
    start = _start(graph)
    term = graph.add("ReScoreDeltaDenoising", "Edit", weighting="velocity", eta=ETA)
    edit = distil(start, smoothed(start, term["terms"]), **FALLING)
    start.finish(edit["latent"], restore=True)
    return graph


def wan_flowedit() -> Graph:
    graph = _graph(
        "wan_flowedit",
        "FlowEdit on Wan\nDelta denoising of velocities with eta 1 is FlowEdit (arXiv 2412.08629); "
        "the source is guided less than the edit. The numbers for a real model are Wan-Edit's, of "
        "FiVE-Bench.",
        **WAN_EDIT,
    )
    start = _start(graph)
    term = graph.add("ReScoreDeltaDenoising", "Edit", weighting="velocity", eta=1.0)
    loop = {**UNEQUAL, "t_max": 0.66, "source_cfg": 1.2}
    start.finish(distil(start, term["terms"], **loop)["latent"], restore=True)
    return graph


def wan_drfs() -> Graph:
    graph = _graph(
        "wan_drfs",
        "DRFS on Wan\nEta rises from 0 to 1 along the steps: the clip is kept first and edited "
        "later (arXiv 2509.05342).",
        t_max=1.0, cfg=16.5, source_cfg=6.0,
    )  # fmt: skip
    start = _start(graph)
    term = graph.add("ReScoreDeltaDenoising", "Edit", weighting="velocity", eta=1.0, eta_rises=True)
    loop = {**UNEQUAL, "t_max": 1.0, "source_cfg": 1.6}
    start.finish(distil(start, term["terms"], **loop)["latent"], restore=True)
    return graph


def wan_flowalign() -> Graph:
    graph = _graph(
        "wan_flowalign",
        "FlowAlign on Wan\nThe edit is guided away from the source prompt in place of the negative "
        "one, and drawn back to the source a little in every step (arXiv 2505.23145). Three clips "
        "a step in place of four.",
        steps=33, t_max=0.7, cfg=19.5,
    )  # fmt: skip
    start = _start(graph)
    terms = graph.add("ReScoreDeltaDenoising", "Edit", weighting="velocity", eta=1.0)["terms"]
    terms = graph.add("ReScoreSourcePull", "Edit", terms=terms)["terms"]
    loop = {**FALLING, "t_max": 0.66, "cfg": 2.0, "guidance": "source as negative"}
    start.finish(distil(start, terms, **loop)["latent"], restore=True)
    return graph


def wan_dfvedit() -> Graph:
    graph = _graph(
        "wan_dfvedit",
        "DFVEdit on Wan\nThe bare difference of velocities (arXiv 2506.20967): nothing pulls to "
        "the source.",
        t_max=1.0, cfg=15.0, source_cfg=5.0,
    )  # fmt: skip
    start = _start(graph)
    term = graph.add("ReScoreDeltaDenoising", "Edit", weighting="bare velocity")
    loop = {**UNEQUAL, "t_max": 1.0, "source_cfg": 1.5}
    start.finish(distil(start, term["terms"], **loop)["latent"], restore=True)
    return graph


def wan_flowdirector() -> Graph:
    graph = _graph(
        "wan_flowdirector",
        "FlowDirector on Wan\nFlowEdit, of which the part along the source's own velocity is "
        "dropped or enlarged, over four draws of noise (arXiv 2506.05046). It edits most of all "
        "rules on this loop, so a mask belongs to it.",
        steps=40, t_max=0.8, cfg=10.5, source_cfg=3.5,
    )  # fmt: skip
    start = _start(graph)
    mask = start.painted_mask(CLIP)
    terms = graph.add("ReScoreDeltaDenoising", "Edit", weighting="velocity", eta=1.0)["terms"]
    terms = graph.add("ReScoreDirectionCorrection", "Edit", terms=terms)["terms"]
    loop = {**UNEQUAL, "source_cfg": 1.5, "draws": "best against worst"}
    start.finish(distil(start, terms, mask=mask, **loop)["latent"], mask=mask)
    return graph


def wan_dreammotion() -> Graph:
    graph = _graph(
        "wan_dreammotion",
        "DreamMotion on Wan\nDelta denoising within a box around the object, and self-similarity "
        "of the keys of the later blocks, which holds shapes. Needs a card: gradients go through "
        "half of the transformer.",
    )
    start = _start(graph)
    mask = start.painted_mask(CLIP)
    box = graph.add("ReScoreBoundingBoxMask", "Describe", mask=mask)["mask"]
    terms = graph.add("ReScoreDeltaDenoising", "Edit", weighting="velocity", eta=ETA)["terms"]
    terms = graph.add("ReScoreGradientMask", "Edit", terms=terms, mask=box)["terms"]
    # The steps of this loop add up to 1, those of DreamMotion's own to 80.
    terms = graph.add("ReScoreSpatialSelfSimilarity", "Edit", terms=terms, weight=300.0)["terms"]
    start.finish(distil(start, terms, **FALLING)["latent"], restore=True)
    return graph
