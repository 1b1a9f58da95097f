"""How every graph begins and ends, and which real models go into it."""

from graph import Graph, Node, Output
from rescore.shapeworld.scene import caption
from rescore.shapeworld.showcase import SHOWCASE

VIDEO_MODEL = """**With a real model:** replace *Load Shape-World Model* by *Load Video Model* and \
choose `zeroscope_v2_576w` (huggingface.co/cerspense/zeroscope_v2_576w, diffusers layout, in \
`models/diffusers/`; 576 x 320, 8 to 24 frames). Describe your clip in the source prompt, and \
change the words that are to change in the target prompt."""

ANIMATEDIFF = """**With a real model:** replace *Load Shape-World Model* by *Load Image Model* (a \
Stable Diffusion 1.5 checkpoint such as Realistic Vision 5.1 in `models/checkpoints/`) and *Load \
AnimateDiff Model* (`v3_sd15_mm.ckpt`, huggingface.co/guoyww/animatediff, in \
`models/animatediff_models/`); 512 x 512, 16 frames."""

IMAGE_MODEL = """**With a real model:** replace *Load Shape-World Model* by *Load Image Model* \
(Stable Diffusion 1.4 or 1.5 in `models/checkpoints/` or `models/diffusers/`); 512 x 512, 8 \
frames."""


# For a real model a mask grows by as many latent pixels, of 8 pixels in place of 2.
WIDER = {"grow": 12}

# How far and under which guidance the tiny video model is edited.
LOOP = {"steps": 60, "step_size": 0.1, "cfg": 5.0}


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
        file: str | None = None,
        crop: dict[str, object] | None = None,
    ) -> None:
        """`clip` is in the showcase, `file` another that shows it; `crop` sets *Crop to Region*."""
        edit = SHOWCASE[clip]
        self.graph = graph
        file = file or clip
        self.video = graph.add("LoadVideo", "Load", "Clip to edit", file=f"{file}.mp4")["VIDEO"]
        self.parts = graph.add("GetVideoComponents", "Load", "Frames", video=self.video)
        self.model = graph.add("ReScoreLoadShapeWorldModel", "Load", model=model)["model"]
        self.prompts = graph.add(
            "ReScoreEncodePromptPair",
            "Describe",
            model=self.model,
            source_prompt=caption(edit.source, motion=motion),
            target_prompt=target or caption(edit.target, motion=motion),
            negative_prompt="",
        )["prompts"]
        images, self.region = self.parts["images"], None
        if crop is not None:
            painted = self.painted_mask(file)
            mask = graph.add("ReScoreGrowFeatherMask", "Describe", mask=painted, grow=9)["mask"]
            self.region = graph.add(
                "ReScoreCropToRegion", "Describe", images=images, mask=mask, **crop
            )
            images = self.region["images"]
        self.latent = graph.add("ReScoreVideoVAEEncode", "Edit", model=self.model, images=images)[
            "latent"
        ]

    def painted_mask(self, clip: str) -> object:
        """The MASK that a user has painted for a clip: a video in black and white."""
        add = self.graph.add
        video = add("LoadVideo", "Load", "Mask: white may change", file=f"{clip}_mask.mp4")
        parts = add("GetVideoComponents", "Load", "Frames of the mask", video=video["VIDEO"])
        red = add("ImageToMask", "Describe", image=parts["images"], channel="red")
        return add("ThresholdMask", "Describe", mask=red["MASK"], value=0.5)["MASK"]

    def finish(
        self,
        latent: object,
        model: object | None = None,
        mask: object | None = None,
        restore: bool = False,
    ) -> None:
        """Decode, save as a video with the clip's sound and times, and show beside the source.

        With a mask the source's own pixels come back outside it: no VAE gives them back exactly.
        Without one, `restore` brings them back where the edit has changed nothing.
        """
        add, source = self.graph.add, self.parts["images"]
        decoded = add("ReScoreVideoVAEDecode", "Result", model=model or self.model, latent=latent)
        images = decoded["images"]
        if self.region is not None:
            images = add(
                "ReScorePasteRegion",
                "Result",
                images=images,
                source=source,
                region=self.region["region"],
            )["images"]
        if restore:
            unedited = add(
                "ReScoreVideoVAEDecode",
                "Result",
                "The source through the VAE",
                model=model or self.model,
                latent=self.latent,
            )
            images = add(
                "ReScoreRestoreSource",
                "Result",
                images=images,
                source=source,
                reconstruction=unedited["images"],
            )["images"]
        self.save(images, mask)

    def save(self, images: object, mask: object | None = None) -> None:
        """Frames as a video with the clip's sound and times, beside the source.

        With a mask the clip's own pixels come back where it is black.
        """
        add, source = self.graph.add, self.parts["images"]
        keep = {} if mask is None else {"mask": mask}
        made = add("ReScoreEditedVideo", "Result", source=self.video, images=images, **keep)
        saved = add(
            "SaveVideo",
            "Result",
            "Save the edit",
            video=made["video"],
            filename_prefix=f"rescore/{self.graph.name}",
        )
        images, fps, audio = made["images"], self.parts["fps"], self.parts["audio"]
        pair = add("ReScoreCompareClips", "Result", source=source, edited=images)
        add("PreviewImage", "Result", "Source and edit", images=pair["images"])
        add("ReScoreViewComparison", "Result", source=source, edited=images, fps=fps, audio=audio)
        self.graph.app = _in_front(self.graph), [saved]


# What App mode shows of a graph: the widgets of these nodes that are not wired.
_IN_FRONT = (
    ("LoadVideo", "file"),
    ("ReScoreEncodePromptPair", "source_prompt"),
    ("ReScoreEncodePromptPair", "target_prompt"),
    ("ReScoreShapeWorldConditioning", "text"),
    ("ReScoreScoreDistillation", "steps"),
    ("ReScoreScoreDistillation", "cfg"),
    ("ReScoreAttentionControlledSampling", "cfg"),
)


def _in_front(graph: Graph) -> list[tuple[Node, str]]:
    return [
        (node, name)
        for kind, name in _IN_FRONT
        for node in graph.nodes
        if node.kind == kind and node.inputs.get(name) and not isinstance(node.inputs[name], Output)
    ]


def distil(start: Start, terms: object, **inputs: object) -> Node:
    """The loop over the terms, from the clip's latents."""
    settings = LOOP | inputs
    return start.graph.add(
        "ReScoreScoreDistillation",
        "Edit",
        model=start.model,
        prompts=start.prompts,
        latent=start.latent,
        terms=terms,
        **settings,
    )


def smoothed(start: Start, terms: object) -> object:
    """Gradients smoothed along the source's optical flow, which is shown, too."""
    add = start.graph.add
    flow = add("ReScoreOpticalFlow", "Describe", images=start.parts["images"])["flow"]
    wheel = add("ReScoreShowFlow", "Describe", flow=flow)
    add("PreviewImage", "Describe", "Optical flow", images=wheel["images"])
    return add("ReScoreFlowSmoothing", "Edit", terms=terms, flow=flow)["terms"]
