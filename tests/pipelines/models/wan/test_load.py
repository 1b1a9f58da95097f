"""Wan folders load as diffusers loads them, and broken ones are told in sentences."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from rescore.pipelines.models.layout import ModelError, kind_of, list_models
from rescore.pipelines.models.wan.load import load_wan
from safetensors.torch import load_file, save_file
from tiny_wan import SHIFT, TEXT_WIDTH
from transformers import UMT5EncoderModel


def same_weights(found, expected) -> bool:
    ours, theirs = found.state_dict(), expected.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[n], theirs[n]) for n in ours)


def test_every_part_has_the_weights_that_the_libraries_read(wan, wan_folder):
    parts = {
        "network": WanTransformer3DModel.from_pretrained(wan_folder / "transformer"),
        "vae": AutoencoderKLWan.from_pretrained(wan_folder / "vae"),
        "text_encoder": UMT5EncoderModel.from_pretrained(wan_folder / "text_encoder"),
    }
    for name, module in wan.modules().items():
        assert type(module) is type(parts[name]) and same_weights(module, parts[name])
        assert not module.training and not any(p.requires_grad for p in module.parameters())
    assert wan.process.shift == SHIFT


def test_in_half_precision_the_same_layers_stay_whole_as_with_diffusers(wan_folder):
    ours = load_wan(wan_folder, dtype=torch.bfloat16)
    theirs = WanTransformer3DModel.from_pretrained(
        wan_folder / "transformer", torch_dtype=torch.bfloat16
    )
    expected = {name: p.dtype for name, p in theirs.named_parameters()}
    assert {name: p.dtype for name, p in ours.transformer.named_parameters()} == expected
    assert set(expected.values()) == {torch.float32, torch.bfloat16}
    assert ours.dtype == ours.text_encoder.shared.weight.dtype == torch.bfloat16
    assert next(ours.vae.parameters()).dtype == torch.float32


def test_folders_are_listed_by_kind(wan_folder):
    assert kind_of(wan_folder) == "wan"
    assert list_models([wan_folder.parent], "wan") == [wan_folder.name]
    assert list_models([wan_folder.parent], "text-to-video") == []


def test_the_shift_is_what_a_scheduler_of_any_class_says(wan_folder, tmp_path):
    """Published folders of Wan have UniPC with `flow_shift`."""
    folder = shutil.copytree(wan_folder, tmp_path / "wan")
    config = {"_class_name": "UniPCMultistepScheduler", "use_flow_sigmas": True, "flow_shift": 5.0}
    write(folder / "scheduler" / "scheduler_config.json", config)
    assert load_wan(folder).process.shift == 5.0


def test_the_fingerprint_knows_weights_and_shift(wan, wan_folder, tmp_path):
    assert load_wan(wan_folder).fingerprint == wan.fingerprint
    folder = shutil.copytree(wan_folder, tmp_path / "wan")
    change(folder / "scheduler" / "scheduler_config.json", shift=7.0)
    assert load_wan(folder).fingerprint != wan.fingerprint


def write(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content), "utf-8")


def change(path: Path, **entries) -> None:
    write(path, json.loads(path.read_text("utf-8")) | entries)


def without(part: str) -> Callable[[Path], None]:
    return lambda folder: shutil.rmtree(folder / part)


def config(part: str, **entries) -> Callable[[Path], None]:
    file = "scheduler_config.json" if part == "scheduler" else "config.json"
    return lambda folder: change(folder / part / file, **entries)


def index(**entries) -> Callable[[Path], None]:
    return lambda folder: change(folder / "model_index.json", **entries)


def no_weights(folder: Path) -> None:
    next((folder / "text_encoder").glob("*.safetensors")).unlink()


def lacking(folder: Path) -> None:
    file = next((folder / "transformer").glob("*.safetensors"))
    tensors = load_file(file)
    tensors.pop("blocks.1.attn2.to_q.weight")
    save_file(tensors, file)


def cut(folder: Path) -> None:
    file = next((folder / "vae").glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:500])


@pytest.mark.parametrize(
    ("harm", "sentence"),
    [
        (without("text_encoder"), "has no folder text_encoder"),
        (without("transformer"), "has no folder transformer"),
        (no_weights, "has no weights in text_encoder"),
        (lambda folder: (folder / "tokenizer" / "tokenizer.json").unlink(), "has no tokenizer"),
        (lacking, r"lacks 1 of the \d+ weights of its WanTransformer3DModel"),
        (cut, "cannot be read"),
        (index(transformer=["diffusers", "WanVACETransformer3DModel"]), "WanVACETransformer3D"),
        (index(transformer_2=["diffusers", "WanTransformer3DModel"]), "is it Wan 2.2 A14B"),
        (index(text_encoder=["transformers", "T5EncoderModel"]), "T5EncoderModel as its text"),
        (config("transformer", in_channels=9), r"in_channels = 9 over .* image-to-video"),
        (config("transformer", image_dim=7), "wants an image beside the text"),
        (config("transformer", text_dim=TEXT_WIDTH + 1), "texts 25 wide and an encoder .* 24"),
        (config("transformer", num_layers=3), "lacks"),
        (config("transformer", num_layers=400), "no model"),
        (config("vae", latents_std=[1.0, 0.0, 1.0, 1.0, 1.0]), "VAE with latents_std"),
        (config("vae", latents_mean=[1.0]), "VAE with latents_mean"),
        (config("text_encoder", d_model="wide"), "makes no sense"),
        (config("scheduler", shift=-1.0), "has shift = -1.0"),
        (config("scheduler", use_dynamic_shifting=True), "use_dynamic_shifting"),
        (config("scheduler", num_train_timesteps=37), "num_train_timesteps = 37"),
        (config("scheduler", _class_name="DDIMScheduler"), "was not trained by flow matching"),
    ],
)
def test_broken_folders_are_told(wan_folder, tmp_path, harm, sentence):
    folder = shutil.copytree(wan_folder, tmp_path / "wan")
    harm(folder)
    with pytest.raises(ModelError, match=sentence):
        load_wan(folder)
