"""From finished trainings to the folders the pack ships, in genuine diffusers layout."""

import json
import shutil
from pathlib import Path
from typing import Any

import diffusers
from torch import nn

from ...pipelines.models.unet.motion import OVER_CLIP
from ..models import ANIMATEDIFF_SCHEDULE, SCHEDULE


def export_pipeline(
    folder: Path,
    pipeline: str,
    unet: nn.Module,
    vae: nn.Module,
    text_encoder: nn.Module,
    tokenizer_folder: Path,
) -> None:
    """Write a whole model as its pipeline class would: one folder a part, weights in float16."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = {"unet": unet, "vae": vae, "text_encoder": text_encoder}
    for name, module in parts.items():
        save_half(module, folder / name)
    shutil.copytree(tokenizer_folder, folder / "tokenizer", dirs_exist_ok=True)
    write_json(folder / "scheduler" / "scheduler_config.json", SCHEDULE)
    index: dict[str, Any] = {
        "_class_name": pipeline,
        "_diffusers_version": diffusers.__version__,
        "scheduler": ["diffusers", SCHEDULE["_class_name"]],
        "text_encoder": ["transformers", type(text_encoder).__name__],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", type(unet).__name__],
        "vae": ["diffusers", type(vae).__name__],
    }
    if pipeline == "StableDiffusionPipeline":
        index |= {"safety_checker": [None, None], "feature_extractor": [None, None]}
        index["requires_safety_checker"] = False
    write_json(folder / "model_index.json", index)


def export_adapter(folder: Path, adapter: nn.Module) -> None:
    """Write a motion adapter, and beside it the noise schedule it was trained under.

    It was trained in diffusers' own modules, which is what its configuration says.
    """
    save_half(adapter, folder)
    config = json.loads((folder / "config.json").read_text("utf-8"))
    write_json(folder / "config.json", {**config, OVER_CLIP: True})
    write_json(folder / "scheduler" / "scheduler_config.json", ANIMATEDIFF_SCHEDULE)


def save_half(module: nn.Module, folder: Path) -> None:
    """Save a float16 copy of a module: half the size, and loaded back as float32 on a CPU."""
    weights = {name: value.clone() for name, value in module.state_dict().items()}
    module.half().save_pretrained(folder, safe_serialization=True)
    module.float().load_state_dict(weights)
    # Where a part was loaded from says nothing to anyone else.
    config = json.loads((folder / "config.json").read_text("utf-8"))
    config.pop("_name_or_path", None)
    write_json(folder / "config.json", config)


def write_json(file: Path, content: dict[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content, indent=2) + "\n", "utf-8")
