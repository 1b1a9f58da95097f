"""Nodes that save and load tuned weights."""

from dataclasses import asdict

from . import host
from .files import SavedNode
from .inflation import CATEGORY
from .running import of_stable_diffusion
from .sockets import MODEL
from .widgets import SOCKET, STRING, Node, outputs

FOLDER = "rescore_tuned"  # under the output folder, and under models
_WHAT = "tuned weights"
_BASE = "base"  # the name of the tensor that identifies the base model; no weight has this name


class SaveTunedWeights(Node):
    TITLE = "Save Tuned Weights"
    SEARCH_ALIASES = ["save one-shot weights", "export tuned model", "store tuning"]
    DESCRIPTION = (
        "Saves what One-Shot Tune has trained, and only that, with what it belongs to: base model, "
        "variant, prompt, frames, size and steps. An older file of the name is replaced at once "
        "when the new one is complete, and not before."
    )
    CATEGORY = CATEGORY
    FUNCTION = "save"
    OUTPUT_NODE = True
    RETURN_TYPES, RETURN_NAMES, OUTPUT_TOOLTIPS = outputs(
        model=(MODEL, "The same model, for the graph to go on."),
        file=("STRING", "Where the file lies."),
    )
    REQUIRED = {
        "model": SOCKET(MODEL, "The tuned model, from One-Shot Tune."),
        "name": STRING("tuned",
            f"The file is {FOLDER}/<name>.safetensors in the output folder; one of that name is "
            f"replaced. Load Tuned Weights finds it there, or under models/{FOLDER}."),
    }  # fmt: skip

    def save(self, model, name: str):
        from ..pipelines.models.tensor_file import write_tensors
        from ..pipelines.models.unet.inflation import frozen_sample

        of_stable_diffusion(model, "Save Tuned Weights")
        tuning = getattr(model.network, "tuning", None)
        if tuning is None:
            raise ValueError(
                f"{model.name} has not been tuned, so there is nothing to save. Wire the model "
                "that comes out of One-Shot Tune."
            )
        file = host.new_own_file(FOLDER, name, ".safetensors")
        metadata = {key: str(value) for key, value in asdict(tuning).items()}
        metadata |= {
            "variant": str(model.network.variant),
            "base_name": model.name,
            "base_fingerprint": model.network.base,
        }
        tensors = model.network.tuned_state() | {_BASE: frozen_sample(model.network)}
        write_tensors(file, _WHAT, tensors, metadata)
        return (model, str(file))


class LoadTunedWeights(SavedNode):
    TITLE = "Load Tuned Weights"
    SEARCH_ALIASES = ["load one-shot weights", "open tuned weights", "import tuning"]
    DESCRIPTION = (
        "Gives a model what One-Shot Tune has trained and Save Tuned Weights has saved. An image "
        "model is inflated as the file says; an inflated one must be of the same variant. Any "
        "number of frames and any size can be edited, those that were tuned on best."
    )
    CATEGORY = CATEGORY
    RETURN_TYPES, RETURN_NAMES, OUTPUT_TOOLTIPS = outputs(
        model=(MODEL, "The tuned model; the model that came in stays as it is."),
        report=("STRING", "What the weights were tuned on, and for how long."),
    )

    FOLDER, WHAT, SAVER = FOLDER, _WHAT, SaveTunedWeights.TITLE
    REQUIRED = {
        "model": SOCKET(MODEL,
            "The image model that was inflated and tuned, in any precision, or the same one "
            "inflated with the same variant."),
    }  # fmt: skip

    def load(self, model, file: str):
        from ..pipelines.models.unet.inflation import (
            Tuning,
            Variant,
            inflate_backbone,
            same_base,
        )

        of_stable_diffusion(model, "Load Tuned Weights")
        name, tensors, words = self.read(file)
        variant = Variant.parse(words["variant"])
        if model.kind != "inflated":
            model = inflate_backbone(model, variant)
        if str(model.network.variant) != str(variant):
            raise ValueError(
                f"{name} was tuned with the variant {variant}, and the model is inflated with "
                f"{model.network.variant}. Wire the image model itself, or inflate it with that "
                "variant."
            )
        base = tensors.pop(_BASE)
        if not same_base(model.network, base):
            raise ValueError(
                f"{name} was tuned on {words['base_name']} (fingerprint "
                f"{words['base_fingerprint']}), and {model.name} is another model (fingerprint "
                f"{model.network.base}). Load the model it was tuned on."
            )
        numbers = {key: int(words[key]) for key in ("frames", "height", "width", "step")}
        tuning = Tuning(prompt=words["prompt"], **numbers)
        tuned = model.with_network(model.network.with_tuned(tensors, tuning))
        factor = model.vae_factor
        report = (
            f'{name}: {variant}, tuned on {model.name} for {tuning.step} steps with "'
            f'{tuning.prompt}" on {tuning.frames} frames of {tuning.width * factor} x '
            f"{tuning.height * factor} pixels."
        )
        return (tuned, report)


NODE_CLASS_MAPPINGS = {
    "ReScoreSaveTunedWeights": SaveTunedWeights,
    "ReScoreLoadTunedWeights": LoadTunedWeights,
}
