"""The tiny Wan's rows in the report of the shape world's models."""

from dataclasses import dataclass

import torch
from einops import rearrange
from measuring import whole_psnr
from rescore.shapeworld import wan
from rescore.shapeworld.edits import prompts
from rescore.shapeworld.render import render
from rescore.shapeworld.scene import Scene, caption
from rescore.shapeworld.train.captions import Captions, shipped_captions

CFG, STEPS = 4.0, 25
SETTINGS = f"cfg {CFG:g}, {STEPS} Euler steps, shift {wan.SCHEDULE['shift']:g}"


def fidelity(clips: int, frames: int) -> list[float]:
    """PSNR in dB of held-out clips through the autoencoder, as diffusers runs it."""
    vae, values = wan.load_vae(), []
    for scene in prompts(clips, frames=frames):
        truth = render(scene).clip
        pixels = rearrange(truth, "f h w c -> 1 c f h w") * 2 - 1
        decoded = vae.decode(vae.encode(pixels).latent_dist.mean).sample
        values.append(whole_psnr(_frames(decoded)[0], truth))
    return values


@dataclass(frozen=True)
class TinyWan:
    """The shipped parts, from a prompt to a clip."""

    vae: torch.nn.Module
    transformer: torch.nn.Module
    captions: Captions

    @classmethod
    def load(cls) -> "TinyWan":
        return cls(wan.load_vae(), wan.load_transformer(), shipped_captions())

    def clips_from(self, scenes: list[Scene], *, frames: int) -> list[torch.Tensor]:
        """Clips from captions and noise, `[f, h, w, 3]` each."""
        text = self.captions([caption(scene) for scene in scenes])
        shape = (len(scenes), 16, (frames + 3) // 4, 8, 8)
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        z = wan.sample(self.transformer, text, self.captions([""]), noise, steps=STEPS, cfg=CFG)
        return list(_frames(self.vae.decode(wan.own(self.vae, z)).sample))


def _frames(pixels: torch.Tensor) -> torch.Tensor:
    return rearrange(pixels / 2 + 0.5, "b c f h w -> b f h w c")
