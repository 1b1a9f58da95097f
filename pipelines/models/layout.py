"""What a model folder holds, by its JSON files: the kind of model, its parts, what is wrong.

This file does not import torch, so that a list of models is made quickly.
"""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from inspect import signature
from pathlib import Path
from typing import Any

from .fetch import CATALOGUE, chosen_weights, command
from .files import open_json, shown

# What a single checkpoint file lacks: the settings of Stable Diffusion 1.x, and CLIP's tokenizer.
SD1_CONFIGS = Path(__file__).parent / "unet" / "configs" / "stable-diffusion-1"

# For each kind of model, what its loader reads.
EXPECTED = {
    "text-to-video": (
        "a ModelScope or ZeroScope model: a diffusers folder with model_index.json, unet "
        "(UNet3DConditionModel), vae, text_encoder, tokenizer and scheduler"
    ),
    "wan": (
        "a text-to-video model of Wan: a diffusers folder with model_index.json, transformer "
        "(WanTransformer3DModel), vae, text_encoder (UMT5), tokenizer and scheduler"
    ),
    "cascade": (
        "a stage of a cascade of pixels (show-1-base, show-1-interpolation, show-1-sr1 or "
        "IF-II-L-v1.0): a diffusers folder with model_index.json, unet and scheduler, the first "
        "also with text_encoder (T5) and tokenizer"
    ),
    "image": (
        "a Stable Diffusion 1.x model: a diffusers folder with model_index.json, unet "
        "(UNet2DConditionModel), vae, text_encoder, tokenizer and scheduler, or one .safetensors "
        "checkpoint"
    ),
    "motion-adapter": (
        "an AnimateDiff motion adapter: a folder with config.json (MotionAdapter) and its weights, "
        "or one file with the motion modules"
    ),
    "clip": (
        "a CLIP model as transformers saves it: a folder with config.json (CLIPModel), its "
        "weights and the tokenizer"
    ),
    "grounding-dino": (
        "a Grounding DINO model as transformers saves it: a folder with config.json (model_type "
        "grounding-dino), model.safetensors and the tokenizer"
    ),
    "sam2-video": (
        "a SAM 2 video model as transformers saves it: a folder with config.json (model_type "
        "sam2_video) and model.safetensors"
    ),
    "vit": (
        "a DINO model as transformers saves it: a folder with config.json (model_type vit) and its "
        "weights"
    ),
}
_EXAMPLE = {
    "text-to-video": "zeroscope_v2_576w",
    "wan": "Wan2.1-T2V-1.3B-Diffusers",
    "cascade": "show-1-base",
    "image": "stable-diffusion-v1-5",
    "motion-adapter": "animatediff-motion-adapter-v1-5-3",
    "clip": "clip-vit-large-patch14",
    "grounding-dino": "grounding-dino-tiny",
    "sam2-video": "sam2.1-hiera-small",
    "vit": "dino-vitb8",
}
# The network, by its entry in model_index.json, and the kind of model by the network's class.
_KIND_OF_PART = {
    "unet": {"UNet3DConditionModel": "text-to-video", "UNet2DConditionModel": "image"},
    "transformer": {"WanTransformer3DModel": "wan"},
}
# What the pipelines of DeepFloyd IF's and Show-1's stages of pixels are called.
_STAGE = re.compile(r"(TextToVideo)?IF\w*Pipeline(_Cond)?")
_ANY_TOKENIZER = ("PreTrainedTokenizerFast", "TokenizersBackend")
# The classes of the other parts, beside a UNet and beside a transformer.
_CLASSES = {
    "unet": {
        "vae": ("AutoencoderKL",),
        "text_encoder": ("CLIPTextModel",),
        "tokenizer": ("CLIPTokenizer", "CLIPTokenizerFast", *_ANY_TOKENIZER),
    },
    "transformer": {
        "vae": ("AutoencoderKLWan",),
        "text_encoder": ("UMT5EncoderModel",),
        "tokenizer": ("T5Tokenizer", "T5TokenizerFast", *_ANY_TOKENIZER),
    },
}
_DEEPEST = 3  # how many levels of folders are searched for models
# Entries of a config.json with which transformers would download or import a part.
_ELSEWHERE = {
    "backbone",
    "use_timm_backbone",
    "use_pretrained_backbone",
    "auto_map",
    "attn_implementation",
    "_attn_implementation",
}
_COUNTS = ("_dim", "_heads", "_channels", "_groups", "_layers", "_size")  # ends of names
_LARGEST, _MOST_TOKENS = 2**15, 2**20  # limits of numbers in a config.json; the second for tokens
_DEEPEST_SETTING = 8
_UNUSED = {"sample_size"}  # of a config.json; may be anything


class ModelError(ValueError):
    """A model cannot be used. The message says what was found, what was expected, what to do."""


def problem(kind: str, path: Path, found: str, expected: str | None = None) -> ModelError:
    """The error for the path of a model that should be of this kind."""
    name = path.name if path.name in CATALOGUE else _EXAMPLE[kind]
    place, into, line = map(shown, (str(path), str(path.parent), command(name, path.parent)))
    return ModelError(
        f"{place} {shown(found)} Expected {expected or EXPECTED[kind]}. Put it into {into}; this "
        f"downloads {name}: {line}"
    )


def contained(path: Path, roots: Sequence[Path]) -> Path:
    """`path` without `..`, if it lies inside one of the folders.

    Links inside the folders are followed, because their owner has put them there.

    Raises:
        ModelError: if the path is in none of the folders.
    """
    plain = Path(os.path.abspath(path))
    if any(plain.is_relative_to(os.path.abspath(root)) for root in roots):
        return plain
    raise ModelError(
        f"{path} lies outside the model folders, and models are read from those only. Move it into "
        f"one of {', '.join(map(str, roots)) or '(none is set up)'}."
    )


def kind_of(folder: Path) -> str | None:
    """The kind of model in a folder; None if there is no known one."""
    for file, entry in (
        ("model_index.json", "unet"),
        ("model_index.json", "transformer"),
        ("config.json", "_class_name"),
        ("config.json", "architectures"),
        ("config.json", "model_type"),
    ):
        try:
            found = open_json(folder / file)
        except (OSError, ValueError):
            continue
        value = found.get(entry) if isinstance(found, dict) else None
        if entry == "unet" and value and _STAGE.fullmatch(str(found.get("_class_name"))):
            return "cascade"
        if entry in _KIND_OF_PART and isinstance(value, list) and len(value) == 2:
            return _KIND_OF_PART[entry].get(str(value[1]))
        if value == "MotionAdapter":
            return "motion-adapter"
        if value == ["CLIPModel"]:
            return "clip"
        if value in ("grounding-dino", "sam2_video", "vit"):
            return value.replace("_", "-")
    return None


def list_models(roots: Sequence[Path], kind: str) -> list[str]:
    """The names of all model folders of a kind: their paths below the roots, with `/`."""
    names = set()
    for root in roots:
        for place, folders, files in os.walk(root, followlinks=True):
            inside = Path(place).relative_to(root)
            if "model_index.json" in files or len(inside.parts) == _DEEPEST:
                folders.clear()
            if files and kind_of(Path(place)) == kind:
                names.add(inside.as_posix())
    return sorted(names)


def find_model(name: str, roots: Sequence[Path], kind: str) -> Path:
    """The folder or file of that name in the first root that has it.

    Raises:
        ModelError: if no root has it, or the name leads out of the roots.
    """
    for root in roots:
        path = contained(root / name, [root])
        if path.exists():
            return path
    if not roots:
        raise ModelError(f"No model folder is set up in which {name!r} could be looked for.")
    there = ", ".join(list_models(roots, kind)) or "none"
    raise problem(kind, Path(roots[0]) / name, f"does not exist (found of its kind: {there}).")


def read_json(path: Path, kind: str, model: Path) -> dict[str, Any]:
    """The JSON object in a file of the model at `model`."""
    name = path.relative_to(model).as_posix() if path.is_relative_to(model) else str(path)
    try:
        found = open_json(path)
    except FileNotFoundError:
        raise problem(kind, model, f"has no {name}.") from None
    except (OSError, ValueError) as error:
        raise problem(kind, model, f"has an unreadable {name} ({error}).") from error
    if not isinstance(found, dict):
        raise problem(kind, model, f"has a {name} that is no JSON object.")
    return found


def check_folder(folder: Path, kind: str, elsewhere: Mapping[str, Path]) -> dict[str, Path]:
    """The folders of a pipeline's parts, after a check of their classes in model_index.json.

    `elsewhere` are the folders of parts that several models share.

    Raises:
        ModelError: if a part is missing or has another class.
    """
    if not folder.is_dir():
        raise problem(kind, folder, "is a file." if folder.exists() else "does not exist.")
    index = read_json(folder / "model_index.json", kind, folder)
    found = kind_of(folder)
    predicts = next(part for part, kinds in _KIND_OF_PART.items() if kind in kinds.values())
    if found != kind:
        named = _class_named(index, predicts)
        what = f"is a model of kind {found}" if found else f"names {named} as its {predicts}"
        raise problem(kind, folder, f"{what} in model_index.json.")
    if _class_named(index, f"{predicts}_2") not in ("nothing", "None"):
        found = f"has two parts that predict, {predicts} and {predicts}_2 (is it Wan 2.2 A14B?)."
        raise problem(kind, folder, found)
    for part, classes in _CLASSES[predicts].items():
        named = _class_named(index, part)
        if part not in elsewhere and named not in classes:
            wanted = " or ".join(classes)
            raise problem(kind, folder, f"names {named} as its {part} and not a {wanted}.")
    names = (predicts, *_CLASSES[predicts], "scheduler")
    parts = {part: Path(elsewhere.get(part, folder / part)) for part in names}
    for part, path in parts.items():
        if not path.is_dir():
            raise problem(kind, folder, f"has no folder {part}.")
    return parts


def read_config(part: Path, kind: str, model: Path) -> dict[str, Any]:
    """The `config.json` of a part, after a check of its numbers.

    Raises:
        ModelError: if there is none, if its numbers would keep the machine busy, or if it would
            download something.
    """
    config = read_json(part / "config.json", kind, model)
    for name, value, depth in _entries(config):
        where = f"in the config.json of its {part.name}" if part != model else "in its config.json"
        if depth > _DEEPEST_SETTING:
            raise problem(kind, model, f"has lists in lists {where}, {depth} deep.")
        most = _MOST_TOKENS if name == "vocab_size" or name.endswith("_token_id") else _LARGEST
        least = 0 if name.endswith(_COUNTS) else -most
        if isinstance(value, int) and not least <= value <= most:
            raise problem(kind, model, f"has {name} = {value} {where}, which makes no sense.")
        if name in _ELSEWHERE and value:
            found = f"takes a part from elsewhere ({name} {where})."
            raise problem(kind, model, found, "a folder that holds the whole model")
    return config


def _entries(value: Any, name: str = "", depth: int = 0) -> Iterator[tuple[str, Any, int]]:
    """All values in some settings, at any depth: their name, the value, and the depth."""
    yield name, value, depth
    if depth > _DEEPEST_SETTING:
        return
    if isinstance(value, dict):
        for inner, held in value.items():
            yield from _entries(held, inner, depth + 1)
    elif isinstance(value, list):
        for held in value:
            yield from _entries(held, name, depth + 1)


def check_config(part: Path, expected: str, kind: str, model: Path) -> dict[str, Any]:
    """The `config.json` of a part, if it is for the expected class."""
    config = read_config(part, kind, model)
    architectures = config.get("architectures")
    named = config.get("_class_name") or (
        architectures if architectures != [expected] else expected
    )
    if named != expected:
        found = f"has {named or 'no class'} in the config.json of its {part.name}"
        raise problem(kind, model, f"{found} and not {expected}.")
    return config


def check_numbers(cls: type, config: Mapping[str, Any], kind: str, model: Path) -> None:
    """Check that settings are numbers wherever the defaults of their class are.

    Classes take anything, and only fail when they are called. A list may stand for a number: of
    what differs from block to block.

    Raises:
        ModelError: for a setting that is none, or too small.
    """
    for name, parameter in signature(cls.__init__).parameters.items():
        default, value = parameter.default, config.get(name)
        if type(default) not in (int, float) or name not in config or name in _UNUSED:
            continue
        whole = type(default) is int and name.endswith((*_COUNTS, "_block", "_padding"))
        kinds = (int,) if whole else (int, float)
        each = value if isinstance(value, list) else [value]
        fits = each and all(type(one) in (*kinds, list) for one in each)
        if not fits or (name.endswith(("eps", "_factor")) and not min(each) > 0):
            found = f"has {name} = {value!r} in the config.json of its {cls.__name__}."
            raise problem(kind, model, found)


def text_settings(cls: type, config: Mapping[str, Any], kind: str, model: Path) -> Any:
    """The `config.json` of a text encoder as an object of transformers' class for it."""
    try:
        return cls.from_dict(config)
    # Each release of transformers checks settings in its own way.
    except Exception as error:
        found = f"has a config.json of its text_encoder that makes no sense ({error})."
        raise problem(kind, model, found) from error


def weight_files(part: Path, kind: str, model: Path) -> list[Path]:
    """The files with the weights of a part: safetensors or pickles, with or without shards."""
    names = chosen_weights(file.name for file in part.iterdir() if file.is_file())
    if not names:
        held = ", ".join(sorted(file.name for file in part.iterdir())) or "nothing"
        where = f"in {part.name}" if part != model else "in it"
        raise problem(kind, model, f"has no weights {where} (found: {held}).")
    shards = re.search(r"-of-(\d+)", names[0])
    if shards and int(shards[1]) != len(names):
        found = f"has {len(names)} of the {int(shards[1])} files of its weights ({names[0]}, ...)."
        raise problem(kind, model, found, "all of them")
    return [part / name for name in names]


def _class_named(index: Mapping[str, Any], part: str) -> str:
    entry = index.get(part)
    return str(entry[1]) if isinstance(entry, list) and len(entry) == 2 else "nothing"
