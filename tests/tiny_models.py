"""Tiny models in genuine layouts, written to disk: real classes, random weights, no training.

    from tiny_models import write_tiny_t2v
    folder = write_tiny_t2v(tmp_path / "tiny-t2v")

Every function returns the path it wrote. All weights are non-zero, those too that the classes begin
with zeros, so that no branch of a model is dead. Text is `TEXT_WIDTH` wide, latents are a factor
`VAE_FACTOR` smaller than pixels, and the tokenizer is the shape world's.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, MotionAdapter, UNet2DConditionModel, UNet3DConditionModel
from rescore.shapeworld.tokenizer import WINDOW, load_tokenizer, write_tokenizer
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

TEXT_WIDTH = 12
VAE_FACTOR = 2
CHANNELS = (8, 16)
LAYERS = 1
SCHEDULE = {
    "_class_name": "DDIMScheduler",
    "num_train_timesteps": 1000,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "prediction_type": "epsilon",
}


def fill(module: nn.Module, seed: int) -> nn.Module:
    """Give every weight that is all zeros or all ones a random value, and leave training mode."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.min() == parameter.max():
                parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
    return module.eval()


def eps_of(model: Any, z: Tensor, t: int, cond: Tensor) -> Tensor:
    """The noise that a loaded model sees at a timestep."""
    return model.denoiser(z, model.process.level(t), cond).eps


def tiny_unet(kind: str, seed: int = 0, **settings: Any) -> nn.Module:
    """A unet with attention at both of its resolutions; `kind` is "2D" or "3D"."""
    torch.manual_seed(seed)
    cls = {"2D": UNet2DConditionModel, "3D": UNet3DConditionModel}[kind]
    common = {
        "sample_size": 8,
        "block_out_channels": CHANNELS,
        "layers_per_block": LAYERS,
        "norm_num_groups": 4,
        "cross_attention_dim": TEXT_WIDTH,
        "attention_head_dim": {"2D": 2, "3D": 4}[kind],
        "down_block_types": (f"CrossAttnDownBlock{kind}", f"DownBlock{kind}"),
        "up_block_types": (f"UpBlock{kind}", f"CrossAttnUpBlock{kind}"),
    }
    return fill(cls(**{**common, **settings}), seed)


def tiny_vae(seed: int = 0, **settings: Any) -> nn.Module:
    """A 4-channel autoencoder of `VAE_FACTOR`, with attention in its middle as the real one has."""
    torch.manual_seed(seed)
    common = {
        "latent_channels": 4,
        "block_out_channels": (8, 8),
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
        "layers_per_block": LAYERS,
        "norm_num_groups": 4,
        "sample_size": 16,
    }
    return fill(AutoencoderKL(**{**common, **settings}), seed)


def tiny_text_encoder(vocabulary: int, seed: int = 0, window: int = WINDOW) -> nn.Module:
    """A CLIP text encoder of two layers for a tokenizer of `vocabulary` tokens."""
    torch.manual_seed(seed)
    config = CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=TEXT_WIDTH,
        intermediate_size=2 * TEXT_WIDTH,
        projection_dim=TEXT_WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=window,
        bos_token_id=vocabulary - 2,
        eos_token_id=vocabulary - 1,
        pad_token_id=vocabulary - 1,
    )
    return fill(CLIPTextModel(config), seed)


def tiny_adapter(seed: int = 0, **settings: Any) -> nn.Module:
    """A motion adapter for `tiny_unet("2D")`."""
    torch.manual_seed(seed)
    common = {
        "block_out_channels": CHANNELS,
        "motion_layers_per_block": LAYERS,
        "motion_num_attention_heads": 2,
        "motion_norm_num_groups": 4,
        "motion_max_seq_length": 7,
        "use_motion_mid_block": False,
    }
    return fill(MotionAdapter(**{**common, **settings}), seed)


def write_tiny_t2v(
    folder: Path,
    *,
    seed: int = 0,
    schedule: Mapping[str, Any] = SCHEDULE,
    variant: str | None = None,
    safe: bool = True,
    **unet_settings: Any,
) -> Path:
    """A text-to-video model in ModelScope's layout; `variant` and `safe` choose the files."""
    unet = tiny_unet("3D", seed, **unet_settings)
    return _write_pipeline(folder, "TextToVideoSDPipeline", unet, seed, schedule, variant, safe)


def write_tiny_sd(
    folder: Path,
    *,
    seed: int = 0,
    schedule: Mapping[str, Any] = SCHEDULE,
    variant: str | None = None,
    safe: bool = True,
    **unet_settings: Any,
) -> Path:
    """An image model in the layout of Stable Diffusion 1.x."""
    unet = tiny_unet("2D", seed, **unet_settings)
    return _write_pipeline(folder, "StableDiffusionPipeline", unet, seed, schedule, variant, safe)


def write_tiny_adapter(
    folder: Path, *, seed: int = 0, over_clip: bool = True, **settings: Any
) -> Path:
    """A motion adapter in diffusers' layout; `over_clip`: one that normalises as diffusers does."""
    tiny_adapter(seed, **settings).save_pretrained(folder)
    if over_clip:
        config = json.loads((folder / "config.json").read_text("utf-8"))
        config["motion_norm_over_clip"] = True
        (folder / "config.json").write_text(json.dumps(config), "utf-8")
    return folder


def write_tiny_checkpoint(file: Path, sd_folder: Path, *, drop: tuple[str, ...] = ()) -> Path:
    """The model of a `write_tiny_sd` folder as one file in the layout of latent diffusion.

    The parts are also left in the folder, where their config.json describe what is in the file.
    Weights whose names begin with one of `drop` are left out.
    """
    unet = UNet2DConditionModel.from_pretrained(sd_folder / "unet")
    vae = AutoencoderKL.from_pretrained(sd_folder / "vae")
    text = CLIPTextModel.from_pretrained(sd_folder / "text_encoder")
    weights = {f"model.diffusion_model.{k}": v for k, v in original_unet(unet).items()}
    weights |= {f"first_stage_model.{k}": v for k, v in original_vae(vae).items()}
    for name, tensor in text.state_dict().items():
        name = "text_model." + name.removeprefix("text_model.")
        weights[f"cond_stage_model.transformer.{name}"] = tensor
    kept = {k: v.contiguous() for k, v in weights.items() if not k.startswith(drop or ("-",))}
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(kept, file)
    return file


def write_tiny_motion_file(file: Path, adapter: nn.Module) -> Path:
    """A motion adapter as one file in AnimateDiff's own layout: safetensors, or else a pickle."""
    weights = {}
    for name, tensor in adapter.state_dict().items():
        block, rest = name.split(".motion_modules.")
        index, rest = rest.split(".", 1)
        start = f"{block}.motion_modules.{index}.temporal_transformer."
        if rest.endswith("pos_embed.pe"):
            layer = rest.removesuffix("pos_embed.pe")
            for attention in (0, 1):
                key = f"{start}{layer}attention_blocks.{attention}.pos_encoder.pe"
                weights[key] = tensor.clone()
            continue
        for ours, theirs in (
            ("attn1", "attention_blocks.0"),
            ("attn2", "attention_blocks.1"),
            ("norm1", "norms.0"),
            ("norm2", "norms.1"),
            ("norm3", "ff_norm"),
        ):
            rest = rest.replace(f".{ours}.", f".{theirs}.")
        weights[start + rest] = tensor.contiguous()
    if file.suffix == ".safetensors":
        save_file(weights, file)
    else:
        torch.save({"epoch": 3, "state_dict": {f"module.{k}": v for k, v in weights.items()}}, file)
    return file


def original_unet(unet: nn.Module) -> dict[str, Tensor]:
    """A 2D unet's weights by their original names, found by walking through its layers in order."""
    weights: dict[str, Tensor] = {}

    def put(place: str, module: nn.Module, names: Mapping[str, str] = {}) -> None:
        for name, tensor in module.state_dict().items():
            for ours, theirs in names.items():
                if name.startswith(ours + "."):
                    name = theirs + name.removeprefix(ours)
            weights[f"{place}.{name}"] = tensor

    resnet = {"norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1"}
    resnet |= {"norm2": "out_layers.0", "conv2": "out_layers.3", "conv_shortcut": "skip_connection"}
    put("input_blocks.0.0", unet.conv_in)
    put("time_embed.0", unet.time_embedding.linear_1)
    put("time_embed.2", unet.time_embedding.linear_2)
    layer = 0
    for block in unet.down_blocks:
        attentions = getattr(block, "attentions", [])
        for i, module in enumerate(block.resnets):
            layer += 1
            put(f"input_blocks.{layer}.0", module, resnet)
            if attentions:
                put(f"input_blocks.{layer}.1", attentions[i])
        if block.downsamplers:
            layer += 1
            put(f"input_blocks.{layer}.0.op", block.downsamplers[0].conv)
    put("middle_block.0", unet.mid_block.resnets[0], resnet)
    put("middle_block.1", unet.mid_block.attentions[0])
    put("middle_block.2", unet.mid_block.resnets[1], resnet)
    layer = -1
    for block in unet.up_blocks:
        attentions = getattr(block, "attentions", [])
        for i, module in enumerate(block.resnets):
            layer += 1
            put(f"output_blocks.{layer}.0", module, resnet)
            if attentions:
                put(f"output_blocks.{layer}.1", attentions[i])
        if block.upsamplers:
            put(f"output_blocks.{layer}.{1 + bool(attentions)}.conv", block.upsamplers[0].conv)
    put("out.0", unet.conv_norm_out)
    put("out.2", unet.conv_out)
    return weights


def original_vae(vae: nn.Module) -> dict[str, Tensor]:
    """An autoencoder's weights by their original names, its attention as 1x1 convolutions."""
    weights: dict[str, Tensor] = {}

    def put(place: str, module: nn.Module) -> None:
        for name, tensor in module.state_dict().items():
            weights[f"{place}.{name.replace('conv_shortcut', 'nin_shortcut')}"] = tensor

    put("quant_conv", vae.quant_conv)
    put("post_quant_conv", vae.post_quant_conv)
    for side, coder in (("encoder", vae.encoder), ("decoder", vae.decoder)):
        put(f"{side}.conv_in", coder.conv_in)
        put(f"{side}.norm_out", coder.conv_norm_out)
        put(f"{side}.conv_out", coder.conv_out)
        put(f"{side}.mid.block_1", coder.mid_block.resnets[0])
        put(f"{side}.mid.block_2", coder.mid_block.resnets[1])
        attention = coder.mid_block.attentions[0]
        put(f"{side}.mid.attn_1.norm", attention.group_norm)
        projections = {"q": attention.to_q, "k": attention.to_k, "v": attention.to_v}
        for name, linear in {**projections, "proj_out": attention.to_out[0]}.items():
            weights[f"{side}.mid.attn_1.{name}.weight"] = linear.weight.detach()[..., None, None]
            weights[f"{side}.mid.attn_1.{name}.bias"] = linear.bias.detach()
        blocks = coder.down_blocks if side == "encoder" else reversed(coder.up_blocks)
        for i, block in enumerate(blocks):
            place = f"{side}.{'down' if side == 'encoder' else 'up'}.{i}"
            for j, module in enumerate(block.resnets):
                put(f"{place}.block.{j}", module)
            for sampler in getattr(block, "downsamplers", None) or []:
                put(f"{place}.downsample.conv", sampler.conv)
            for sampler in getattr(block, "upsamplers", None) or []:
                put(f"{place}.upsample.conv", sampler.conv)
    return weights


def _write_pipeline(
    folder: Path,
    pipeline: str,
    unet: nn.Module,
    seed: int,
    schedule: Mapping[str, Any],
    variant: str | None,
    safe: bool,
) -> Path:
    write_tokenizer(folder / "tokenizer")
    text_encoder = tiny_text_encoder(len(load_tokenizer(folder / "tokenizer")), seed)
    vae = tiny_vae(seed)
    unet.save_pretrained(folder / "unet", variant=variant, safe_serialization=safe)
    vae.save_pretrained(folder / "vae", variant=variant, safe_serialization=safe)
    text_encoder.save_pretrained(folder / "text_encoder", variant=variant)
    if not safe:
        for file in (folder / "text_encoder").glob("*.safetensors"):
            file.unlink()
        torch.save(text_encoder.state_dict(), folder / "text_encoder" / "pytorch_model.bin")
    index = {
        "_class_name": pipeline,
        "_diffusers_version": "0.35.0",
        "unet": ["diffusers", type(unet).__name__],
        "vae": ["diffusers", "AutoencoderKL"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "scheduler": ["diffusers", schedule["_class_name"]],
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2), "utf-8")
    (folder / "scheduler").mkdir(exist_ok=True)
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(dict(schedule)), "utf-8")
    return folder
