"""Graphs on ComfyUI's own models, with the tiny Wan that its loaders list."""

from collections.abc import Callable

from blueprint import Blueprint
from graph import Graph, Node
from host_nodes import WAN, WAN_VAE
from rescore.shapeworld.scene import caption
from rescore.shapeworld.showcase import SHOWCASE
from rescore.shapeworld.wan import MAX_FRAMES

from .start import Start, distil
from .wan import CLIP, ETA, FALLING, REAL_STEPS, UNEQUAL, WAN_EDIT, real_loop

REAL = """**With a real model:** choose it in *Load Diffusion Model* and its VAE in *Load VAE*. \
Replace the three *Shape-World Conditioning* by *CLIP Text Encode* behind a *Load CLIP* of type \
`wan` with `umt5_xxl_fp8_e4m3fn_scaled.safetensors` (6.7 GB, `models/text_encoders/`).

In `models/diffusion_models/`, with the VAE in `models/vae/`:

- `wan2.1_t2v_1.3B_fp16.safetensors` (2.8 GB), `wan_2.1_vae.safetensors`: 832 x 480, 17 to 81 frames
- `wan2.1_t2v_14B_fp8_scaled.safetensors` (14 GB), the same VAE: up to 1280 x 720
- `wan2.2_ti2v_5B_fp16.safetensors` (10 GB), `wan2.2_vae.safetensors`: 1280 x 704, to 121 frames
- `wan2.2_t2v_high_noise_14B_fp8_scaled.safetensors` and `wan2.2_t2v_low_noise_14B_fp8_scaled\
.safetensors` (14 GB each), `wan_2.1_vae.safetensors`: one loop for each, joined by *state*; the \
first from `t_max` to 0.5, the second from there to 0

All are from huggingface.co/Comfy-Org. LTX-Video and HunyuanVideo go in the same way; LTX-2 does \
not, for it makes sound with the picture. Clips of other lengths than 1 + 4 n are padded and cut \
again. The tiny model needs ComfyUI 0.16 or later, real ones 0.8."""

# A MODEL does not say how many frames it knows.
KNOWN = {"window": MAX_FRAMES}

_HUB = "https://huggingface.co/Comfy-Org"
_WAN_1 = f"{_HUB}/Wan_2.1_ComfyUI_repackaged/resolve/main/split_files"
_WAN_2 = f"{_HUB}/Wan_2.2_ComfyUI_Repackaged/resolve/main/split_files"


def files(folder: str, *names: str, source: str = _WAN_1) -> list[dict[str, str]]:
    """Files of a folder of models, as the front end offers to download them."""
    return [
        {"name": name, "url": f"{source}/{folder}/{name}", "directory": folder} for name in names
    ]


MODELS = files(
    "diffusion_models",
    "wan2.1_t2v_1.3B_fp16.safetensors",
    "wan2.1_t2v_14B_fp8_scaled.safetensors",
) + files(
    "diffusion_models",
    "wan2.2_ti2v_5B_fp16.safetensors",
    "wan2.2_t2v_high_noise_14B_fp8_scaled.safetensors",
    "wan2.2_t2v_low_noise_14B_fp8_scaled.safetensors",
    source=_WAN_2,
)
VAES = files("vae", "wan_2.1_vae.safetensors") + files(
    "vae", "wan2.2_vae.safetensors", source=_WAN_2
)
TEXT_ENCODERS = files("text_encoders", "umt5_xxl_fp8_e4m3fn_scaled.safetensors")


class NativeStart(Start):
    """A clip, ComfyUI's own model with its prompts as a model of ReScore's, and latents."""

    def __init__(self, graph: Graph, clip: str) -> None:
        add, edit, self.region = graph.add, SHOWCASE[clip], None
        self.graph = graph
        self.video = add("LoadVideo", "Load", "Clip to edit", file=f"{clip}.mp4")["VIDEO"]
        self.parts = add("GetVideoComponents", "Load", "Frames", video=self.video)
        network = add("UNETLoader", "Load", "Load Diffusion Model", unet_name=WAN)
        vae = add("VAELoader", "Load", "Load VAE", vae_name=WAN_VAE)
        network.models, vae.models = MODELS, VAES
        self.patcher, self.vae = network["MODEL"], vae["VAE"]
        texts = {
            "source": ("What the clip shows", caption(edit.source)),
            "target": ("What it should show", caption(edit.target)),
            "negative": ("Nothing", ""),
        }
        self.texts = {
            side: add("ReScoreShapeWorldConditioning", "Describe", title, text=text)["conditioning"]
            for side, (title, text) in texts.items()
        }
        for text in self.texts.values():
            text.node.models = TEXT_ENCODERS  # of the nodes that replace it with a real model
        taken = add(
            "ReScoreNativeModel", "Describe", model=self.patcher, vae=self.vae, **self.texts
        )
        self.model, self.prompts = taken["model"], taken["prompts"]
        self.latent = add(
            "ReScoreVideoVAEEncode", "Edit", model=self.model, images=self.parts["images"]
        )["latent"]


def _graph(name: str, words: str, **real: float) -> Graph:
    graph = Graph(name, f"## {words}\n\n{REAL}")
    graph.real["ReScoreScoreDistillation"] = real_loop(**real, window=0)
    return graph


def wan_edit_native() -> Graph:
    graph = _graph(
        "wan_edit_native",
        "Delta denoising with ComfyUI's own Wan\nThe green triangle becomes a circle. The "
        "model comes from ComfyUI's loaders, with all that its nodes do to it; outside the mask "
        "latents stay the source's exactly.",
    )
    start = NativeStart(graph, CLIP)
    mask = start.painted_mask(CLIP)
    strength = graph.add("ReScoreEditStrength", "Edit")
    term = graph.add("ReScoreDeltaDenoising", "Edit", weighting="velocity", eta=strength["eta"])
    settings = FALLING | KNOWN | {name: strength[name] for name in ("cfg", "t_max", "step_size")}
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
        "*Distillation Sampler* the loop; levels of noise are drawn from the scheduler's SIGMAS. "
        "The tiny model knows 17 frames: for a longer clip put ComfyUI's *Wan Context Windows* "
        "with 17 frames between *Load Diffusion Model* and *Edit Guider*.",
    )
    graph.real["ReScoreDistillationSampler"] = {"steps": 50, "step_size": 1.0}
    graph.real["BasicScheduler"] = {"steps": 100}  # two levels a step, as shipped
    graph.real["ReScoreEditGuider"] = {"cfg": UNEQUAL["cfg"]}
    start = NativeStart(graph, CLIP)
    add = graph.add
    guider = add(
        "ReScoreEditGuider", "Edit", model=start.patcher, cfg=FALLING["cfg"], **start.texts
    )
    term = add("ReScoreDeltaDenoising", "Edit", weighting="velocity", eta=ETA)
    sampler = add(
        "ReScoreDistillationSampler",
        "Edit",
        terms=term["terms"],
        steps=FALLING["steps"],
        step_size=1.0,
        order="descending",
    )
    sigmas = add(
        "BasicScheduler", "Edit", model=start.patcher, scheduler="simple", steps=40, denoise=0.95
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


def native_flowedit() -> Graph:
    graph = _graph(
        "native_flowedit",
        "FlowEdit with ComfyUI's own Wan\nDelta denoising of velocities with eta 1 is FlowEdit; "
        "the source is guided less than the edit. The numbers for a real Wan are Wan-Edit's, of "
        "FiVE-Bench.",
        **WAN_EDIT,
    )
    start = NativeStart(graph, CLIP)
    term = graph.add("ReScoreDeltaDenoising", "Edit", weighting="velocity", eta=1.0)
    loop = {**UNEQUAL, **KNOWN, "t_max": 0.66, "source_cfg": 1.2}
    start.finish(distil(start, term["terms"], **loop)["latent"], restore=True)
    return graph


def native_assd() -> Graph:
    graph = _graph(
        "native_assd",
        "ASSD with ComfyUI's own Wan\nNo mask is painted. The reference is smoothed in time around "
        "what is edited, and the edit also attends to its source in the last blocks of the "
        "transformer. A latent frame of Wan shows four pictures, so the window is narrow.",
    )
    graph.real["ReScoreScoreDistillation"] = {"step_size": 0.1, "window": 0}  # ASSD's
    start = NativeStart(graph, CLIP)
    terms = graph.add("ReScoreAdaptiveSliding", "Edit", window="0.1, 0.8, 0.1")["terms"]
    fusion = graph.add("ReScoreAttentionFusion", "Edit", layers=2, weight=0.8)["fusion"]
    start.finish(distil(start, terms, step_size=0.4, fusion=fusion, **KNOWN)["latent"])
    return graph


def native_dreammotion() -> Graph:
    graph = _graph(
        "native_dreammotion",
        "DreamMotion with ComfyUI's own Wan\nDelta denoising within a box around the object, and "
        "self-similarity of the keys of chosen blocks, which holds shapes. Needs ComfyUI 0.14 or "
        "later, and weights that are not quantised.",
    )
    start = NativeStart(graph, CLIP)
    box = graph.add("ReScoreBoundingBoxMask", "Describe", mask=start.painted_mask(CLIP))
    terms = graph.add("ReScoreDeltaDenoising", "Edit", weighting="velocity", eta=ETA)["terms"]
    terms = graph.add("ReScoreGradientMask", "Edit", terms=terms, mask=box["mask"])["terms"]
    terms = graph.add("ReScoreSpatialSelfSimilarity", "Edit", terms=terms, weight=300.0)["terms"]
    start.finish(distil(start, terms, **FALLING, **KNOWN)["latent"], restore=True)
    return graph


def edit_video_wan() -> Blueprint:
    """The blueprint for people: Wan 2.1 and its own text encoder."""
    blueprint = Blueprint(
        "edit_video_wan",
        "Edit Video (Wan 2.1, ReScore)",
        "Changes in a clip what the second prompt says otherwise than the first. White of the mask "
        "may change; without one the model decides.",
    )
    add = blueprint.add
    patcher = add("UNETLoader", "Load", "Load Diffusion Model", unet_name=MODELS[0]["name"])
    vae = add("VAELoader", "Load", "Load VAE", vae_name=VAES[0]["name"])
    clip = add("CLIPLoader", "Load", "Load CLIP", clip_name=TEXT_ENCODERS[0]["name"], type="wan")
    patcher.models, vae.models, clip.models = MODELS[:1], VAES[:1], TEXT_ENCODERS

    def encode(title: str, text: object) -> object:
        return add("CLIPTextEncode", "Describe", title, clip=clip["CLIP"], text=text)[
            "CONDITIONING"
        ]

    texts = (
        "A red car drives along a country road, seen from the side.",
        "A blue car drives along a country road, seen from the side.",
    )
    _edits(blueprint, patcher["MODEL"], vae["VAE"], encode, texts, steps=REAL_STEPS)
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

    edit = SHOWCASE[CLIP]
    _edits(blueprint, patcher, vae, encode, (caption(edit.source), caption(edit.target)), **KNOWN)
    return blueprint


def _edits(
    blueprint: Blueprint,
    patcher: object,
    vae: object,
    encode: Callable[[str, object], object],
    texts: tuple[str, str],
    **settings: float,
) -> None:
    """VIDEO, two prompts, a strength and perhaps a MASK in; VIDEO with its sound and rate out.

    `texts` are what the prompts start with, as an example; `settings` are other ones of the loop.
    """
    add, comes_in = blueprint.add, blueprint.comes_in
    video = comes_in("video", "VIDEO")
    shows = comes_in("what it shows", "STRING", texts[0])
    should = comes_in("what it should show", "STRING", texts[1])
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
    strong = add("ReScoreEditStrength", "Edit", strength=strength)
    term = add("ReScoreDeltaDenoising", "Edit", weighting="velocity", eta=strong["eta"])
    distilled = add(
        "ReScoreScoreDistillation",
        "Edit",
        model=model,
        prompts=taken["prompts"],
        latent=latent,
        terms=term["terms"],
        mask=mask,
        **FALLING | settings | {name: strong[name] for name in ("cfg", "t_max", "step_size")},
    )
    images = add("ReScoreVideoVAEDecode", "Result", model=model, latent=distilled["latent"])
    made = add("ReScoreEditedVideo", "Result", source=video, images=images["images"], mask=mask)
    blueprint.goes_out("video", made["video"])
