"""What is missing, damaged, dangerous or meant for something else is refused, and said usefully."""

import json
import os
import shutil
import time

import pytest
import torch
from rescore.pipelines.models.layout import ModelError
from rescore.pipelines.models.unet.load import load_image, load_text_to_video
from safetensors.torch import load_file, save_file
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
    assert (
        "bytes) is damaged" in text
        and "Expected the whole file as published, with tensors only" in text
    )
    assert f"Put it into {sd.parent}; this downloads stable-diffusion-v1-5: " in text


def test_missing_files_are_told(sd):
    os.rename(sd / "unet" / WEIGHTS, sd / "unet" / "renamed.ckpt")
    with pytest.raises(
        ModelError, match=r"no weights in unet \(found: config.json, renamed.ckpt\)"
    ):
        load_image(sd)
    (sd / "tokenizer" / "merges.txt").unlink()
    with pytest.raises(
        ModelError,
        match=r"no tokenizer: there is no tokenizer\.json in .*, and no vocab\.json and merges",
    ):
        load_image(sd)
    (sd / "scheduler" / "scheduler_config.json").unlink()
    with pytest.raises(ModelError, match=r"has no scheduler/scheduler_config\.json"):
        load_image(sd)
    (sd / "unet" / "config.json").write_text("{")
    with pytest.raises(ModelError, match=r"has an unreadable unet/config\.json"):
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
    with pytest.raises(ModelError, match=r"has a tokenizer of \d+ tokens and a model that knows"):
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
        ({"in_channels": 9}, r"in_channels = 9 over a VAE with 4 channels \(it is an inpainting"),
        ({"in_channels": 8}, r"in_channels = 8 over a VAE .* \(it is an instruct-pix2pix model"),
        ({"in_channels": 7}, r"in_channels = 7 over a VAE with 4 channels \(it is an upscaler"),
        ({"in_channels": 5}, r"in_channels = 5 over a VAE with 4 channels \(it is a depth-to"),
        ({"in_channels": 3}, r"in_channels = 3 over a VAE with 4 channels\."),
        ({"dual_cross_attention": True}, r"dual_cross_attention = True; two cross-attentions in"),
        ({"only_cross_attention": True}, r"only_cross_attention = True; no self-attention"),
        ({"time_cond_proj_dim": 6}, r"time_cond_proj_dim = 6; is it distilled for few steps"),
        ({"num_class_embeds": 3}, r"num_class_embeds = 3; is it conditioned on a class"),
        ({"attention_type": "gated"}, r"gated attention \(is it GLIGEN\?\)"),
        ({"mid_block_type": "UNetMidBlock2D"}, "with 'UNetMidBlock2D' in its middle"),
        (
            {"down_block_types": ("CrossAttnDownBlock2D", "AttnDownBlock2D")},
            r"the down blocks .*AttnDownBlock2D.*CrossAttnDownBlock2D and DownBlock2D are known",
        ),
        (
            {"up_block_types": ("AttnUpBlock2D", "CrossAttnUpBlock2D")},
            r"the up blocks .*AttnUpBlock2D.*CrossAttnUpBlock2D and UpBlock2D are known",
        ),
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


@pytest.mark.parametrize(
    ("part", "settings"),
    [
        ("unet", {"layers_per_block": 2**31}),
        ("unet", {"layers_per_block": 10**6}),
        ("unet", {"layers_per_block": -(2**31)}),
        ("unet", {"layers_per_block": [3, 10**5]}),
        ("unet", {"transformer_layers_per_block": 10**6}),
        ("unet", {"block_out_channels": [8] * 10**5}),
        ("unet", {"block_out_channels": [2**40, 2**40]}),
        ("unet", {"block_out_channels": [-8, 16]}),
        ("unet", {"block_out_channels": ["8", 16]}),
        ("unet", {"block_out_channels": 8}),
        ("unet", {"down_block_types": "CrossAttnDownBlock2D"}),
        ("unet", {"down_block_types": ["no\x1b[2Jsuch"] * 2}),
        ("unet", {"norm_num_groups": 0}),
        ("unet", {"attention_head_dim": 0}),
        ("unet", {"attention_head_dim": -2}),
        ("unet", {"attention_head_dim": [2, -2]}),
        ("unet", {"num_attention_heads": -2}),
        ("vae", {"norm_num_groups": -4}),
        ("unet", {"cross_attention_dim": {"a": [1]}}),
        ("unet", {"in_channels": None}),
        ("unet", {"_class_name": ["UNet2DConditionModel", 3]}),
        ("unet", {"_class_name": None, "architectures": 7}),
        ("vae", {"layers_per_block": 2**31}),
        ("vae", {"layers_per_block": 10**6}),
        ("vae", {"latent_channels": "4"}),
        ("vae", {"scaling_factor": 0}),
        ("vae", {"scaling_factor": "0.18"}),
        ("vae", {"scaling_factor": [0.18]}),
        ("vae", {"shift_factor": "far"}),
        ("text_encoder", {"num_hidden_layers": 2**31}),
        ("text_encoder", {"num_hidden_layers": 10**6}),
        ("text_encoder", {"hidden_size": -12}),
        ("text_encoder", {"hidden_size": "12"}),
        ("text_encoder", {"num_attention_heads": 0}),
        ("text_encoder", {"vocab_size": 2**40}),
        ("text_encoder", {"max_position_embeddings": 2**40}),
        ("text_encoder", {"max_position_embeddings": 5}),
        ("text_encoder", {"architectures": [["CLIPTextModel"]]}),
        ("text_encoder", {"hidden_act": "no\nsuch"}),
        ("text_encoder", {"auto_map": {"AutoModel": "code.Model"}}),
        ("text_encoder", {"nested": {"attn_implementation": "someone/kernel"}}),
    ],
)
def test_settings_that_make_no_model_are_told_at_once(sd, part, settings):
    edit_json(sd / part / "config.json", **settings)
    began = time.monotonic()
    with pytest.raises(ModelError, match=r"Expected a .* Put it into") as caught:
        load_image(sd)
    assert time.monotonic() - began < 20  # seconds, of which a machine at rest takes 2
    assert str(caught.value).isprintable() and len(str(caught.value)) < 3000


@pytest.mark.parametrize(
    "content",
    ["[" * 10**6, '{"a": ' * 600 + "1" + "}" * 600, '{"_class_name": NaN}', "\x00", "3", "null"],
)
@pytest.mark.parametrize("file", ["model_index.json", "unet/config.json", "vae/config.json"])
def test_settings_that_are_no_settings_are_told(sd, file, content):
    (sd / file).write_text(content)
    with pytest.raises(ModelError, match="Expected a Stable Diffusion 1"):
        load_image(sd)


@pytest.mark.parametrize(
    ("part", "setting", "value"),
    [
        ("unet", "norm_eps", None),
        ("unet", "norm_eps", "x"),
        ("unet", "norm_eps", -1.0),
        ("unet", "norm_num_groups", True),
        ("unet", "norm_num_groups", 4.0),
        ("unet", "mid_block_scale_factor", 0),
        ("unet", "downsample_padding", []),
        ("unet", "downsample_padding", 1.5),
        ("unet", "freq_shift", {}),
        ("vae", "norm_num_groups", -1.0),
        ("vae", "scaling_factor", None),
        ("text_encoder", "eos_token_id", None),
        ("text_encoder", "eos_token_id", []),
    ],
)
def test_settings_that_only_fail_when_the_model_is_called_are_told(sd, part, setting, value):
    file = sd / part / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text("utf-8")) | {setting: value}), "utf-8")
    with pytest.raises(ModelError, match=f"{setting} = "):
        load_image(sd)


def test_weights_that_are_no_usual_numbers_are_told(sd):
    file = sd / "unet" / WEIGHTS
    weights = load_file(file)
    for dtype in (torch.int8, torch.complex64, torch.bool):
        name = "conv_in.weight"
        save_file({**weights, name: weights[name].to(dtype)}, file)
        with pytest.raises(ModelError, match=rf"has a {name} in {dtype}, so its weights are"):
            load_image(sd)


def test_weights_in_two_files_of_a_part_are_told(sd):
    file = sd / "unet" / WEIGHTS
    weights = load_file(file)
    first, *rest = weights
    stem = "diffusion_pytorch_model-0000{}-of-00002.safetensors"
    save_file({name: weights[name] for name in (first, *rest)}, sd / "unet" / stem.format(1))
    save_file({first: weights[first]}, sd / "unet" / stem.format(2))
    file.unlink()
    with pytest.raises(ModelError, match=rf"has {first} in several of its files"):
        load_image(sd)


def test_what_was_put_before_all_names_is_nothing(sd, models):
    for before in ("module.", "state_dict.", "_orig_mod.", "module._orig_mod."):
        for part, name in (("unet", WEIGHTS), ("text_encoder", "model.safetensors")):
            weights = load_file(models / "sd" / part / name)
            save_file(
                {f"{before}{key}": tensor for key, tensor in weights.items()}, sd / part / name
            )
        assert load_image(sd).fingerprint == load_image(models / "sd").fingerprint


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
        load_image(tmp_path / "checkpoint.ckpt")
    assert not (tmp_path / "attacked").exists()
