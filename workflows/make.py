"""Writes the shipped graphs, their clips, and a picture of what each makes of its clip.

python workflows/make.py                graphs and clips
python workflows/make.py --tuned        also tunes the weights that the graph ei2_apply loads
python workflows/make.py --pictures     runs every graph headless for its thumbnail, too
"""

import argparse
import json
import shutil
import tempfile
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import torch
from graph import Graph, Node
from rescore.headless.demo import save_strip
from rescore.headless.runner import run_workflow
from rescore.headless.video import VideoComponents
from rescore.headless.video_write import encode_mp4
from rescore.shapeworld.edits import edited
from rescore.shapeworld.scene import caption
from rescore.shapeworld.showcase import FPS, SHOWCASE

HERE = Path(__file__).resolve().parent
TUNED = HERE / "models" / "rescore_tuned" / "ei2_red_circle.safetensors"  # what `ei2` has learned

VIDEO_MODEL = """**With a real model:** replace *Load Shape-World Model* by *Load Video Model* and \
choose `zeroscope_v2_576w` (huggingface.co/cerspense/zeroscope_v2_576w, diffusers layout, in \
`models/diffusers/`; 576 x 320, 8 to 24 frames). Describe your clip in the source prompt, change \
the words that are to change in the target prompt, and paint or load a mask (white may change)."""

ANIMATEDIFF = """**With a real model:** replace *Load Shape-World Model* by *Load Image Model* (a \
Stable Diffusion 1.5 checkpoint such as Realistic Vision 5.1 in `models/checkpoints/`) and *Load \
AnimateDiff Model* (`v3_sd15_mm.ckpt`, huggingface.co/guoyww/animatediff, in \
`models/animatediff_models/`); 512 x 512, 16 frames."""

IMAGE_MODEL = """**With a real model:** replace *Load Shape-World Model* by *Load Image Model* \
(Stable Diffusion 1.4 or 1.5 in `models/checkpoints/` or `models/diffusers/`); 512 x 512, 8 \
frames. Tune for 500 steps at a learning rate of 0.00003; 50 steps of inversion, with cfg 0 to \
invert without a prompt as Tune-A-Video does; cfg 7.5 (EI2) or 12.5 (Tune-A-Video) when sampling."""

# Chosen on this clip and a few of the tune split. Blue for red moves the object, for a colour so far
# off loses its place; yellow keeps it. A cfg like the papers' burns what the tiny model draws.
TUNING = {"steps": 100, "learning_rate": 0.0001}
TUNED_STEPS, TUNED_CFG = 25, 1.5


class Start:
    """What every graph begins with: a clip, its frames, a model, the pair of prompts, latents."""

    def __init__(
        self,
        graph: Graph,
        model: str,
        clip: str,
        *,
        target: str | None = None,
        motion: bool = True,
    ) -> None:
        edit = SHOWCASE[clip]
        self.graph = graph
        video = graph.add("LoadVideo", "Load", "Clip to edit", file=f"{clip}.mp4")
        self.parts = graph.add("GetVideoComponents", "Load", "Frames", video=video["VIDEO"])
        self.model = graph.add("ReScoreLoadShapeWorldModel", "Load", model=model)["model"]
        self.prompts = graph.add(
            "ReScoreEncodePromptPair",
            "Describe",
            model=self.model,
            source_prompt=caption(edit.source, motion=motion),
            target_prompt=target or caption(edit.target, motion=motion),
            negative_prompt="",
        )["prompts"]
        self.latent = graph.add(
            "ReScoreVideoVAEEncode", "Edit", model=self.model, images=self.parts["images"]
        )["latent"]

    def painted_mask(self, clip: str) -> object:
        """The MASK that a user has painted for a clip: a video in black and white."""
        add = self.graph.add
        video = add("LoadVideo", "Load", "Mask: white may change", file=f"{clip}_mask.mp4")
        parts = add("GetVideoComponents", "Load", "Frames of the mask", video=video["VIDEO"])
        red = add("ImageToMask", "Describe", image=parts["images"], channel="red")
        return add("ThresholdMask", "Describe", mask=red["MASK"], value=0.5)["MASK"]

    def finish(
        self, latent: object, model: object | None = None, mask: object | None = None
    ) -> None:
        """Decode, save as a video with the clip's sound and rate, and show beside the source.

        With a mask the source's own pixels come back outside it: no VAE gives them back exactly.
        """
        add, source, fps = self.graph.add, self.parts["images"], self.parts["fps"]
        decoded = add("ReScoreVideoVAEDecode", "Result", model=model or self.model, latent=latent)
        images = decoded["images"]
        if mask is not None:
            images = add(
                "ImageCompositeMasked",
                "Result",
                "The source's own pixels outside the mask",
                destination=source,
                source=images,
                x=0,
                y=0,
                resize_source=False,
                mask=mask,
            )["IMAGE"]
        video = add("CreateVideo", "Result", images=images, fps=fps, audio=self.parts["audio"])
        add(
            "SaveVideo",
            "Result",
            "Save the edit",
            video=video["VIDEO"],
            filename_prefix=f"rescore/{self.graph.name}",
        )
        pair = add("ReScoreCompareClips", "Result", source=source, edited=images)
        add("PreviewImage", "Result", "Source and edit", images=pair["images"])
        add("ReScoreViewComparison", "Result", source=source, edited=images, fps=fps)


def _distil(start: Start, terms: object, **inputs: object) -> Node:
    """The loop over the terms, from the clip's latents."""
    settings = {"steps": 60, "step_size": 0.1, "cfg": 5.0} | inputs
    return start.graph.add(
        "ReScoreScoreDistillation",
        "Edit",
        model=start.model,
        prompts=start.prompts,
        latent=start.latent,
        terms=terms,
        **settings,
    )


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
    edit = _distil(start, term["terms"], mask=mask)
    start.finish(edit["latent"], mask=mask)
    return graph


def assd() -> Graph:
    graph = Graph(
        "assd",
        "## ASSD\nNo mask is painted. The reference is smoothed in time where the prompts agree, "
        "the edit also attends to its source, and an image model guides along, frame by frame.\n\n"
        + VIDEO_MODEL
        + " For joint guidance load Stable Diffusion 1.5 with *Load Image Model*; step size 0.1, "
        "200 steps.",
    )
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
    )
    graph.add("PreviewImage", "Edit", "Where the terms act", images=seen["energy"])
    start.finish(_distil(start, terms, fusion=fusion)["latent"])
    return graph


def _structure(start: Start, terms: object) -> object:
    """DreamMotion's two terms that hold space and time."""
    terms = start.graph.add("ReScoreSpatialSelfSimilarity", "Edit", terms=terms)["terms"]
    return start.graph.add("ReScoreTemporalSelfSimilarity", "Edit", terms=terms)["terms"]


def dreammotion() -> Graph:
    graph = Graph(
        "dreammotion",
        "## DreamMotion\nDelta denoising within a box around the object, as the paper does, and "
        "self-similarity that holds shapes in space and in time.\n\n"
        + VIDEO_MODEL
        + " Step size 0.4, 200 steps.",
    )
    start = Start(graph, "shapeworld-t2v", "red_circle")
    box = graph.add("ReScoreBoundingBoxMask", "Describe", mask=start.painted_mask("red_circle"))[
        "mask"
    ]
    terms = graph.add("ReScoreDeltaDenoising", "Edit")["terms"]
    terms = graph.add("ReScoreGradientMask", "Edit", terms=terms, mask=box)["terms"]
    start.finish(_distil(start, _structure(start, terms))["latent"])
    return graph


def _smoothed(start: Start, terms: object) -> object:
    """Gradients smoothed along the source's optical flow, which is shown, too."""
    add = start.graph.add
    flow = add("ReScoreOpticalFlow", "Describe", images=start.parts["images"])["flow"]
    wheel = add("ReScoreShowFlow", "Describe", flow=flow)
    add("PreviewImage", "Describe", "Optical flow", images=wheel["images"])
    return add("ReScoreFlowSmoothing", "Edit", terms=terms, flow=flow)["terms"]


def flow_enhanced() -> Graph:
    graph = Graph(
        "flow_enhanced",
        "## Flow-enhanced distillation (inspired by)\nDelta denoising whose gradients are smoothed "
        "along the source's optical flow; what is not edited is pulled back, and frames are held "
        "together. Built after an abstract (arXiv 2406.04888v3); the definitions are ours.\n\n"
        + VIDEO_MODEL,
    )
    start = Start(graph, "shapeworld-t2v", "red_circle")
    terms = _smoothed(start, graph.add("ReScoreDeltaDenoising", "Edit")["terms"])
    terms = graph.add("ReScoreContentPreservation", "Edit", terms=terms)["terms"]
    terms = graph.add("ReScoreGlobalConsistency", "Edit", terms=terms)["terms"]
    start.finish(_distil(start, terms)["latent"])
    return graph


def mixed_terms() -> Graph:
    graph = Graph(
        "mixed_terms",
        "## Pieces of three papers\nASSD's adaptive reference, smoothed along the optical flow, "
        "DreamMotion's self-similarity, and attention fusion, in one loop. The green triangle "
        "becomes a circle.\n\n" + VIDEO_MODEL,
    )
    start = Start(graph, "shapeworld-t2v", "green_triangle")
    mask = start.painted_mask("green_triangle")
    terms = _smoothed(start, graph.add("ReScoreAdaptiveSliding", "Edit")["terms"])
    terms = graph.add("ReScoreTemporalSelfSimilarity", "Edit", terms=terms)["terms"]
    fusion = graph.add("ReScoreAttentionFusion", "Edit", layers=1, weight=0.8)["fusion"]
    start.finish(_distil(start, terms, fusion=fusion, mask=mask)["latent"], mask=mask)
    return graph


def _pivotal(start: Start, *, background: bool = False) -> tuple[Node, Node, object]:
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
        guidance=guidance,
    )
    return trajectory, null_text, mask


def _director(name: str, note: str, *, background: bool = False) -> Graph:
    graph = Graph(name, note + "\n\n" + ANIMATEDIFF)
    described = "a red circle moving right on a striped background" if background else None
    start = Start(graph, "shapeworld-animatediff", "red_circle", target=described)
    trajectory, null_text, mask = _pivotal(start, background=background)
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
    trajectory, null_text, _ = _pivotal(start)
    again = graph.add(
        "ReScoreReconstruct",
        "Result",
        model=start.model,
        prompts=start.prompts,
        trajectory=trajectory["trajectory"],
        cfg=5.0,
        null_text=null_text["null_text"],
        images=start.parts["images"],
    )
    start.finish(again["latent"])
    return graph


def _learn(graph: Graph, variant: str) -> tuple[Start, object]:
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
        **TUNING,
    )
    saved = graph.add("ReScoreSaveTunedWeights", "Edit", model=tuned["model"], name=graph.name)
    return start, saved["model"]


def _invert_and_sample(start: Start, model: object) -> None:
    """How a tuned model edits: inverted, and sampled with the target's prompt."""
    add = start.graph.add
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
        "with another prompt. What it has learned is saved for later.\n\n" + IMAGE_MODEL,
    )
    _invert_and_sample(*_learn(graph, "ei2"))
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
        "plain attention along time.\n\n" + IMAGE_MODEL,
    )
    _invert_and_sample(*_learn(graph, "tune-a-video"))
    return graph


GRAPHS: tuple[Callable[[], Graph], ...] = (
    delta_denoising,
    assd,
    dreammotion,
    flow_enhanced,
    mixed_terms,
    videodirector,
    videodirector_background,
    pivotal_reconstruction,
    ei2,
    ei2_apply,
    tune_a_video,
)


def write_clips() -> None:
    """The clips that the graphs edit, and the masks a user would paint for them."""
    (HERE / "input").mkdir(exist_ok=True)
    for name, edit in SHOWCASE.items():
        clips = edited(edit)
        mask = clips.paint[..., None].expand(-1, -1, -1, 3).float()
        for suffix, images in (("", clips.source.clip), ("_mask", mask)):
            file = HERE / "input" / f"{name}{suffix}.mp4"
            file.write_bytes(encode_mp4(VideoComponents(images.contiguous(), Fraction(FPS))))


def write_graphs(folder: Path = HERE) -> None:
    (folder / "api").mkdir(parents=True, exist_ok=True)
    for make in GRAPHS:
        graph = make()
        for file, content in (
            (folder / f"{graph.name}.json", graph.ui()),
            (folder / "api" / f"{graph.name}.json", graph.api()),
        ):
            file.write_text(json.dumps(content, indent=2) + "\n", "utf-8")


def write_tuned() -> None:
    """What the graph `ei2` learns, for the graph `ei2_apply`."""
    graph = Graph("ei2", "")
    _learn(graph, "ei2")
    with tempfile.TemporaryDirectory() as out:
        run_workflow(graph.api(), out=Path(out), inputs=[HERE / "input"], report=print)
        (learned,) = Path(out).rglob("*.safetensors")
        TUNED.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(learned, TUNED)


def write_pictures(names: list[str]) -> None:
    """A thumbnail of each graph: source above, edit below, frame by frame."""
    for make in GRAPHS:
        graph = make()
        if names and graph.name not in names:
            continue
        with tempfile.TemporaryDirectory() as out:
            frames = next(n for n in graph.nodes if n.kind == "GetVideoComponents")
            compare = next(n for n in graph.nodes if n.kind == "ReScoreCompareClips")
            ids = [str(frames.number), str(compare.inputs["edited"].node.number)]
            result = run_workflow(
                graph.api(), out=Path(out), inputs=[HERE / "input"], keep=ids, report=print
            )
            clips = {number: result.values[number][0] for number in ids}
            save_strip(clips, HERE / f"{graph.name}.jpg")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tuned", action="store_true", help=f"tune {TUNED.name} anew")
    parser.add_argument("--pictures", nargs="*", metavar="NAME", help="thumbnails of these, or all")
    options = parser.parse_args()
    torch.set_num_threads(1)
    write_clips()
    if options.tuned:
        write_tuned()
    write_graphs()
    if options.pictures is not None:
        write_pictures(options.pictures)
