"""A Stable Diffusion checkpoint in its original layout is the same model as its folder."""

import json
import shutil

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from rescore.pipelines.models.layout import ModelError
from rescore.pipelines.models.unet.load import SD1_CONFIGS, load_image
from rescore.pipelines.models.unet.single_file import UNET_PREFIX, VAE_PREFIX, original_unet_name
from safetensors.torch import load_file, save_file
from tiny_models import tiny_text_encoder, write_tiny_checkpoint, write_tiny_sd
from transformers import CLIPTextConfig, CLIPTextModel


@pytest.fixture(scope="module")
def deep(tmp_path_factory):
    """A model with three resolutions and two layers in each block, as a folder and as a file."""
    folder = tmp_path_factory.mktemp("deep") / "sd"
    write_tiny_sd(
        folder,
        seed=6,
        block_out_channels=(8, 8, 16),
        layers_per_block=2,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    )
    return write_tiny_checkpoint(folder.with_suffix(".safetensors"), folder), folder


def load(file, folder, **options):
    return load_image(file, configs=folder, **options)


def test_file_and_folder_are_the_same_model(deep):
    file, folder = deep
    assert load(file, folder).fingerprint == load_image(folder).fingerprint


@pytest.mark.parametrize(("part", "cls"), [("unet", UNet2DConditionModel), ("vae", AutoencoderKL)])
def test_conversion_agrees_with_diffusers_own(deep, part, cls):
    file, folder = deep
    found = getattr(load(file, folder), part).state_dict()
    options = {"config": str(folder), "subfolder": part, "local_files_only": True}
    expected = cls.from_single_file(str(file), **options).state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)


def test_names_of_the_real_model_are_those_of_the_published_files():
    names = {
        "conv_in.weight": "input_blocks.0.0.weight",
        "time_embedding.linear_2.bias": "time_embed.2.bias",
        "down_blocks.0.resnets.1.time_emb_proj.weight": "input_blocks.2.0.emb_layers.1.weight",
        "down_blocks.0.downsamplers.0.conv.bias": "input_blocks.3.0.op.bias",
        "down_blocks.2.attentions.1.proj_in.weight": "input_blocks.8.1.proj_in.weight",
        "down_blocks.3.resnets.1.conv2.bias": "input_blocks.11.0.out_layers.3.bias",
        "mid_block.resnets.1.norm1.weight": "middle_block.2.in_layers.0.weight",
        "up_blocks.0.upsamplers.0.conv.weight": "output_blocks.2.1.conv.weight",
        "up_blocks.1.upsamplers.0.conv.weight": "output_blocks.5.2.conv.weight",
        "up_blocks.3.attentions.2.norm.bias": "output_blocks.11.1.norm.bias",
        "up_blocks.3.resnets.0.conv_shortcut.bias": "output_blocks.9.0.skip_connection.bias",
        "conv_out.weight": "out.2.weight",
    }
    assert {name: original_unet_name(name, 2, [1, 2, 3]) for name in names} == names


def test_shipped_settings_are_those_of_stable_diffusion_1():
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(settings("unet"))
        vae = AutoencoderKL.from_config(settings("vae"))
        text = CLIPTextModel(CLIPTextConfig.from_dict(settings("text_encoder")))
    counts = [sum(p.numel() for p in module.parameters()) for module in (unet, vae, text)]
    assert counts == [859_520_964, 83_653_863, 123_060_480]  # as published
    assert vae.config.scaling_factor == 0.18215


def settings(part):
    return json.loads((SD1_CONFIGS / part / "config.json").read_text("utf-8"))


def test_a_file_predicts_noise_unless_told_otherwise(deep):
    file, folder = deep
    assert load(file, folder).predicts == "epsilon"
    told = load(file, folder, prediction_type="v_prediction")
    assert told.predicts == "v"
    assert told.name == "sd.safetensors"


def test_text_encoders_without_the_usual_level_of_names_are_read(deep, tmp_path):
    file, folder = deep
    weights = {
        k.replace(".transformer.text_model.", ".transformer."): v
        for k, v in load_file(file).items()
    }
    save_file(weights, tmp_path / "x.safetensors")
    assert load(tmp_path / "x.safetensors", folder).fingerprint == load_image(folder).fingerprint


def test_a_file_needs_nothing_beside_it(deep, tmp_path):
    """The words are CLIP's own, which come with the pack; only the sizes are other than real."""
    _, folder = deep
    configs = shutil.copytree(folder, tmp_path / "sd")
    shutil.rmtree(configs / "tokenizer")
    shutil.copytree(SD1_CONFIGS / "tokenizer", configs / "tokenizer")
    words = tiny_text_encoder(settings("text_encoder")["vocab_size"])
    words.save_pretrained(configs / "text_encoder")
    file = write_tiny_checkpoint(tmp_path / "model.safetensors", configs)
    read = load(file, configs).encode_prompt("a caf\u00e9")
    assert read.tokens == ("<|startoftext|>", "a</w>", "caf\u00c3\u00a9</w>", "<|endoftext|>")
    assert read.embedding.isfinite().all()


@pytest.mark.parametrize(
    ("drop", "complaint"),
    [
        (VAE_PREFIX, "holds no VAE"),
        ("cond_stage_model", "holds no text encoder"),
        (UNET_PREFIX, "holds no unet"),
        (f"{UNET_PREFIX}middle_block.1.", r"lacks \d+ of the \d+ weights of its UNet2D"),
    ],
)
def test_an_incomplete_file_is_told(deep, tmp_path, drop, complaint):
    _, folder = deep
    file = write_tiny_checkpoint(tmp_path / "x.safetensors", folder, drop=(drop,))
    with pytest.raises(ModelError, match=complaint) as caught:
        load(file, folder)
    assert "or one .safetensors checkpoint. Put it into" in str(caught.value)


@pytest.mark.parametrize(
    ("key", "complaint"),
    [
        ("conditioner.embedders.0.transformer.x", "is a Stable Diffusion XL checkpoint"),
        ("cond_stage_model.model.positional_embedding", "is a Stable Diffusion 2 checkpoint"),
        ("lora_unet_down_blocks_0.alpha", "is a LoRA"),
        ("down_blocks.0.motion_modules.0.proj_in.weight", "is an AnimateDiff motion module"),
        ("encoder.down.0.block.0.conv1.bias", r"is an autoencoder \(VAE\) alone"),
        ("down_blocks.0.resnets.0.conv1.bias", "is a unet alone"),
    ],
)
def test_another_kind_of_file_is_recognised(deep, tmp_path, key, complaint):
    _, folder = deep
    save_file({key: torch.zeros(1), f"{UNET_PREFIX}x": torch.zeros(1)}, tmp_path / "x.safetensors")
    with pytest.raises(ModelError, match=complaint):
        load(tmp_path / "x.safetensors", folder)


@pytest.mark.parametrize(
    ("channels", "complaint"),
    [(9, "is an inpainting model .its unet takes 9 channels"), (8, "is an instruct-pix2pix model")],
)
def test_a_file_for_another_task_is_recognised(deep, tmp_path, channels, complaint):
    file, folder = deep
    weights = load_file(file)
    name = f"{UNET_PREFIX}input_blocks.0.0.weight"
    weights[name] = torch.zeros(weights[name].shape[0], channels, 3, 3)
    save_file(weights, tmp_path / "x.safetensors")
    with pytest.raises(ModelError, match=complaint):
        load(tmp_path / "x.safetensors", folder)


@pytest.mark.parametrize("before", ["module.", "state_dict.", "_orig_mod."])
def test_what_a_script_put_before_all_names_is_nothing(deep, tmp_path, before):
    file, folder = deep
    weights = {f"{before}{name}": tensor for name, tensor in load_file(file).items()}
    save_file(weights, tmp_path / "sd.safetensors")
    assert load(tmp_path / "sd.safetensors", folder).fingerprint == load_image(folder).fingerprint
    torch.save({"state_dict": weights, "global_step": 7}, tmp_path / "sd.ckpt")
    assert load(tmp_path / "sd.ckpt", folder).fingerprint == load_image(folder).fingerprint


def test_a_file_of_another_size_is_told(deep):
    file, _ = deep
    with pytest.raises(ModelError, match=r"(lacks|has a .* of shape)"):
        load_image(file)


def test_a_broken_download_is_told(deep, tmp_path):
    file, folder = deep
    data = file.read_bytes()
    (tmp_path / "half.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(ModelError, match=r"half\.safetensors \([\d,]+ bytes\) is damaged"):
        load(tmp_path / "half.safetensors", folder)
