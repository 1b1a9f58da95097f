"""Inflation: make a video model from the UNet of an image model, with its weights.

Convolutions act frame by frame. In every transformer block, self-attention also reads other frames,
and temporal attention is added after the feed-forward layer.
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
from ....attention.unet.clip_norm import ClipGroupNorm, normalise_over_clips
from ....attention.unet.video_block import (
    CLIP,
    SPATIAL,
    ClipSize,
    VideoBlock,
    image_blocks,
    video_block,
)
from ..storage import is_in_fp8

Module = TypeVar("Module", bound=nn.Module)


@dataclass(frozen=True)
class Variant:
    """What inflation changes: the tokens that self-attention reads, the temporal module, norms."""

    spatial: str = "fine-coarse"  # a key of SPATIAL
    temporal: str = "stam"  # a key of TEMPORAL, or "none"
    ratio: int = 2  # of fine-coarse attention; the paper's are 2 and 4
    clip_norms: bool = False  # residual blocks normalise over the clip, not frame by frame

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
        norms = " + clip norms" if self.clip_norms else ""
        return f"{self.spatial}{ratio} + {self.temporal}{norms}"

    @classmethod
    def parse(cls, text: str) -> "Variant":
        """The variant with this `str`.

        Raises:
            ValueError: if there is none.
        """
        spatial, _, temporal = text.partition(" + ")
        temporal, norms, _ = temporal.partition(" + clip norms")
        spatial, _, ratio = spatial.partition("/")
        if ratio and not ratio.isdecimal():
            raise ValueError(f"{text!r} names no variant.")
        return cls(spatial, temporal, int(ratio) if ratio else cls.ratio, bool(norms))


# EI2; Tune-A-Video as its authors' code builds it; the same with norms frame by frame and a bias
# of zero, also with single parts of EI2; full and per-frame self-attention.
VARIANTS: MappingProxyType[str, Variant] = MappingProxyType(
    {
        "ei2": Variant(),
        "ei2-r4": Variant(ratio=4),
        "tune-a-video": Variant("sparse-causal", "tune-a-video", clip_norms=True),
        "layer-norm": Variant("sparse-causal", "layer-norm"),
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
    """An inflated UNet, `(z [b,c,f,h,w], t, cond) -> [b,c,f,h,w]`, for clips of any size.

    Its layers have the same names as in the image model.
    """

    def __init__(self, unet: nn.Module, variant: Variant) -> None:
        super().__init__()
        # Not registered as a submodule: its children are, under their own names.
        self.__dict__["_unet"] = unet
        for name, child in unet.named_children():
            self.add_module(name, child)
        self.variant = variant
        self.base = ""  # fingerprint of the model that was inflated
        self.tuning: Tuning | None = None

    @property
    def config(self) -> Any:
        """The settings of the image model, with the variant."""
        return self._unet.config

    @property
    def blocks(self) -> dict[str, VideoBlock]:
        """The transformer blocks, by name."""
        return {name: m for name, m in self.named_modules() if isinstance(m, VideoBlock)}

    @property
    def temporal(self) -> dict[str, TemporalAttention]:
        """The temporal modules, by name."""
        return {name: m for name, m in self.named_modules() if isinstance(m, TemporalAttention)}

    @property
    def clip_norms(self) -> list[ClipGroupNorm]:
        """The layers that normalise over a clip, and must know its frames."""
        return [m for m in self.modules() if isinstance(m, ClipGroupNorm)]

    def forward(
        self,
        z: Float[Tensor, "b c f h w"],
        t: int | Int[Tensor, " b"],
        cond: Float[Tensor, "..."],
    ) -> Float[Tensor, "b c f h w"]:
        """The output of the model; `cond` is a text embedding for each clip or for each frame."""
        clips, _, frames, height, width = z.shape
        images = rearrange(z, "b c f h w -> (b f) c h w")
        for norm in self.clip_norms:
            norm.frames = frames
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
        """The weights for one-shot tuning: W_Q of both attentions, and the temporal modules.

        (EI2, Zhang et al., 2023, Sec. 5.) They are listed even if they require no gradients now.
        """
        return {name: p for name, p in self.named_parameters() if _is_trained(name)}

    def tuned_state(self) -> dict[str, Tensor]:
        """All tensors that tuning changes, by name: `trainable` and those of spectral norms."""
        return {name: tensor for name, tensor in self.state_dict().items() if _is_trained(name)}

    def refine_norms(self) -> None:
        """Update the spectral norms after the weights have changed."""
        for block in self.blocks.values():
            block.refine_norms()

    def checkpointing(self, on: bool) -> None:
        """Switch gradient checkpointing on or off."""
        (
            self._unet.enable_gradient_checkpointing
            if on
            else self._unet.disable_gradient_checkpointing
        )()

    @torch.inference_mode(False)
    def fork(self) -> "VideoUNet":
        """A copy for tuning: all that tuning changes is copied, all other weights are shared."""
        return _shared_copy(self, set(self.tuned_state()))

    @torch.inference_mode(False)
    def with_tuned(self, state: dict[str, Tensor], tuning: Tuning | None = None) -> "VideoUNet":
        """A copy of this model with other tuned weights.

        Its spectral norms are computed exactly; during tuning they are only approximate.

        Raises:
            ValueError: if the weights belong to another variant or base model.
        """
        model = self.restored(state)
        for layer in model.modules():
            if isinstance(layer, SpectralLinear):
                layer.settle()
        model.tuning = tuning
        return model

    @torch.inference_mode(False)
    def restored(self, state: dict[str, Tensor]) -> "VideoUNet":
        """A copy with all tensors exactly as a run left them, to continue it bit for bit."""
        check_tuned(self, state)
        model = self.fork()
        with torch.no_grad():
            for name, tensor in model.tuned_state().items():
                tensor.copy_(state[name])
        return model


@torch.inference_mode(False)
def inflate(unet: nn.Module, variant: str | Variant = "ei2", *, seed: int = 0) -> VideoUNet:
    """A video model from the UNet of a Stable Diffusion 1.x model, which does not change.

    Frozen weights are shared with it; weights that tuning changes are copied, in float32. The
    weights of temporal modules are drawn with `seed`. Nothing requires gradients.

    Before tuning, variant "per-frame" gives exactly the output of the image model, frame by frame.
    All other variants except "spectral-norm" and "tune-a-video", whose time layers begin with a
    drawn bias, do so for one frame, up to rounding. For clips that stand still they do so, too,
    except with fine-coarse attention, which also reads coarse tokens.
    In moving clips their frames read each other from the beginning.

    Raises:
        ValueError: for a UNet that is inflated already, stored in 8 bits, or not of this kind.
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
    if is_in_fp8(unet):
        raise ValueError(
            "The model's weights are stored in 8 bits, which cannot be tuned. Load it with "
            "precision bf16 or fp32."
        )
    image_blocks(unet)
    copied = _shared_copy(unet, set())
    generator = torch.Generator().manual_seed(seed)
    temporal = None if variant.temporal == "none" else TEMPORAL[variant.temporal]
    for blocks in image_blocks(copied):
        for i, block in enumerate(blocks):
            blocks[i] = video_block(block, variant.spatial, variant.ratio, temporal, generator)
    if variant.clip_norms:
        normalise_over_clips(copied)
    copied.register_to_config(inflation=str(variant))
    return VideoUNet(copied.requires_grad_(False), variant).eval()


def inflate_backbone(backbone: Any, variant: str | Variant = "ei2", *, seed: int = 0) -> Any:
    """The `Backbone` of an inflated model, from that of an image model, which does not change.

    Raises:
        ValueError: if its kind is not "image", and as `inflate`.
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
    """Raise ValueError unless tuned weights have the names and shapes of this model's."""
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
    """One number of every frozen weight, to recognise the base model.

    Unlike a fingerprint, it can be compared between precisions: see `same_base`.
    """
    frozen = [p.flatten() for name, p in model.named_parameters() if not _is_trained(name)]
    return torch.stack([weight[len(weight) // 2].float().cpu() for weight in frozen])


def same_base(model: VideoUNet, sample: Float[Tensor, " n"]) -> bool:
    """Whether a `frozen_sample` is that of this model, up to the rounding of half precision."""
    mine = frozen_sample(model)
    return mine.shape == sample.shape and torch.allclose(mine, sample, rtol=2**-7, atol=1e-6)


def _is_trained(name: str) -> bool:
    return ".temporal." in name or ".attn1.to_q." in name or ".attn2.to_q." in name


def _shared_copy(module: Module, own: set[str]) -> Module:
    """A copy that shares the tensors of `module`, except those named in `own`, which are copied.

    Both have their own parameter objects: moving one module to another device leaves the other.
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
