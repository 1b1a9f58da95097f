"""Download a model. Nothing else uses the network, and this only when a user runs it.

    python -m rescore.pipelines.models.fetch NAME
    python /path/to/this/file/fetch.py NAME --into /path/to/ComfyUI/models/diffusers

This file imports nothing of the pack, so that the second form works wherever the pack lies.
"""

import argparse
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple


class Source(NamedTuple):
    """Where a model is published, and the folder of ComfyUI's models it belongs to."""

    repository: str
    category: str


CATALOGUE = {
    "zeroscope_v2_576w": Source("cerspense/zeroscope_v2_576w", "diffusers"),
    "text-to-video-ms-1.7b": Source("ali-vilab/text-to-video-ms-1.7b", "diffusers"),
    "show-1-base": Source("showlab/show-1-base", "diffusers"),
    "show-1-interpolation": Source("showlab/show-1-interpolation", "diffusers"),
    "show-1-sr1": Source("showlab/show-1-sr1", "diffusers"),
    "show-1-sr2": Source("showlab/show-1-sr2", "diffusers"),
    "IF-II-L-v1.0": Source("DeepFloyd/IF-II-L-v1.0", "diffusers"),
    "Wan2.1-T2V-1.3B-Diffusers": Source("Wan-AI/Wan2.1-T2V-1.3B-Diffusers", "diffusers"),
    "Wan2.2-TI2V-5B-Diffusers": Source("Wan-AI/Wan2.2-TI2V-5B-Diffusers", "diffusers"),
    "stable-diffusion-v1-5": Source("stable-diffusion-v1-5/stable-diffusion-v1-5", "diffusers"),
    "animatediff-motion-adapter-v1-5-2": Source(
        "guoyww/animatediff-motion-adapter-v1-5-2", "animatediff_models"
    ),
    "animatediff-motion-adapter-v1-5-3": Source(
        "guoyww/animatediff-motion-adapter-v1-5-3", "animatediff_models"
    ),
    "clip-vit-large-patch14": Source("openai/clip-vit-large-patch14", "clip_vision"),
    "PickScore_v1": Source("yuvalkirstain/PickScore_v1", "clip_vision"),
    "dino-vitb8": Source("facebook/dino-vitb8", "dino"),
    "grounding-dino-tiny": Source("IDEA-Research/grounding-dino-tiny", "grounding-dino"),
    "grounding-dino-base": Source("IDEA-Research/grounding-dino-base", "grounding-dino"),
    "sam2.1-hiera-tiny": Source("facebook/sam2.1-hiera-tiny", "sam2"),
    "sam2.1-hiera-small": Source("facebook/sam2.1-hiera-small", "sam2"),
    "sam2.1-hiera-large": Source("facebook/sam2.1-hiera-large", "sam2"),
}

_PARTS = ("", "unet", "transformer", "vae", "text_encoder", "tokenizer", "scheduler")
_PARTS += ("image_noising_scheduler",)
_SETTINGS = (".json", "merges.txt", "vocab.txt", "spiece.model")
# Stem, variant, number of shards, variant (in names of older releases), ending.
_WEIGHTS = re.compile(
    r"(diffusion_pytorch_model|pytorch_model|model)(?:\.(\w+))?(?:-\d+-of-(\d+))?(?:\.(\w+))?"
    r"\.(safetensors|bin)"
)
_VARIANTS = ("", "fp32", "bf16", "fp16")  # from the most exact on


def command(name: str, into: Path) -> str:
    """The line that downloads `name` into the folder `into`, for this Python and this pack."""
    words = (sys.executable, str(Path(__file__).resolve()), name, "--into", str(into))
    return " ".join(f'"{word}"' if " " in word else word for word in words)


def chosen_weights(names: Iterable[str], *, half: bool = False) -> list[str]:
    """The weights to use among a part's file names: one file, or all shards of one set.

    Preferred are, in this order: sets with all their shards; averaged weights over non-EMA ones;
    safetensors over pickles; full precision over bfloat16 and float16 (with `half` the reverse),
    and other variants last; one file over shards.
    """
    order = (*reversed(_VARIANTS),) if half else _VARIANTS
    sets: dict[tuple[Any, ...], list[str]] = {}
    for name in sorted(names):
        if found := _WEIGHTS.fullmatch(name):
            stem, before, of, after, ending = found.groups()
            variant = before or after or ""
            known = order.index(variant) if variant in order else len(order)
            rank = (variant == "non_ema", ending == "bin", known, variant, of or "", stem)
            sets.setdefault(rank, []).append(name)
    whole = {rank: files for rank, files in sets.items() if len(files) == int(rank[4] or 1)}
    sets = whole or sets
    return sets[min(sets)] if sets else []


def wanted_files(names: Iterable[str], *, half: bool = False) -> list[str]:
    """The files of a repository that the loaders read."""
    folders: dict[str, list[str]] = {part: [] for part in _PARTS}
    for name in names:
        folder, _, file = name.rpartition("/")
        if folder in folders:
            folders[folder].append(file)
    wanted = []
    for folder, files in folders.items():
        settings = [file for file in files if file.endswith(_SETTINGS)]
        for file in (*settings, *chosen_weights(files, half=half)):
            wanted.append(f"{folder}/{file}" if folder else file)
    return sorted(wanted)


def default_folder(category: str) -> Path:
    """ComfyUI's model folder if the pack lies in `custom_nodes`, otherwise `models/` here."""
    place = Path(__file__).resolve().parents[2].parent
    home = place.parent if place.name == "custom_nodes" else Path.cwd()
    return home / "models" / category


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="fetch", description="Download a model that ReScore can load from Hugging Face."
    )
    parser.add_argument("name", help=f"{', '.join(CATALOGUE)}; or a repository as OWNER/NAME")
    parser.add_argument("--into", type=Path, help="the folder the model's own folder is put into")
    parser.add_argument("--fp16", action="store_true", help="take the half-size files if published")
    given = parser.parse_args(arguments)

    if re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", given.name):
        source = Source(given.name, "diffusers")
    elif given.name in CATALOGUE:
        source = CATALOGUE[given.name]
    else:
        parser.error(f"unknown model {given.name!r}; known are {', '.join(CATALOGUE)}")
    folder = (given.into or default_folder(source.category)) / given.name.rpartition("/")[2]

    from huggingface_hub import list_repo_files, snapshot_download

    files = wanted_files(list_repo_files(source.repository), half=given.fp16)
    if not any(_WEIGHTS.fullmatch(file.rpartition("/")[2]) for file in files):
        parser.error(f"{source.repository} holds no weights in diffusers layout")
    address = f"https://huggingface.co/{source.repository}"
    sys.stdout.write(f"{address} (its licence is stated there) -> {folder}\n")
    snapshot_download(source.repository, local_dir=folder, allow_patterns=files)
    sys.stdout.write(f"{len(files)} files are in {folder}\n")


if __name__ == "__main__":
    main()
