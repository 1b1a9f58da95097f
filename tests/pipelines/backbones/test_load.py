"""Loading equals diffusers' own, touches no network, and refuses what is broken."""

import json
import logging
import os
import shutil
import socket

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel, UNet3DConditionModel
from rescore.pipelines.backbones.layout import ModelError
from rescore.pipelines.backbones.load import load_animatediff, load_image, load_text_to_video
from rescore.pipelines.schedule import NoiseSchedule
from safetensors.torch import load_file, save_file
from tiny_models import SCHEDULE, tiny_unet, write_tiny_sd, write_tiny_t2v
from transformers import CLIPTextModel

WEIGHTS = "diffusion_pytorch_model.safetensors"


def same_weights(left, right):
    left, right = left.state_dict(), right.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


def edit_json(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **changes}), "utf-8")


@pytest.fixture
def sd(models, tmp_path):
    """A copy of the image model, to be broken."""
    return shutil.copytree(models / "sd", tmp_path / "sd")


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a loader reached for the network")

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refuse)
    for name in ("getaddrinfo", "create_connection", "gethostbyname"):
        monkeypatch.setattr(socket, name, refuse)
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(AssertionError, match="reached"):
        socket.create_connection(("localhost", 9))


@pytest.mark.parametrize(
    ("name", "loader", "unet"),
    [
        ("t2v", load_text_to_video, UNet3DConditionModel),
        ("sd", load_image, UNet2DConditionModel),
    ],
)
def test_folder_loads_as_by_the_classes_own_loaders(models, name, loader, unet):
    backbone = loader(models / name)
    assert (backbone.name, type(backbone.unet)) == (name, unet)
    assert same_weights(backbone.unet, unet.from_pretrained(models / name / "unet"))
    assert same_weights(backbone.vae, AutoencoderKL.from_pretrained(models / name / "vae"))
    text = CLIPTextModel.from_pretrained(models / name / "text_encoder")
    assert same_weights(backbone.text_encoder, text)
    assert backbone.schedule == NoiseSchedule.from_config(SCHEDULE)
    assert torch.equal(backbone.text_encoder.embeddings.position_ids, text.embeddings.position_ids)


def test_loading_needs_no_network(models, no_network):
    load_text_to_video(models / "t2v").encode_prompt("a red circle")
    image = load_image(models / "sd")
    load_animatediff(image, models / "motion")
    checkpoint = load_image(
        models / "sd.safetensors",
        tokenizer_folder=models / "sd" / "tokenizer",
        configs=models / "sd",
    )
    checkpoint.encode_prompt("a red circle")


@pytest.mark.parametrize("options", [{"variant": "fp16"}, {"safe": False}])
def test_other_weight_files_hold_the_same_model(models, tmp_path, options):
    folder = write_tiny_t2v(tmp_path / "t2v", seed=1, **options)
    assert not (folder / "unet" / WEIGHTS).exists()
    assert load_text_to_video(folder).fingerprint == load_text_to_video(models / "t2v").fingerprint


def test_sharded_weights_are_put_together(sd):
    unet = UNet2DConditionModel.from_pretrained(sd / "unet")
    (sd / "unet" / WEIGHTS).unlink()
    unet.save_pretrained(sd / "unet", max_shard_size="30KB")
    shards = sorted((sd / "unet").glob("*-of-*.safetensors"))
    assert len(shards) > 2
    assert same_weights(load_image(sd).unet, unet)
    shards[1].unlink()
    with pytest.raises(ModelError, match=r"lacks \d+ of the \d+ weights of its UNet2DCondition"):
        load_image(sd)


def test_schedule_and_prediction_come_from_the_models_own_settings(models, tmp_path):
    schedule = {**SCHEDULE, "beta_end": 0.02, "prediction_type": "v_prediction"}
    folder = write_tiny_sd(tmp_path / "sd", schedule=schedule)
    assert load_image(folder).schedule == NoiseSchedule.from_config(schedule)
    asked = load_image(folder, prediction_type="epsilon").schedule
    assert asked == NoiseSchedule.from_config({**schedule, "prediction_type": "epsilon"})
    with pytest.raises(ValueError, match="predicts 'sample'"):
        load_image(models / "sd", prediction_type="sample")


def test_parts_may_lie_elsewhere(models, tmp_path):
    own = shutil.copytree(models / "t2v", tmp_path / "own")
    elsewhere = {}
    for part in ("vae", "text_encoder", "tokenizer"):
        elsewhere[part] = tmp_path / "shared" / part
        shutil.move(own / part, elsewhere[part])
    with pytest.raises(ModelError, match="has no folder vae"):
        load_text_to_video(own)
    found = load_text_to_video(own, parts=elsewhere)
    assert found.fingerprint == load_text_to_video(models / "t2v").fingerprint
    (elsewhere["vae"] / "config.json").unlink()
    with pytest.raises(ModelError, match=r"has no .*shared.vae.config\.json"):
        load_text_to_video(own, parts=elsewhere)


def test_precision_is_the_devices_unless_it_is_asked_for(models, sd, draw):
    assert load_image(sd).dtype == torch.float32
    half = load_image(sd, dtype=torch.float16)
    text_dtype = next(half.text_encoder.parameters()).dtype
    assert (half.dtype, text_dtype) == (torch.float16, torch.float16)
    assert next(half.vae.parameters()).dtype == torch.float32
    edit_json(sd / "vae" / "config.json", force_upcast=False)
    assert next(load_image(sd, dtype=torch.float16).vae.parameters()).dtype == torch.float16
    assert next(load_image(sd).vae.parameters()).dtype == torch.float32


def test_model_goes_to_the_device(models, device):
    backbone = load_image(models / "sd", device=device)
    assert backbone.device.type == device.type
    assert backbone.dtype == (torch.float32 if device.type == "cpu" else torch.float16)


def test_attention_names_of_old_autoencoders_are_understood(sd, models):
    file = sd / "vae" / WEIGHTS
    names = {
        ".to_q.": ".query.",
        ".to_k.": ".key.",
        ".to_v.": ".value.",
        ".to_out.0.": ".proj_attn.",
    }
    old = {}
    for name, tensor in load_file(file).items():
        for new, former in names.items():
            name = name.replace(new, former)
        old[name] = tensor
    assert "decoder.mid_block.attentions.0.proj_attn.bias" in old
    save_file(old, file)
    assert same_weights(load_image(sd).vae, load_image(models / "sd").vae)


@pytest.mark.parametrize("prefix", ["", "text_model."])
def test_text_encoders_of_all_transformers_releases_are_understood(sd, models, prefix):
    file = sd / "text_encoder" / "model.safetensors"
    weights = {prefix + k.removeprefix("text_model."): v for k, v in load_file(file).items()}
    weights[f"{prefix}embeddings.position_ids"] = torch.arange(24)[None]  # stored by old releases
    save_file(weights, file)
    expected = load_image(models / "sd").encode_prompt("a blue ring").embedding
    assert torch.equal(load_image(sd).encode_prompt("a blue ring").embedding, expected)


def test_weights_without_a_place_are_logged(sd, caplog):
    file = sd / "unet" / WEIGHTS
    save_file({**load_file(file), "strange.weight": torch.zeros(1)}, file)
    with caplog.at_level(logging.INFO, "rescore"):
        load_image(sd)
    assert "1 weights have no place in UNet2DConditionModel: ['strange.weight']" in caplog.text


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
