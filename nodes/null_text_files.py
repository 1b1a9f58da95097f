"""Nodes that save and load null-text embeddings."""

import json

from . import host
from .files import SavedNode
from .inversion import CATEGORY
from .sockets import NULL_TEXT
from .widgets import SOCKET, STRING, Node, outputs

FOLDER = "rescore_null_text"  # under the output folder, and under models
_WHAT = "null-text embeddings"


class SaveNullText(Node):
    TITLE = "Save Null-Text"
    SEARCH_ALIASES = ["export null-text", "write embeddings", "store null-text"]
    DESCRIPTION = (
        "Saves the result of Null-Text Optimisation, finished or not, so that it need not be run "
        "again. It can be used only with the very same trajectory: same clip, prompt, steps, model."
    )
    CATEGORY = CATEGORY
    FUNCTION = "save"
    OUTPUT_NODE = True
    RETURN_TYPES, RETURN_NAMES, OUTPUT_TOOLTIPS = outputs(
        null_text=(NULL_TEXT, "The same embeddings, for the graph to go on."),
    )
    REQUIRED = {
        "null_text": SOCKET(NULL_TEXT, "From Null-Text Optimisation."),
        "name": STRING("clip",
            f"The file is {FOLDER}/<name>.safetensors in the output folder; one of that name is "
            f"replaced. Load Null-Text finds it there, or under models/{FOLDER}."),
    }  # fmt: skip

    def save(self, null_text, name: str):
        import torch

        from ..pipelines.models.tensor_file import write_tensors

        if not null_text.done:
            raise ValueError("The null-text optimisation has done no step yet; nothing to save.")
        tensors = {"z": null_text.z, "embeddings": torch.stack(null_text.embeddings)}
        if null_text.guidance:
            tensors["guidance"] = torch.stack(null_text.guidance)
        metadata = {
            "trajectory": null_text.trajectory,
            "cfg": repr(null_text.cfg),
            "steps": repr(null_text.steps),
            "strength": repr(null_text.strength),
            "losses": json.dumps(null_text.losses),
            "made_with": null_text.made_with,
        }
        file = host.new_own_file(FOLDER, name, ".safetensors")
        write_tensors(file, _WHAT, tensors, metadata)
        return {"ui": {"text": [f"Saved to {file}"]}, "result": (null_text,)}


class LoadNullText(SavedNode):
    TITLE = "Load Null-Text"
    SEARCH_ALIASES = ["open null-text", "import embeddings", "read null-text file"]
    DESCRIPTION = (
        "Loads what Save Null-Text has saved. It belongs to one trajectory, and is refused with "
        "any other."
    )
    CATEGORY = CATEGORY
    FOLDER, WHAT, SAVER = FOLDER, _WHAT, SaveNullText.TITLE
    RETURN_TYPES, RETURN_NAMES, OUTPUT_TOOLTIPS = outputs(
        null_text=(NULL_TEXT, "For Reconstruct, Attention-Controlled Sampling, or to go on."),
    )

    def load(self, file: str):
        from ..pipelines.inversion.trajectory import NullText

        _, tensors, words = self.read(file)
        return (
            NullText(
                words["trajectory"],
                float(words["cfg"]),
                int(words["steps"]),
                tensors["z"],
                tensors["embeddings"].unbind(),
                tensors["guidance"].unbind() if "guidance" in tensors else (),
                float(words["strength"]),
                tuple(json.loads(words["losses"])),
                words.get("made_with", ""),  # older files of finished embeddings have none
            ),
        )


NODE_CLASS_MAPPINGS = {"ReScoreSaveNullText": SaveNullText, "ReScoreLoadNullText": LoadNullText}
