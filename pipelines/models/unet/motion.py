"""AnimateDiff: join a motion adapter, from a folder or a single file, to an image model's UNet."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffusers import MotionAdapter, UNetMotionModel
from diffusers.models.unets.unet_motion_model import AnimateDiffTransformer3D
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from ..layout import check_config, check_numbers, problem, weight_files
from ..storage import is_in_fp8, store_in_fp8, whole_weights
from ..weights import build, read_weights

KIND = "motion-adapter"
# Set in the config.json of an adapter that was trained with diffusers' own normalisation.
OVER_CLIP = "motion_norm_over_clip"
_MOTION = ".motion_modules."  # in the names of an adapter's weights
_FIRST, _LATENT = "conv_in.weight", 4  # PIA's adapters have this layer, for more channels


class NormPerFrame(nn.GroupNorm):
    """Group normalisation of a clip, with a mean and a deviation for each frame."""

    def forward(self, clip: Float[Tensor, "b c f h w"]) -> Float[Tensor, "b c f h w"]:
        frames = super().forward(rearrange(clip, "b c f h w -> (b f) c h w"))
        return rearrange(frames, "(b f) c h w -> b c f h w", b=len(clip))


def motion_unet(unet: nn.Module, adapter: Path) -> nn.Module:
    """A `UNetMotionModel` from the UNet of an image model and the adapter at a path.

    It has the device and the precision of the UNet, and shares its weights; the UNet does not
    change. Of a UNet stored in 8 bits it is a copy, in 8 bits, too.

    Deviation from diffusers: motion modules normalise each frame by itself, as in the code with
    which AnimateDiff's authors trained them (Guo et al., 2023). Diffusers uses one mean and one
    deviation for the whole clip. An adapter that was trained like that says so in its config.json
    (`motion_norm_over_clip`), and keeps diffusers' normalisation.

    Raises:
        ModelError: if the adapter is damaged, or made for another UNet.
    """
    config, weights = _read_adapter(adapter)
    over_clip = config.pop(OVER_CLIP, False)
    _check_fit(config, unet, adapter)
    motion = build(
        lambda: MotionAdapter.from_config(config), weights, unet.dtype, KIND, adapter
    ).to(unet.device)

    def joined() -> nn.Module:
        made = UNetMotionModel.from_unet2d(unet, motion, load_weights=False)
        return made if over_clip else _normalised_per_frame(made)

    weights = whole_weights(unet) | motion.state_dict()
    made = build(joined, weights, unet.dtype, KIND, adapter)
    if is_in_fp8(unet):
        store_in_fp8(made)
    return made


def _normalised_per_frame(unet: UNetMotionModel) -> UNetMotionModel:
    for module in unet.modules():
        if isinstance(module, AnimateDiffTransformer3D):
            norm = module.norm
            module.norm = NormPerFrame(norm.num_groups, norm.num_channels, norm.eps)
    # Stored in the settings, because it changes the output and so the fingerprint.
    unet.register_to_config(**{OVER_CLIP: False})
    return unet


def _read_adapter(adapter: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    if adapter.is_file():
        return motion_module(read_weights([adapter], KIND, adapter), adapter)
    if not adapter.is_dir():
        raise problem(KIND, adapter, "does not exist.")
    config = check_config(adapter, "MotionAdapter", KIND, adapter)
    check_numbers(MotionAdapter, config, KIND, adapter)
    return config, read_weights(weight_files(adapter, KIND, adapter), KIND, adapter)


def _check_fit(config: Mapping[str, Any], unet: nn.Module, adapter: Path) -> None:
    if config.get("conv_in_channels"):
        found = f"takes {config['conv_in_channels']} input channels (is it a PIA adapter?)."
        raise problem(KIND, adapter, found)
    widths = _per_block(config.get("block_out_channels", (320, 640, 1280, 1280)), 1)
    layers = _per_block(config.get("motion_layers_per_block", 2), len(widths))
    unet_widths = tuple(unet.config.block_out_channels)
    unet_layers = _per_block(unet.config.layers_per_block, len(unet_widths))
    if (widths, layers) != (unet_widths, unet_layers):
        raise problem(
            KIND,
            adapter,
            f"is made for a unet with blocks {widths} of {layers} layers, while the image "
            f"model's has {unet_widths} of {unet_layers}.",
            "an adapter for this image model (Stable Diffusion 1.x takes v1, v2 and v3, not XL)",
        )


def _per_block(setting: Any, blocks: int) -> tuple[Any, ...]:
    """A setting for each block, given as one value for all blocks or as a list."""
    return tuple(setting) if isinstance(setting, list | tuple) else (setting,) * blocks


def motion_module(
    weights: Mapping[str, Tensor], path: Path
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The configuration and weights of a `MotionAdapter`, from a motion module in a single file.

    The file may have AnimateDiff's own layout (v1, v2, v3) or diffusers', and may also contain the
    UNet. The configuration follows from the shapes, except the numbers of heads and of norm groups;
    for these, diffusers' defaults are AnimateDiff's values.
    """
    names = [name for name in weights if _MOTION in name]
    if any("lora" in name for name in names):
        raise problem(KIND, path, "is a motion LoRA, and no whole motion module.")
    renamed = {_motion_name(name): weights[name] for name in names}
    if len(renamed) < len(names):
        raise problem(KIND, path, "holds several motion modules.")
    widths, layers = [], []
    while (norm := f"down_blocks.{len(widths)}.motion_modules.0.norm.weight") in renamed:
        start = f"down_blocks.{len(widths)}.motion_modules."
        layers.append(len({n.split(".")[3] for n in renamed if n.startswith(start)}))
        widths.append(renamed[norm].numel())
    position = "down_blocks.0.motion_modules.0.transformer_blocks.0.pos_embed.pe"
    if not widths or position not in renamed or renamed[position].ndim != 3:
        held = next(iter(weights), "nothing")
        raise problem(KIND, path, f"holds no motion modules (it begins with {held}).")
    start = "down_blocks.0.motion_modules.0.transformer_blocks."
    config = {
        "block_out_channels": tuple(widths),
        "motion_layers_per_block": tuple(layers),
        "motion_transformer_layers_per_block": len(
            {name.split(".")[5] for name in renamed if name.startswith(start)}
        ),
        "motion_max_seq_length": renamed[position].shape[1],
        "use_motion_mid_block": any(name.startswith("mid_block.") for name in renamed),
    }
    first = next((tensor for name, tensor in weights.items() if name.endswith(_FIRST)), None)
    if first is not None and first.ndim == 4 and first.shape[1] != _LATENT:
        config["conv_in_channels"] = first.shape[1]
    return config, renamed


def _motion_name(name: str) -> str:
    """The name in a `MotionAdapter` of a weight in AnimateDiff's layout.

    There, positions belong to both attention layers of a block; in diffusers, to the block. A
    prefix before the name of the block comes from training scripts, and is removed.
    """
    name = re.sub(r"^.*?\b(?=(?:down_blocks|mid_block|up_blocks)\.)", "", name)
    name = name.replace(".temporal_transformer.", ".")
    name = name.replace(".attention_blocks.0.pos_encoder.", ".pos_embed.")
    name = re.sub(r"\.attention_blocks\.(\d)\.", lambda m: f".attn{int(m[1]) + 1}.", name)
    name = re.sub(r"\.norms\.(\d)\.", lambda m: f".norm{int(m[1]) + 1}.", name)
    return name.replace(".ff_norm.", ".norm3.")
