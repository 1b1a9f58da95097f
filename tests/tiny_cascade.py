"""A cascade's stages as folders of diffusers, tiny and untrained, with a real T5."""

import json
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from rescore.pipelines.models.cascade.video_unet import VideoUNet
from safetensors.torch import save_file
from tiny_wan import tiny_tokenizer
from torch import nn
from transformers import T5Config, T5EncoderModel

TEXT_WIDTH = 20
SCHEDULE = {
    "_class_name": "DDPMScheduler",
    "num_train_timesteps": 1000,
    "beta_schedule": "squaredcos_cap_v2",
    "prediction_type": "epsilon",
    "variance_type": "learned_range",
    "clip_sample": True,
    "clip_sample_range": 1.0,
    "thresholding": True,
    "dynamic_thresholding_ratio": 0.95,
    "sample_max_value": 1.5,
}
_PIPELINES = {
    "keyframes": "TextToVideoIFPipeline",
    "interpolation": "TextToVideoIFInterpPipeline",
    "image-sr": "IFSuperResolutionPipeline",
    "video-sr": "TextToVideoIFSuperResolutionPipeline_Cond",
}
_CHANNELS = {"keyframes": 3, "interpolation": 7, "image-sr": 6, "video-sr": 6}


def settings(role: str = "keyframes", **changed) -> dict:
    """As published `config.json`s are; the sizes of groups are fixed, so channels are 32 n."""
    blocks = "2D" if role == "image-sr" else "3D"
    config = {
        "_class_name": f"UNet{blocks}ConditionModel",
        "in_channels": _CHANNELS[role],
        "out_channels": 6,
        "block_out_channels": [32, 64, 32],
        "layers_per_block": 1,
        "down_block_types": [
            f"ResnetDownsampleBlock{blocks}",
            f"SimpleCrossAttnDownBlock{blocks}",
            f"SimpleCrossAttnDownBlock{blocks}",
        ],
        "mid_block_type": f"UNetMidBlock{blocks}SimpleCrossAttn",
        "up_block_types": [
            f"SimpleCrossAttnUpBlock{blocks}",
            f"SimpleCrossAttnUpBlock{blocks}",
            f"ResnetUpsampleBlock{blocks}",
        ],
        "attention_head_dim": 16,
        "cross_attention_dim": 32,
        "cross_attention_norm": "group_norm",
        "encoder_hid_dim": TEXT_WIDTH,
        "encoder_hid_dim_type": "text_proj",
        "addition_embed_type": "text",
        "addition_embed_type_num_heads": 2,
        "class_embed_type": "timestep" if role.endswith("sr") else None,
        "act_fn": "gelu",
        "time_embedding_act_fn": "gelu",
        "norm_num_groups": 16,
        "resnet_out_scale_factor": 1.41421,
        "resnet_skip_time_act": True,
        "resnet_time_scale_shift": "scale_shift",
    }
    return config | changed


def tiny_unet(role: str = "keyframes", seed: int = 0, **changed) -> nn.Module:
    """Random, and its layers along time are no identities, as fresh ones would be."""
    torch.manual_seed(seed)
    config = settings(role, **changed)
    unet = UNet2DConditionModel.from_config(config) if role == "image-sr" else VideoUNet.of(config)
    for name, parameter in unet.named_parameters():
        if parameter.ndim > 1 and ("temp_convs" in name or "conv_out" in name):
            nn.init.normal_(parameter, std=0.05)
    return unet.eval().requires_grad_(False)


def write_stage(folder: Path, role: str = "keyframes", seed: int = 0, **changed) -> Path:
    """A stage's folder as published; the keyframe stage has T5 and its tokenizer."""
    _write(folder / "model_index.json", {"_class_name": _PIPELINES[role]} | _index(role))
    _write(folder / "unet" / "config.json", settings(role, **changed))
    weights = tiny_unet(role, seed, **changed).state_dict()
    save_file(weights, folder / "unet" / "diffusion_pytorch_model.safetensors")
    _write(folder / "scheduler" / "scheduler_config.json", SCHEDULE)
    if role.endswith("sr"):
        _write(folder / "image_noising_scheduler" / "scheduler_config.json", SCHEDULE)
    if role == "keyframes":
        tokenizer = tiny_tokenizer()
        tokenizer.save_pretrained(folder / "tokenizer")
        tiny_t5(len(tokenizer)).save_pretrained(folder / "text_encoder")
    return folder


def tiny_t5(words: int, width: int = TEXT_WIDTH) -> T5EncoderModel:
    torch.manual_seed(7)
    config = T5Config(vocab_size=words, d_model=width, d_kv=5, d_ff=14, num_layers=2, num_heads=4)
    return T5EncoderModel(config).eval()


def edit_json(file: Path, **changed) -> None:
    """Change entries of a JSON file; None takes one out."""
    content = json.loads(file.read_text("utf-8")) | changed
    _write(file, {name: value for name, value in content.items() if value is not None})


def _index(role: str) -> dict:
    unet = "UNet2DConditionModel" if role == "image-sr" else "UNet3DConditionModel"
    return {"unet": ["showone.models", unet], "scheduler": ["diffusers", "DDPMScheduler"]}


def _write(file: Path, content: dict) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content), "utf-8")
