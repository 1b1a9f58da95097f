"""Inflation: an image model's UNet becomes a video model that keeps what the image model knows.

Convolutions act frame by frame. In every transformer block self-attention reads across frames and
attention along time is added after the feed-forward.
"""

import copy
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, TypeVar

import torch
from einops import rearrange, repeat
from jaxtyping import Float, Int
from torch import Tensor, nn

from ....attention.linear import SpectralLinear
from ....attention.stam import TEMPORAL
from ....attention.temporal import TemporalAttention
from ....attention.unet.video_block import (
    CLIP,
    SPATIAL,
    ClipSize,
    VideoBlock,
    image_blocks,
    video_block,
)

Module = TypeVar("Module", bound=nn.Module)


@dataclass(frozen=True)
class Variant:
    """What is put into an image model: how frames read each other, and what is added along time."""

    spatial: str = "fine-coarse"  # a key of SPATIAL
    temporal: str = "stam"  # a key of TEMPORAL, or "none"
    ratio: int = 2  # of fine-coarse attention; the paper's are 2 and 4

    def __post_init__(self) -> None:
        if self.spatial not in SPATIAL or self.temporal not in (*TEMPORAL, "none"):
            raise ValueError(
                f"There is no variant {self.spatial!r} with {self.temporal!r}; choose one of "
                f"{', '.join(SPATIAL)} and one of {', '.join(TEMPORAL)} or none."
            )
        if self.ratio < 1:
            raise ValueError(f"The ratio is {self.ratio}; it must be 1 (no downsampling) or more.")

    def __str__(self) -> str:
        ratio = f"/{self.ratio}" if self.spatial == "fine-coarse" else ""
        return f"{self.spatial}{ratio} + {self.temporal}"

    @classmethod
    def parse(cls, text: str) -> "Variant":
        """The variant whose `str` this is.

        Raises:
            ValueError: if there is none.
        """
        spatial, _, temporal = text.partition(" + ")
        spatial, _, ratio = spatial.partition("/")
        if ratio and not ratio.isdecimal():
            raise ValueError(f"{text!r} names no variant.")
        return cls(spatial, temporal, int(ratio) if ratio else cls.ratio)


# EI2, each of its parts put alone into Tune-A-Video, and the two ends of attention over frames.
VARIANTS: MappingProxyType[str, Variant] = MappingProxyType(
    {
        "ei2": Variant(),
        "ei2-r4": Variant(ratio=4),
        "tune-a-video": Variant("sparse-causal", "layer-norm"),
        "instance-norm": Variant("sparse-causal", "instance-norm"),
        "centring": Variant("sparse-causal", "centred"),
        "spectral-norm": Variant("sparse-causal", "spectral"),
        "stam": Variant("sparse-causal", "stam"),
        "ffam": Variant("fine-coarse", "layer-norm"),
        "full-space-time": Variant("space-time", "stam"),
        "per-frame": Variant("frame", "layer-norm"),
        "ei2-as-printed": Variant(temporal="stam-as-printed"),
    }
)


@dataclass(frozen=True)
class Tuning:
    """What a model was tuned on, and for how long."""

    prompt: str
    frames: int
    height: int  # of the latents, as the width
    width: int
    step: int


class VideoUNet(nn.Module):
    """An inflated UNet: noise of a clip, `(z [b,c,f,h,w], t, cond) -> [b,c,f,h,w]`.

    Its layers have the names they have in the image model. Any number of frames, any size.
    """

    def __init__(self, unet: nn.Module, variant: Variant) -> None:
        super().__init__()
        # Not as a child: the UNet's children become this module's, under their own names.
        self.__dict__["_unet"] = unet
        for name, child in unet.named_children():
            self.add_module(name, child)
        self.variant = variant
        self.base = ""  # fingerprint of the model that was inflated
        self.tuning: Tuning | None = None

    @property
    def config(self) -> Any:
        """The image model's settings, and the variant."""
        return self._unet.config

    @property
    def blocks(self) -> dict[str, VideoBlock]:
        """The transformer blocks by name."""
        return {name: m for name, m in self.named_modules() if isinstance(m, VideoBlock)}

    @property
    def temporal(self) -> dict[str, TemporalAttention]:
        """The modules along time by name."""
        return {name: m for name, m in self.named_modules() if isinstance(m, TemporalAttention)}

    def forward(
        self,
        z: Float[Tensor, "b c f h w"],
        t: int | Int[Tensor, " b"],
        cond: Float[Tensor, "..."],
    ) -> Float[Tensor, "b c f h w"]:
        """What the model predicts; `cond` is a text embedding for each clip or for each frame."""
        clips, _, frames, height, width = z.shape
        images = rearrange(z, "b c f h w -> (b f) c h w")
        times = torch.full((clips,), t, device=z.device) if isinstance(t, int) else t
        if cond.ndim == 3:
            cond = repeat(cond, "b l d -> b f l d", f=frames)
        prediction = self._unet(
            images,
            repeat(times, "b -> (b f)", f=frames),
            rearrange(cond, "b f l d -> (b f) l d"),
            cross_attention_kwargs={CLIP: ClipSize(frames, height, width)},
            return_dict=False,
        )[0]
        return rearrange(prediction, "(b f) c h w -> b c f h w", b=clips)

    def trainable(self) -> dict[str, nn.Parameter]:
        """What one-shot tuning trains: W_Q of both attentions and all of what is added along time.

        (EI2, Zhang et al., 2023, Sec. 5.) Whether or not they require gradients at the moment.
        """
        return {name: p for name, p in self.named_parameters() if _is_trained(name)}

    def tuned_state(self) -> dict[str, Tensor]:
        """Everything that tuning changes, by name: `trainable`, and what spectral norms keep."""
        return {name: tensor for name, tensor in self.state_dict().items() if _is_trained(name)}

    def refine_norms(self) -> None:
        """Update the spectral norms after the weights have changed."""
        for block in self.blocks.values():
            block.refine_norms()

    def checkpointing(self, on: bool) -> None:
        """Whether features are computed again in the backward pass instead of being stored."""
        (
            self._unet.enable_gradient_checkpointing
            if on
            else self._unet.disable_gradient_checkpointing
        )()

    @torch.inference_mode(False)
    def fork(self) -> "VideoUNet":
        """The same model with a copy of what tuning changes; the rest is shared and only read."""
        return _shared_copy(self, set(self.tuned_state()))

    @torch.inference_mode(False)
    def with_tuned(self, state: dict[str, Tensor], tuning: Tuning | None = None) -> "VideoUNet":
        """This model with other tuned weights; this one stays as it is.

        Its spectral norms are exact, which during tuning they follow only step by step.

        Raises:
            ValueError: if the weights are not of this variant and base.
        """
        model = self.restored(state)
        for layer in model.modules():
            if isinstance(layer, SpectralLinear):
                layer.settle()
        model.tuning = tuning
        return model

    @torch.inference_mode(False)
    def restored(self, state: dict[str, Tensor]) -> "VideoUNet":
        """The same with everything as a run left it, so that the run can go on bit for bit."""
        check_tuned(self, state)
        model = self.fork()
        with torch.no_grad():
            for name, tensor in model.tuned_state().items():
                tensor.copy_(state[name])
        return model


@torch.inference_mode(False)
def inflate(unet: nn.Module, variant: str | Variant = "ei2", *, seed: int = 0) -> VideoUNet:
    """A video model from the UNet of a Stable Diffusion 1.x model, which stays as it is.

    Frozen weights are shared with it and only read; what tuning changes is copied, in float32.
    Weights along time are drawn with `seed`. Nothing requires gradients.

    Before any tuning the video model gives what the image model gives frame by frame: bit for bit
    with variant "per-frame"; to within rounding with every variant but "spectral-norm" on one
    frame, and on clips that stand still (but for fine-coarse attention, which also sees their
    coarse tokens). On moving clips the other variants begin by letting frames read each other.

    Raises:
        ValueError: for a UNet that is inflated already, or is none of that kind.
    """
    if isinstance(variant, str):
        if variant not in VARIANTS:
            raise ValueError(
                f"There is no variant {variant!r}; choose one of {', '.join(VARIANTS)}."
            )
        variant = VARIANTS[variant]
    if isinstance(unet, VideoUNet):
        raise ValueError(
            f"The model is inflated already ({unet.variant}). Inflate the image model itself."
        )
    image_blocks(unet)
    copied = _shared_copy(unet, set())
    generator = torch.Generator().manual_seed(seed)
    temporal = None if variant.temporal == "none" else TEMPORAL[variant.temporal]
    for blocks in image_blocks(copied):
        for i, block in enumerate(blocks):
            blocks[i] = video_block(block, variant.spatial, variant.ratio, temporal, generator)
    copied.register_to_config(inflation=str(variant))
    return VideoUNet(copied.requires_grad_(False), variant).eval()


def inflate_backbone(backbone: Any, variant: str | Variant = "ei2", *, seed: int = 0) -> Any:
    """A `Backbone` of an inflated model, from an image model's, which stays as it is.

    Raises:
        ValueError: if it is of another kind than "image", and as `inflate`.
    """
    if backbone.kind == "inflated":
        raise ValueError(
            f"{backbone.name} is inflated already ({backbone.unet.variant}). Wire the image model "
            "itself to Inflate Image Model."
        )
    if backbone.kind != "image":
        raise ValueError(
            f"{backbone.name} is a model of kind {backbone.kind!r} and knows time by itself. Only "
            "image models (Stable Diffusion 1.x) are inflated: use Load Image Model."
        )
    unet = inflate(backbone.unet, variant, seed=seed)
    unet.base = backbone.fingerprint
    return replace(backbone, kind="inflated", unet=unet)


def check_tuned(model: VideoUNet, state: dict[str, Tensor]) -> None:
    """Raise ValueError unless tuned weights have the names and shapes this model's have."""
    wanted = model.tuned_state()
    missing, unknown = sorted(wanted.keys() - state.keys()), sorted(state.keys() - wanted.keys())
    if missing or unknown:
        what = f"lack {missing[0]}" if missing else f"have {unknown[0]}, which it has not"
        raise ValueError(
            f"The tuned weights belong to another variant or base than this model ({model.variant})"
            f": they {what}. Inflate the model they were tuned on with the variant they were tuned "
            "with."
        )
    for name, tensor in wanted.items():
        if tensor.shape != state[name].shape:
            raise ValueError(
                f"The tuned weights belong to another base model: {name} has shape "
                f"{list(state[name].shape)}, and {list(tensor.shape)} here. Use the model they "
                "were tuned on."
            )


@torch.no_grad()
def frozen_sample(model: VideoUNet) -> Float[Tensor, " n"]:
    """One number of every frozen weight: two models with the same are inflated from the same one.

    Unlike a fingerprint it can be compared across precisions: see `same_base`.
    """
    frozen = [p.flatten() for name, p in model.named_parameters() if not _is_trained(name)]
    return torch.stack([weight[len(weight) // 2].float().cpu() for weight in frozen])


def same_base(model: VideoUNet, sample: Float[Tensor, " n"]) -> bool:
    """Whether a `frozen_sample` is this model's, as far as half precision can tell."""
    mine = frozen_sample(model)
    return mine.shape == sample.shape and torch.allclose(mine, sample, rtol=2**-7, atol=1e-6)


def _is_trained(name: str) -> bool:
    return ".temporal." in name or ".attn1.to_q." in name or ".attn2.to_q." in name


def _shared_copy(module: Module, own: set[str]) -> Module:
    """A copy that shares the tensors of `module`, but for those named in `own`, which are copied.

    Still, each has parameters of its own: moving one to another device leaves the other.
    """
    known: dict[int, Any] = {}
    for name, parameter in module.named_parameters():
        data = parameter.detach()
        known[id(parameter)] = nn.Parameter(
            data.clone() if name in own else data, requires_grad=False
        )
    for name, buffer in module.named_buffers():
        known[id(buffer)] = buffer.clone() if name in own else buffer
    return copy.deepcopy(module, known)
