"""One stage of a cascade: a UNet over pixels, and what it is told beside the noised frames."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from ....attention.unet.layers import UNetLayers
from ..denoiser import Cond, Denoiser, LatentSpace, one_text_a_clip
from ..fingerprint import pieces_of_weights
from ..process import Latents, Level, Prediction, VariancePreserving, noised

# What a stage does, by the name of its role.
ROLES = MappingProxyType(
    {
        "keyframes": "makes keyframes",
        "interpolation": "makes the frames between two keyframes",
        "image-sr": "enlarges one picture",
        "video-sr": "enlarges a clip after its first frame",
    }
)


@dataclass(frozen=True)
class Clipping:
    """How predicted frames are kept in the range of pixels, as the scheduler's settings say.

    `ratio` is None for a plain clip to -`limit`..`limit`. Else each frame is clipped to this
    quantile of its magnitudes, `limit` at most, and scaled back to -1..1 (Saharia et al., 2022,
    Sec. 2.3). A `limit` of None leaves all as it is.
    """

    limit: float | int | None = 1.0
    ratio: float | int | None = None

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "Clipping":
        if config.get("thresholding"):
            limit, ratio = (
                config.get("sample_max_value", 1.0),
                config.get("dynamic_thresholding_ratio", 0.995),
            )
            return cls(limit, ratio)
        return cls(
            config.get("clip_sample_range", 1.0) if config.get("clip_sample", True) else None
        )

    def __call__(self, z_0: Latents) -> Latents:
        if self.limit is None:
            return z_0
        if self.ratio is None:
            return z_0.clamp(-self.limit, self.limit)
        frames = rearrange(z_0.abs().float(), "b c f h w -> b f (c h w)")
        most = torch.quantile(frames, self.ratio, dim=2).clamp(1, max(1, self.limit))
        most = rearrange(most, "b f -> b 1 f 1 1").to(z_0)
        return torch.minimum(torch.maximum(z_0, -most), most) / most


@dataclass(eq=False)
class Stage:
    """A stage of a cascade, in eval mode and not trainable."""

    name: str  # of its folder, for messages
    role: str  # a key of ROLES
    unet: nn.Module
    process: VariancePreserving
    predicts: str  # one of process.KINDS
    clipping: Clipping = Clipping()
    noising: VariancePreserving | None = None  # of the clip to enlarge
    kind: ClassVar[str] = "cascade"

    def modules(self) -> dict[str, nn.Module]:
        """The part that holds weights, by the name that it has in every family of models."""
        return {"network": self.unet}

    @torch.inference_mode(False)
    def to(self, device: torch.device | str) -> None:
        """Move the stage to a device."""
        self.unet.to(device)

    @property
    def device(self) -> torch.device:
        """Where the stage computes."""
        return self.unet.conv_in.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """What it computes in."""
        return self.unet.conv_in.weight.dtype

    @property
    def multiple(self) -> int:
        """What the sides of its frames are multiples of."""
        return 2 ** (len(self.unet.config.block_out_channels) - 1)

    @property
    def width(self) -> int:
        """The channels of its features at full size."""
        return self.unet.config.block_out_channels[0]

    @property
    def text_width(self) -> int:
        """The width of the text embeddings that it reads."""
        return self.unet.config.encoder_hid_dim

    @cached_property
    def fingerprint(self) -> str:
        """A short name of this very stage: equal for equal weights, settings and schedule."""
        digest = sha256(f"{self.role} {self.predicts}".encode())
        digest.update(self.process.alphas_bar.numpy().tobytes())
        settings = {key: v for key, v in self.unet.config.items() if not key.startswith("_")}
        digest.update(repr(sorted(settings.items())).encode())
        for piece in pieces_of_weights([self.unet]):
            digest.update(piece)
        return digest.hexdigest()[:16]

    def denoiser(self, beside: Latents | None = None, label: int | None = None) -> Denoiser:
        """The stage as a loop sees it, with what it is told `beside` the noised frames.

        `label` is the timestep up to which a clip that is to be enlarged was noised.
        """

        def output(z: Latents, t: float, cond: Cond) -> Latents:
            self._check(z, cond)
            here = {"device": self.device, "dtype": self.dtype}
            told = (
                z
                if beside is None
                else torch.cat([z, beside.to(z).expand(len(z), -1, -1, -1, -1)], 1)
            )
            times = torch.full((len(z),), round(t), device=self.device)
            labels = None if label is None else torch.full_like(times, label)
            return self._said(told.to(**here), times, cond.to(**here), labels).to(
                z.device, torch.float32
            )

        space = LatentSpace(3, 1, 1.0, 0.0)
        return Denoiser(
            self.name, self.process, self.predicts, output, space, UNetLayers(self.unet)
        )

    def clipped(self, said: Prediction, z_t: Latents, level: Level) -> Prediction:
        """A prediction with its frames in the range of pixels, and the noise that goes with it."""
        z_0 = self.clipping(said.z_0)
        return Prediction(z_0, (z_t - level.signal * z_0) / level.noise)

    def noised_to(self, frames: Latents, t: int, noise: Latents) -> Latents:
        """Frames that are to be enlarged, noised up to a timestep of their own schedule."""
        return noised(frames, noise, self.noising.level(t))

    def _said(
        self, told: Tensor, times: Tensor, cond: Tensor, labels: Tensor | None
    ) -> Float[Tensor, "b 3 f h w"]:
        """What the UNet says of the frames; the half that tells the variance is left out."""
        if self.role != "image-sr":
            return self.unet(told, times, cond, labels)[:, :3]
        picture = rearrange(told, "b c 1 h w -> b c h w")
        said = self.unet(picture, times, cond, class_labels=labels).sample[:, :3]
        return rearrange(said, "b c h w -> b c 1 h w")

    def _check(self, z: Latents, cond: Cond) -> None:
        height, width = z.shape[-2:]
        if z.shape[1] != 3:
            raise ValueError(
                f"The latents have {z.shape[1]} channels, and {self.name} works on pixels, which "
                "have 3. Encode the clip with this model."
            )
        if height % self.multiple or width % self.multiple:
            raise ValueError(
                f"The frames are {width} x {height}, and {self.name} takes sides that are "
                f"multiples of {self.multiple}. Choose such a size in Pick Keyframes."
            )
        one_text_a_clip(cond, z, self.name)
        if cond.shape[-1] != self.text_width:
            raise ValueError(
                f"The text embeddings are {cond.shape[-1]} wide, {self.name} takes "
                f"{self.text_width}. Encode the prompts with the text encoder of the cascade's "
                "keyframe model (T5)."
            )
