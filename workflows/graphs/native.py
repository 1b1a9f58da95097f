"""Graphs on ComfyUI's own models, with the tiny Wan that its loaders list."""

from collections.abc import Callable

from blueprint import Blueprint
from graph import Graph, Node
from host_nodes import WAN, WAN_VAE
from rescore.shapeworld.scene import caption
from rescore.shapeworld.showcase import SHOWCASE

from .start import Start, distil

REAL = """**With a real model:** in *Load Diffusion Model* choose \
`wan2.1_t2v_1.3B_fp16.safetensors` (2.8 GB) or `wan2.1_t2v_14B_fp8_e4m3fn.safetensors` (14.3 GB; \
`models/diffusion_models/`), in *Load VAE* `wan_2.1_vae.safetensors` (`models/vae/`), all from \
huggingface.co/Comfy-Org/Wan_2.1_ComfyUI_repackaged. Replace the three *Shape-World Conditioning* \
by *CLIP Text Encode* behind a *Load CLIP* of type `wan` with \
`umt5_xxl_fp8_e4m3fn_scaled.safetensors` (`models/text_encoders/`). 832 x 480, 17 to 81 frames. \
LTX-Video and HunyuanVideo go in the same way. Needs ComfyUI 0.16 or later for the tiny model, 0.8 \
or later for real ones."""


class NativeStart(Start):
    """A clip, ComfyUI's own model with its prompts as a model of ReScore's, and latents."""

    def __init__(self, graph: Graph, clip: str) -> None:
        add, edit, self.region = graph.add, SHOWCASE[clip], None
        self.graph = graph
        video = add("LoadVideo", "Load", "Clip to edit", file=f"{clip}.mp4")
        self.parts = add("GetVideoComponents", "Load", "Frames", video=video["VIDEO"])
        self.patcher = add("UNETLoader", "Load", "Load Diffusion Model", unet_name=WAN)["MODEL"]
        self.vae = add("VAELoader", "Load", "Load VAE", vae_name=WAN_VAE)["VAE"]
        texts = {
            "source": ("What the clip shows", caption(edit.source)),
            "target": ("What it should show", caption(edit.target)),
            "negative": ("Nothing", ""),
        }
        self.texts = {
            side: add("ReScoreShapeWorldConditioning", "Describe", title, text=text)["conditioning"]
            for side, (title, text) in texts.items()
        }
        taken = add(
            "ReScoreNativeModel", "Describe", model=self.patcher, vae=self.vae, **self.texts
        )
        self.model, self.prompts = taken["model"], taken["prompts"]
        self.latent = add(
            "ReScoreVideoVAEEncode", "Edit", model=self.model, images=self.parts["images"]
        )["latent"]


def _graph(name: str, words: str) -> Graph:
    return Graph(name, f"## {words}\n\n{REAL}")


def wan_edit_native() -> Graph:
    graph = _graph(
        "wan_edit_native",
        "Delta denoising with ComfyUI's own Wan\nThe red circle becomes blue. The model comes from "
        "ComfyUI's loaders, with all that its nodes do to it; outside the mask latents stay the "
        "source's exactly.",
    )
    start = NativeStart(graph, "red_circle")
    mask = start.painted_mask("red_circle")
    term = graph.add("ReScoreDeltaDenoising", "Edit")
    strength = graph.add("ReScoreEditStrength", "Edit")
    settings = {name: strength[name] for name in ("cfg", "t_max", "step_size")}
    start.finish(distil(start, term["terms"], mask=mask, **settings)["latent"], mask=mask)

    def node(kind: str, title: str) -> Node:
        return next(n for n in graph.nodes if n.kind == kind and title in n.title)

    shown = [
        (node("LoadVideo", "Clip"), "file"),
        (node("ReScoreShapeWorldConditioning", "shows"), "text"),
        (node("ReScoreShapeWorldConditioning", "should"), "text"),
        (strength, "strength"),
        (node("LoadVideo", "Mask"), "file"),
    ]
    graph.app = shown, [node("SaveVideo", "")]
    return graph


def wan_edit_sampler() -> Graph:
    graph = _graph(
        "wan_edit_sampler",
        "Delta denoising in ComfyUI's own sampling node\n*Edit Guider* holds the prompts, "
        "*Distillation Sampler* the loop; levels of noise are drawn from the scheduler's SIGMAS.",
    )
    start = NativeStart(graph, "red_circle")
    add = graph.add
    guider = add("ReScoreEditGuider", "Edit", model=start.patcher, cfg=5.0, **start.texts)
    term = add("ReScoreDeltaDenoising", "Edit")
    sampler = add(
        "ReScoreDistillationSampler", "Edit", terms=term["terms"], steps=60, step_size=0.4
    )
    sigmas = add(
        "BasicScheduler", "Edit", model=start.patcher, scheduler="simple", steps=40, denoise=1.0
    )
    edit = add(
        "SamplerCustomAdvanced",
        "Edit",
        noise=add("RandomNoise", "Edit", noise_seed=0)["NOISE"],
        guider=guider["guider"],
        sampler=sampler["sampler"],
        sigmas=sigmas["SIGMAS"],
        latent_image=start.latent,
    )
    start.finish(edit["output"])
    return graph


def native_assd() -> Graph:
    graph = _graph(
        "native_assd",
        "ASSD with ComfyUI's own Wan\nNo mask is painted. The reference is smoothed in time where "
        "the prompts agree, and the edit also attends to its source in the last blocks of the "
        "transformer. A latent frame of Wan shows four pictures, so the window is narrow.",
    )
    start = NativeStart(graph, "red_circle")
    terms = graph.add("ReScoreAdaptiveSliding", "Edit", window="0.1, 0.8, 0.1")["terms"]
    fusion = graph.add("ReScoreAttentionFusion", "Edit", layers=2, weight=0.8)["fusion"]
    start.finish(distil(start, terms, step_size=0.4, fusion=fusion)["latent"])
    return graph


def native_dreammotion() -> Graph:
    graph = _graph(
        "native_dreammotion",
        "DreamMotion with ComfyUI's own Wan\nDelta denoising within a box around the object, and "
        "self-similarity of the keys of chosen blocks, which holds shapes. Needs ComfyUI 0.14 or "
        "later, and weights that are not quantised.",
    )
    start = NativeStart(graph, "red_circle")
    box = graph.add("ReScoreBoundingBoxMask", "Describe", mask=start.painted_mask("red_circle"))
    terms = graph.add("ReScoreDeltaDenoising", "Edit")["terms"]
    terms = graph.add("ReScoreGradientMask", "Edit", terms=terms, mask=box["mask"])["terms"]
    terms = graph.add("ReScoreSpatialSelfSimilarity", "Edit", terms=terms)["terms"]
    start.finish(distil(start, terms, step_size=0.4)["latent"])
    return graph


_FILES = "https://huggingface.co/Comfy-Org/Wan_2.1_ComfyUI_repackaged/resolve/main/split_files"
_REAL = {
    "unet_name": "wan2.1_t2v_1.3B_fp16.safetensors",
    "vae_name": "wan_2.1_vae.safetensors",
    "clip_name": "umt5_xxl_fp8_e4m3fn_scaled.safetensors",
}


def edit_video_wan() -> Blueprint:
    """The blueprint for people: Wan 2.1 and its own text encoder."""
    blueprint = Blueprint(
        "edit_video_wan",
        "Edit Video (Wan 2.1, ReScore)",
        "Changes in a clip what the second prompt says otherwise than the first. White of the mask "
        "may change; without one the model decides.",
    )
    add = blueprint.add
    patcher = add("UNETLoader", "Load", "Load Diffusion Model", unet_name=_REAL["unet_name"])
    vae = add("VAELoader", "Load", "Load VAE", vae_name=_REAL["vae_name"])
    clip = add("CLIPLoader", "Load", "Load CLIP", clip_name=_REAL["clip_name"], type="wan")["CLIP"]
    for node, folder, name in (
        (patcher, "diffusion_models", "unet_name"),
        (vae, "vae", "vae_name"),
        (blueprint.nodes[-1], "text_encoders", "clip_name"),
    ):
        file = _REAL[name]
        node.models = [{"name": file, "url": f"{_FILES}/{folder}/{file}", "directory": folder}]

    def encode(title: str, text: object) -> object:
        return add("CLIPTextEncode", "Describe", title, clip=clip, text=text)["CONDITIONING"]

    _edits(blueprint, patcher["MODEL"], vae["VAE"], encode)
    return blueprint


def edit_video_shapeworld() -> Blueprint:
    """The same with the tiny Wan, to be tried without a download."""
    blueprint = Blueprint(
        "edit_video_shapeworld",
        "Edit Video (shape world, ReScore)",
        "Edit Video (Wan 2.1, ReScore) with the tiny Wan that comes with the pack, for clips of "
        "the shape world.",
    )
    patcher = blueprint.add("UNETLoader", "Load", "Load Diffusion Model", unet_name=WAN)["MODEL"]
    vae = blueprint.add("VAELoader", "Load", "Load VAE", vae_name=WAN_VAE)["VAE"]

    def encode(title: str, text: object) -> object:
        node = blueprint.add("ReScoreShapeWorldConditioning", "Describe", title, text=text)
        return node["conditioning"]

    _edits(blueprint, patcher, vae, encode)
    return blueprint


def _edits(
    blueprint: Blueprint, patcher: object, vae: object, encode: Callable[[str, object], object]
) -> None:
    """VIDEO, two prompts, a strength and perhaps a MASK in; VIDEO with its sound and rate out."""
    add, comes_in = blueprint.add, blueprint.comes_in
    edit = SHOWCASE["red_circle"]
    video = comes_in("video", "VIDEO")
    shows = comes_in("what it shows", "STRING", caption(edit.source))
    should = comes_in("what it should show", "STRING", caption(edit.target))
    strength = comes_in("strength", "FLOAT", 0.5)
    mask = comes_in("mask", "MASK")
    parts = add("GetVideoComponents", "Load", "Frames", video=video)
    taken = add(
        "ReScoreNativeModel",
        "Describe",
        model=patcher,
        vae=vae,
        source=encode("What the clip shows", shows),
        target=encode("What it should show", should),
        negative=encode("Nothing", ""),
    )
    model = taken["model"]
    latent = add("ReScoreVideoVAEEncode", "Edit", model=model, images=parts["images"])["latent"]
    settings = add("ReScoreEditStrength", "Edit", strength=strength)
    term = add("ReScoreDeltaDenoising", "Edit")
    distilled = add(
        "ReScoreScoreDistillation",
        "Edit",
        model=model,
        prompts=taken["prompts"],
        latent=latent,
        terms=term["terms"],
        mask=mask,
        steps=60,
        **{name: settings[name] for name in ("cfg", "t_max", "step_size")},
    )
    images = add("ReScoreVideoVAEDecode", "Result", model=model, latent=distilled["latent"])
    made = add("ReScoreEditedVideo", "Result", source=video, images=images["images"], mask=mask)
    blueprint.goes_out("video", made["video"])
