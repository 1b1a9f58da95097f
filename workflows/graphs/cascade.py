"""The graph of a cascade: keyframes are edited, frames made between them, all is enlarged."""

from graph import Graph
from rescore.shapeworld.scene import caption
from rescore.shapeworld.showcase import SHOWCASE

from .distillation import structure
from .start import Start, distil

_REAL = """**With the real models** (about 3.2 GB each in fp16, T5 10 GB; one is on the card at a \
time): replace *Load Shape-World Model* by *Load Video Model* with `show-1-base`, and choose \
`show-1-interpolation`, `IF-II-L-v1.0` and `show-1-sr1` in the three *Load Cascade Stage*, all as \
diffusers folders in `models/diffusers/` (`python custom_nodes/rescore/pipelines/models/fetch.py \
show-1-base` downloads one). Show-1's weights are for non-commercial use (CC-BY-NC 4.0), DeepFloyd \
IF has a licence of its own.

Load a clip of 29 frames of 512 x 320, and scale it to 256 x 160 with the host's *Upscale Image*, \
for that is what *Enlarge Clip* makes and *Edited Video* compares with. For 576 x 320 wire the \
enlarged clip through *Upscale Image*, *Video VAE Encode*, *Resample Clip* and *Video VAE Decode* \
with `show-1-sr2` in a second *Load Video Model* and *Encode Prompt Pair*. A clip of any size and \
aspect goes through *Crop to Region* before, and *Paste Region* after."""


class Cascade(Start):
    """A clip and its painted mask, keyframes of both, the keyframe model, prompts and latents."""

    def __init__(self, graph: Graph, clip: str) -> None:
        self.graph, self.region, edit = graph, None, SHOWCASE[clip]
        add = graph.add
        self.video = add("LoadVideo", "Load", "Clip to edit", file=f"{clip}.mp4")["VIDEO"]
        self.parts = add("GetVideoComponents", "Load", "Frames", video=self.video)
        self.model = add("ReScoreLoadShapeWorldModel", "Load", model="shapeworld-cascade")["model"]
        self.prompts = add(
            "ReScoreEncodePromptPair",
            "Describe",
            model=self.model,
            source_prompt=caption(edit.source),
            target_prompt=caption(edit.target),
            negative_prompt="",
        )["prompts"]
        self.mask = self.painted_mask(clip)
        self.keyframes = add(
            "ReScorePickKeyframes",
            "Describe",
            images=self.parts["images"],
            width=16,
            height=16,
            mask=self.mask,
        )
        self.latent = add(
            "ReScoreVideoVAEEncode", "Edit", model=self.model, images=self.keyframes["keyframes"]
        )["latent"]

    def stage(self, role: str, title: str) -> object:
        """A stage of the tiny cascade."""
        folder = f"shapeworld-cascade/{role}"
        return self.graph.add("ReScoreLoadCascadeStage", "Load", title, folder=folder)["stage"]


def dreammotion_cascade() -> Graph:
    graph = Graph(
        "dreammotion_cascade",
        "## DreamMotion on a cascade\nOnly eight small keyframes are edited, and their pixels are "
        "the latents: there is no VAE. Then the cascade makes the frames between them, and "
        "enlarges all, under the target prompt. Outside the mask every pixel stays the clip's.\n\n"
        + _REAL,
    )
    start, add = Cascade(graph, "slow_circle"), graph.add
    terms = add("ReScoreDeltaDenoising", "Edit")["terms"]
    terms = add("ReScoreGradientMask", "Edit", terms=terms, mask=start.keyframes["mask"])["terms"]
    edit = distil(start, structure(start, terms), steps=30)
    small = add("ReScoreVideoVAEDecode", "Edit", model=start.model, latent=edit["latent"])
    between = add(
        "ReScoreInterpolateKeyframes",
        "Result",
        stage=start.stage("interpolation", "Stage: frames between"),
        prompts=start.prompts,
        keyframes=small["images"],
        steps=3,
        cfg=1.0,
    )
    large = add(
        "ReScoreEnlargeClip",
        "Result",
        image_stage=start.stage("image-sr", "Stage: the first frame, larger"),
        stage=start.stage("video-sr", "Stage: the clip, larger"),
        prompts=start.prompts,
        images=between["images"],
        image_steps=2,
        image_cfg=1.0,
        image_noise_level=0,
        steps=3,
        cfg=1.0,
        noise_level=0,
    )
    start.save(large["images"], mask=start.mask)
    return graph
