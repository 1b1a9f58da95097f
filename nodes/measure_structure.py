"""Nodes that measure with DINO how much the layout of a clip changes."""

from . import host, layouts
from .files import FolderNode
from .measures import CATEGORY, EDITED, SOURCE, MeasureNode
from .sockets import DINO
from .widgets import COMBO, SOCKET, outputs

_SCALES = {"0 to 1": 1.0, "0 to 255": 255.0}


class LoadDino(FolderNode):
    TITLE = "Load DINO"
    SEARCH_ALIASES = ["DINO loader", "vision transformer", "ViT"]
    DESCRIPTION = (
        "Loads a DINO model for Structure Distance: a folder as transformers saves it, under "
        "models/dino, such as dino-vitb8, which PIE-Bench and FiVE-Bench use. Nothing is "
        "downloaded. Compare numbers only if they were taken with the same model."
    )
    CATEGORY = CATEGORY
    FOLDER, KIND, EXAMPLE = "dino", "vit", "dino-vitb8"
    TOOLTIP = (
        "A folder under models/dino with config.json (model_type vit) and weights, such as "
        "dino-vitb8."
    )
    RETURN_TYPES, RETURN_NAMES, OUTPUT_TOOLTIPS = outputs(
        dino=(DINO, "The model, for Structure Distance."),
    )

    def load(self, folder: str):
        from ..pipelines.models.vision.dino import load_dino

        return (load_dino(self.path(folder)),)


class StructureDistance(MeasureNode):
    TITLE = "Structure Distance"
    SEARCH_ALIASES = ["DINO distance", "layout change", "structure preservation", "PIE-Bench"]
    DESCRIPTION = (
        "How much the edit changes the layout of the source, whatever its colours and materials: "
        "the mean squared difference, times 1000, between the self-similarities of the keys of "
        "DINO's last layer (Tumanyan et al., 2022), averaged over frames. 0 is the same layout; "
        "lower is better where the edit should keep it."
    )
    REQUIRED = {
        "dino": SOCKET(DINO, "From Load DINO, such as dino-vitb8."),
        "source": SOURCE,
        "edited": EDITED,
        "pixels": COMBO(list(_SCALES),
            "What DINO is shown. 0 to 1 is what it was trained with. The evaluation code of "
            "PIE-Bench and FiVE-Bench shows it 0 to 255: choose that to compare with their "
            "published numbers."),
    }  # fmt: skip

    def measure(self, dino, source, edited, pixels: str):
        from ..pipelines.measures.measure import check_pair
        from ..pipelines.measures.structure import structure_distance

        clips = layouts.clip_from_image(source), layouts.clip_from_image(edited)
        check_pair(*clips)
        host.load(dino, "vae")
        frames = clips[0].shape[2]
        show = host.progress(2 * frames)
        keys = [
            dino.keys(
                clip, scale=_SCALES[pixels], on_frame=lambda n, before=before: show(before + n)
            )
            for before, clip in zip((0, frames), clips, strict=True)
        ]
        found = structure_distance(*keys)
        return (found, found.value)


NODE_CLASS_MAPPINGS = {
    "ReScoreLoadDino": LoadDino,
    "ReScoreStructureDistance": StructureDistance,
}
