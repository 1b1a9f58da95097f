"""An image model edits a few frames together; the others take their features by correspondence.

After TokenFlow (Geyer et al., 2024), from the paper; no code of it was read. An image model inverts
every frame. Denoising under the target prompt, all self-attention of the key frames reads all key
frames (Sec. 4.1). Every other frame takes what the heads read at the tokens of its two key frames
that were nearest in the source, by cosine, weighed by the distance in time (Sec. 4.2, Eq. 2 and 3).
In the first part of the steps attention has the source's queries and keys (Tumanyan et al., 2023).
Deviation: key frames are evenly spaced and always the same, where the paper draws them each step.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from einops import rearrange
from jaxtyping import Float, Int
from rescore.attention.counterparts import Counterparts, Parts
from rescore.attention.layers import Clip, Entry, Held, Layers, Site, attend
from rescore.pipelines.inversion.attention_sampling import sample_edit
from rescore.pipelines.inversion.ddim_inversion import ddim_invert
from rescore.pipelines.models.denoiser import Denoiser, Prompts
from rescore.pipelines.models.process import Latents
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class TokenPropagation:
    """The control, from `start` to `end`; `inject` takes the source's queries and keys."""

    inject: bool
    start: float = 0.0
    end: float = 1.0
    spacing: int = 4  # frames from one key frame to the next
    name: ClassVar[str] = "Token propagation"
    reads: ClassVar[tuple[str, ...]] = ("uncond", "cond")

    def on(self, layers: Layers, clip: Clip) -> Held:
        sites = layers.find("*", "spatial")
        return lambda pairs, frames: Entry(sites, self._change(pairs))

    def _change(self, pairs: Mapping[int, int]) -> Counterparts:
        def read(site: Site, own: Parts, source: Parts, unchanged: Callable[[], Tensor]) -> Tensor:
            q, k, v = (*source[:2], own[2]) if self.inject else own
            keys = key_frames(len(v), self.spacing)
            context = [rearrange(part[keys], "f h n d -> 1 h (f n) d") for part in (k, v)]
            at_keys = attend(q[keys], *(part.expand(len(keys), -1, -1, -1) for part in context))
            return propagated(at_keys, attend(*source), keys)

        return Counterparts(pairs, read)


def key_frames(frames: int, spacing: int) -> list[int]:
    """The first frame, every `spacing`-th after it, and the last."""
    return sorted({*range(0, frames, spacing), frames - 1})


def propagated(
    at_keys: Float[Tensor, "k h n d"], source: Float[Tensor, "f h n d"], keys: list[int]
) -> Float[Tensor, "f h n d"]:
    """What all frames read, from what key frames read and where their tokens lay in the source."""
    features = functional.normalize(rearrange(source, "f h n d -> f n (h d)"), dim=-1)
    frames = []
    for frame in range(len(source)):
        after = next(i for i, key in enumerate(keys) if key >= frame)
        before = after if keys[after] == frame else after - 1
        near = [at_keys[i][:, nearest(features[frame], features[keys[i]])] for i in (before, after)]
        gap = max(keys[after] - keys[before], 1)
        share = (frame - keys[before]) / gap
        frames.append(torch.lerp(*near, share) if before != after else at_keys[after])
    return torch.stack(frames)


def nearest(tokens: Float[Tensor, "n c"], others: Float[Tensor, "m c"]) -> Int[Tensor, " n"]:
    """For each token the one of the others with the largest cosine; all have length 1."""
    return (tokens @ others.T).argmax(dim=1)


def edit_by_propagation(
    z_0: Latents,
    denoiser: Denoiser,
    prompts: Prompts,
    *,
    steps: int,
    cfg: float,
    injected: float = 0.5,
) -> Latents:
    """A clip edited frame by frame by an image model, held together by its source's tokens."""
    path = ddim_invert(z_0, partial(denoiser, cond=prompts.source), denoiser.process.grid(steps))
    controls = (TokenPropagation(True, 0, injected), TokenPropagation(False, injected, 1))
    return sample_edit(path, denoiser, prompts, cfg, controls)
