"""Loading a folder gives what diffusers' own loaders give, and touches no network."""

import json
import logging
import shutil
import socket

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel, UNet3DConditionModel
from rescore.pipelines.models.layout import ModelError
from rescore.pipelines.models.process import VariancePreserving
from rescore.pipelines.models.unet.load import load_animatediff, load_image, load_text_to_video
from safetensors.torch import load_file, save_file
from tiny_models import SCHEDULE, write_tiny_sd, write_tiny_t2v
from transformers import CLIPTextModel

WEIGHTS = "diffusion_pytorch_model.safetensors"


def same_weights(left, right):
    left, right = left.state_dict(), right.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


def edit_json(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **changes}), "utf-8")


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
    assert backbone.process == VariancePreserving.from_config(SCHEDULE)
    positions = dict(backbone.text_encoder.named_buffers())  # not stored, so made by the loader
    assert len(positions) == 1
    for name, buffer in text.named_buffers():
        assert torch.equal(positions[name], buffer)


def test_loading_needs_no_network(models, no_network):
    load_text_to_video(models / "t2v").encode_prompt("a red circle")
    image = load_image(models / "sd")
    load_animatediff(image, models / "motion")
    checkpoint = load_image(
        models / "sd.safetensors",
        configs=models / "sd",
    )
    checkpoint.encode_prompt("a red circle")


@pytest.mark.parametrize(
    "options",
    [{"variant": "fp16"}, {"variant": "bf16"}, {"variant": "non_ema"}, {"safe": False}],
)
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
    with pytest.raises(ModelError, match=rf"has {len(shards) - 1} of the {len(shards)} files of"):
        load_image(sd)


def test_schedule_and_prediction_come_from_the_models_own_settings(models, tmp_path):
    schedule = {**SCHEDULE, "beta_end": 0.02, "prediction_type": "v_prediction"}
    folder = write_tiny_sd(tmp_path / "sd", schedule=schedule)
    own, asked = load_image(folder), load_image(folder, prediction_type="epsilon")
    assert own.process == asked.process == VariancePreserving.from_config(schedule)
    assert (own.predicts, asked.predicts) == ("v", "epsilon")
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
    config = json.loads((sd / "vae" / "config.json").read_text("utf-8"))
    del config["force_upcast"]  # as in Stable Diffusion 1's own folders
    (sd / "vae" / "config.json").write_text(json.dumps(config), "utf-8")
    assert next(load_image(sd, dtype=torch.float16).vae.parameters()).dtype == torch.float32


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
