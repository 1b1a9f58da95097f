"""The layouts of the tiny models: which real diffusers classes they are, and at what size.

They are built as their big relatives are: Stable Diffusion's and ModelScope's block types, the
scaled-linear noise schedule, AnimateDiff's linear one, one autoencoder and one text encoder shared.
"""

from typing import TYPE_CHECKING, Any

from .finished import WEIGHTS, require
from .tokenizer import WINDOW

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, MotionAdapter, UNet2DConditionModel, UNet3DConditionModel
    from transformers import CLIPTextModel

    from ..pipelines.models.cascade.model import KeyframeModel
    from ..pipelines.models.unet.backbone import Backbone
    from ..pipelines.models.wan.model import WanModel

NAMES = (
    "shapeworld-t2v",
    "shapeworld-sd",
    "shapeworld-animatediff",
    "shapeworld-wan",
    "shapeworld-cascade",
)

_CHANNELS = (32, 64, 64)
_WIDTH = 64  # of a text token
_UNET: dict[str, Any] = {
    "sample_size": 16,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": _CHANNELS,
    "layers_per_block": 1,
    "norm_num_groups": 16,
    "cross_attention_dim": _WIDTH,
}

SCHEDULE = {
    "_class_name": "DDIMScheduler",
    "num_train_timesteps": 1000,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "prediction_type": "v_prediction",
}
ANIMATEDIFF_SCHEDULE = SCHEDULE | {"beta_schedule": "linear"}


def build_vae() -> "AutoencoderKL":
    """3 x 64 x 64 pixels to 4 x 16 x 16 latents: 12 times fewer numbers."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(32, 48, 64),
        layers_per_block=1,
        norm_num_groups=8,
        sample_size=64,
        mid_block_add_attention=False,
    )


def build_text_encoder(vocabulary: int) -> "CLIPTextModel":
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=vocabulary,
            hidden_size=_WIDTH,
            intermediate_size=2 * _WIDTH,
            projection_dim=_WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=WINDOW,
            bos_token_id=vocabulary - 2,
            eos_token_id=vocabulary - 1,
            pad_token_id=vocabulary - 1,
        )
    )


def build_image_unet() -> "UNet2DConditionModel":
    """Stable Diffusion's UNet; text comes in at 16 x 16 and 8 x 8 (decoder blocks 1 and 2)."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        # Stable Diffusion 1's configurations give the number of heads here: 16 channels a head.
        attention_head_dim=(2, 4, 4),
        **_UNET,
    )


def build_video_unet() -> "UNet3DConditionModel":
    """ModelScope's UNet: the same blocks with temporal convolutions and temporal attention."""
    from diffusers import UNet3DConditionModel

    return UNet3DConditionModel(
        down_block_types=("CrossAttnDownBlock3D", "CrossAttnDownBlock3D", "DownBlock3D"),
        up_block_types=("UpBlock3D", "CrossAttnUpBlock3D", "CrossAttnUpBlock3D"),
        attention_head_dim=16,  # channels a head
        **_UNET,
    )


def build_motion_adapter() -> "MotionAdapter":
    """AnimateDiff's motion modules for `build_image_unet`, with positions for 32 frames."""
    from diffusers import MotionAdapter

    return MotionAdapter(
        block_out_channels=_CHANNELS,
        motion_layers_per_block=1,
        motion_num_attention_heads=4,
        motion_norm_num_groups=16,
        motion_max_seq_length=32,
        use_motion_mid_block=False,
    )


def load_shapeworld(name: str) -> "Backbone | KeyframeModel | WanModel":
    """One of the shipped models, through the loaders that big models come through.

    Raises:
        ValueError: for a name that is none of `NAMES`.
        FileNotFoundError: if the pack was installed without its weights.
    """
    from ..pipelines.models.unet.load import load_animatediff, load_image, load_text_to_video

    if name not in NAMES:
        raise ValueError(f"There is no shape-world model {name!r}; there are {', '.join(NAMES)}.")
    folder = require(WEIGHTS / name)
    if name == "shapeworld-t2v":
        return load_text_to_video(folder)
    image = load_image(WEIGHTS / "shapeworld-sd")
    if name == "shapeworld-sd":
        return image
    if name == "shapeworld-animatediff":
        return load_animatediff(image, folder, schedule_config=ANIMATEDIFF_SCHEDULE)
    from . import cascade, wan

    load = cascade.load_keyframes if name == "shapeworld-cascade" else wan.load_wan
    return load(image.text_encoder, image.tokenizer)
