"""The tiny cascade: Show-1's stages at 16 x 16 and 64 x 64 pixels, and how they load.

Keyframes and the frames between them are made at 16 x 16; super-resolution makes them 64 x 64, the
first frame as DeepFloyd IF does and the rest after it. The layouts and the names of the weights are
those of the published models. In place of T5, texts come from the text encoder that all models of
the shape world share: its states are projected to the width of each stage, as T5's are.
"""

from typing import TYPE_CHECKING, Any

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from .finished import WEIGHTS, require

if TYPE_CHECKING:
    from torch import nn

    from ..pipelines.models.cascade.model import KeyframeModel
    from ..pipelines.models.cascade.stage import Stage

FOLDER = WEIGHTS / "shapeworld-cascade"
SMALL = 16  # pixels of a side before super-resolution
KEYFRAMES, BETWEEN = 8, 3  # of a clip, and the frames that interpolation puts between two
FRAMES = KEYFRAMES + (KEYFRAMES - 1) * BETWEEN
STAGES = ("keyframes", "interpolation", "image-sr", "video-sr")  # their folders, and roles

SCHEDULE: dict[str, Any] = {
    "_class_name": "DDPMScheduler",
    "num_train_timesteps": 1000,
    "beta_schedule": "squaredcos_cap_v2",
    "prediction_type": "v_prediction",
    "variance_type": "fixed_small",
    "clip_sample": True,
    "clip_sample_range": 1.0,
    "thresholding": False,
}
# All stages but the first are told roughly what to draw, and predict the frames themselves.
TOLD = SCHEDULE | {"prediction_type": "sample"}
_WIDTHS = {"keyframes": (32, 64), "image-sr": (32, 24)}  # all others have (32, 32)
# A channel a group would forget how bright and how contrasty it was; real models have 10 a group.
_GROUPS = {"keyframes": 32}  # all others have 4
_CHANNELS = {"keyframes": 3, "interpolation": 7, "image-sr": 6, "video-sr": 6}


def settings(stage: str) -> dict[str, Any]:
    """The `config.json` of a stage's UNet."""
    picture, first = stage == "image-sr", stage == "keyframes"
    blocks = "2D" if picture else "3D"
    # Attention over thousands of pixels costs more than all the rest; where there is something to
    # start from, it is in the middle alone.
    inner = "SimpleCrossAttn{}Block" if first else "Resnet{}sampleBlock"
    return {
        "_class_name": "UNet2DConditionModel" if picture else "UNet3DConditionModel",
        "sample_size": 64 if stage.endswith("sr") else SMALL,
        "in_channels": _CHANNELS[stage],
        "out_channels": 6,  # the half that tells the variance is not trained
        "block_out_channels": list(_WIDTHS.get(stage, (32, 32))),
        "layers_per_block": 1,
        "down_block_types": [
            f"ResnetDownsampleBlock{blocks}",
            inner.format("Down") + blocks,
        ],
        "mid_block_type": f"UNetMidBlock{blocks}SimpleCrossAttn",
        "up_block_types": [inner.format("Up") + blocks, f"ResnetUpsampleBlock{blocks}"],
        "attention_head_dim": 8,
        "cross_attention_dim": 64,
        "cross_attention_norm": "group_norm",
        "encoder_hid_dim": 64,
        "encoder_hid_dim_type": "text_proj",
        "addition_embed_type": "text",
        "addition_embed_type_num_heads": 4,
        "class_embed_type": "timestep" if stage.endswith("sr") else None,
        "act_fn": "gelu",
        "time_embedding_act_fn": "gelu",
        "norm_num_groups": _GROUPS.get(stage, 4),
        "resnet_out_scale_factor": 1.41421,
        "resnet_skip_time_act": True,
        "resnet_time_scale_shift": "scale_shift",
    }


def build_unet(stage: str) -> "nn.Module":
    """A fresh UNet of a stage."""
    from diffusers import UNet2DConditionModel

    from ..pipelines.models.cascade.video_unet import VideoUNet

    config = settings(stage)
    return UNet2DConditionModel(**config) if stage == "image-sr" else VideoUNet.of(config)


def shrunk(clips: Float[Tensor, "b c f H W"]) -> Float[Tensor, "b c f h w"]:
    """Clips of 64 x 64 pixels at the size of the keyframes: the mean of each 4 x 4."""
    return functional.avg_pool3d(clips, (1, 4, 4))


def load_keyframes(text_encoder: "nn.Module", tokenizer: Any) -> "KeyframeModel":
    """The finished keyframe stage as the pack's loops use it, with the text encoder of all."""
    from ..pipelines.models.cascade.model import KeyframeModel
    from ..pipelines.models.text import encode_prompt

    return KeyframeModel(load_stage("keyframes"), text_encoder, tokenizer, encode_prompt)


def load_stage(role: str) -> "Stage":
    """A finished stage, through the loader that published ones come through.

    Raises:
        FileNotFoundError: if the pack was installed without its weights.
    """
    from ..pipelines.models.cascade.load import load_stage

    return load_stage(require(FOLDER / role))
