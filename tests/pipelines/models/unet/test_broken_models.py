"""What is missing, damaged, dangerous or meant for something else is refused, and said usefully."""

import json
import os
import shutil

import pytest
import torch
from rescore.pipelines.models.unet.layout import ModelError
from rescore.pipelines.models.unet.load import load_image, load_text_to_video
from tiny_models import tiny_unet, write_tiny_sd

WEIGHTS = "diffusion_pytorch_model.safetensors"


def edit_json(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **changes}), "utf-8")


def damage(file, how):
    data = file.read_bytes()
    if how == "truncated":
        file.write_bytes(data[: len(data) // 2])
    elif how == "header only":
        file.write_bytes(data[:100])
    elif how == "empty":
        file.write_bytes(b"")
    elif how == "html":
        file.write_bytes(b"<!DOCTYPE html><html>Please log in</html>" * 9)
    else:
        file.unlink()


@pytest.mark.parametrize("how", ["truncated", "header only", "empty", "html"])
@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_a_broken_download_is_told(sd, part, how):
    name = "model.safetensors" if part == "text_encoder" else WEIGHTS
    damage(sd / part / name, how)
    with pytest.raises(ModelError) as caught:
        load_image(sd)
    text = str(caught.value)
    assert text.startswith(f"{sd} cannot be read: {name} (")
    assert "bytes) is damaged" in text and "Expected the whole file as published" in text
    assert f"Put it into {sd.parent}; this downloads stable-diffusion-v1-5: " in text


def test_missing_files_are_told(sd):
    os.rename(sd / "unet" / WEIGHTS, sd / "unet" / "renamed.ckpt")
    with pytest.raises(
        ModelError, match=r"no weights in unet \(found: config.json, renamed.ckpt\)"
    ):
        load_image(sd)
    (sd / "tokenizer" / "merges.txt").unlink()
    with pytest.raises(ModelError, match=r"has no tokenizer: there is no merges\.txt in"):
        load_image(sd)
    (sd / "scheduler" / "scheduler_config.json").unlink()
    with pytest.raises(ModelError, match=r"has no scheduler/scheduler_config\.json"):
        load_image(sd)
    (sd / "unet" / "config.json").write_text("{")
    with pytest.raises(ModelError, match=r"has an unreadable config\.json"):
        load_image(sd)
    shutil.rmtree(sd / "vae")
    with pytest.raises(ModelError, match="has no folder vae"):
        load_image(sd)


def test_a_damaged_tokenizer_is_told(sd):
    (sd / "tokenizer" / "vocab.json").write_text("{", "utf-8")
    with pytest.raises(ModelError, match="has a damaged tokenizer in"):
        load_image(sd)


def test_a_tokenizer_of_another_model_is_told(sd):
    vocabulary = json.loads((sd / "tokenizer" / "vocab.json").read_text("utf-8"))
    vocabulary |= {f"<extra{i}>": len(vocabulary) + i for i in range(5)}
    (sd / "tokenizer" / "vocab.json").write_text(json.dumps(vocabulary), "utf-8")
    with pytest.raises(
        ModelError, match=r"has a tokenizer of \d+ tokens and an encoder that knows"
    ):
        load_image(sd)


def test_one_kind_of_model_is_not_loaded_as_another(models, sd):
    with pytest.raises(ModelError, match="is a model of kind image in model_index"):
        load_text_to_video(models / "sd")
    with pytest.raises(ModelError, match="is a model of kind text-to-video in model_index"):
        load_image(models / "t2v")
    edit_json(sd / "unet" / "config.json", _class_name="UNet3DConditionModel")
    with pytest.raises(
        ModelError, match=r"UNet3DConditionModel in the config\.json of its unet and"
    ):
        load_image(sd)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"in_channels": 9}, r"in_channels = 9 over a VAE with 4 channels \(an inpainting"),
        ({"out_channels": 8}, "out_channels = 8 over a VAE with 4 channels"),
        ({"cross_attention_dim": 20}, "unet for texts 20 wide and an encoder that gives 12"),
        ({"class_embed_type": "timestep"}, "wants more than a text"),
    ],
)
def test_a_unet_for_something_else_is_told(tmp_path, settings, complaint):
    folder = write_tiny_sd(tmp_path / "other", **settings)
    with pytest.raises(ModelError, match=complaint) as caught:
        load_image(folder)
    assert "Expected a Stable Diffusion 1.x model" in str(caught.value)


def test_settings_that_do_not_fit_the_weights_are_told(sd):
    edit_json(sd / "unet" / "config.json", block_out_channels=[8, 32])
    with pytest.raises(ModelError, match=r"has a .* of shape \(.*\) where its settings say \("):
        load_image(sd)
    edit_json(sd / "unet" / "config.json", block_out_channels=[8, 30])
    with pytest.raises(ModelError, match=r"has a config\.json that makes no model"):
        load_image(sd)
    edit_json(sd / "unet" / "config.json", block_out_channels=[8, 16], layers_per_block=2)
    with pytest.raises(ModelError, match=r"lacks \d+ of the \d+ weights"):
        load_image(sd)


class Payload:
    """Unpickling it would create a folder."""

    def __init__(self, folder):
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


def test_a_pickle_with_code_is_refused_and_not_run(sd, tmp_path):
    (sd / "unet" / WEIGHTS).unlink()
    weights = {**tiny_unet("2D").state_dict(), "extra": Payload(tmp_path / "attacked")}
    torch.save(weights, sd / "unet" / "diffusion_pytorch_model.bin")
    with pytest.raises(ModelError, match=r"a pickle that holds more than tensors.*best as \.safe"):
        load_image(sd)
    assert not (tmp_path / "attacked").exists()
    torch.save(weights, tmp_path / "checkpoint.ckpt")
    with pytest.raises(ModelError, match="a pickle that holds more than tensors"):
        load_image(tmp_path / "checkpoint.ckpt", tokenizer_folder=sd / "tokenizer")
    assert not (tmp_path / "attacked").exists()
