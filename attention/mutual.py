"""Self-attention with the source: first its layout (SA-I), then its background (SA-II)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Shaped
from torch import Tensor
from torch.nn import functional

from .counterparts import Counterparts, Parts
from .layers import Clip, Entry, Held, Layer, Layers, Site, attend, check_times


def mutual_attention(
    q: Float[Tensor, "b h n d"],
    k_source: Float[Tensor, "b h m d"],
    v_source: Float[Tensor, "b h m d"],
    k_target: Float[Tensor, "b h l d"],
    v_target: Float[Tensor, "b h l d"],
    source_foreground: Shaped[Tensor, "#b m"],
    attend: Callable[..., Tensor] = attend,
) -> Float[Tensor, "b h n d"]:
    """Attention to the background tokens of the source and to the target's own tokens.

    Implements SA-II of VideoDirector (Wang et al., 2025, Eq. 6, second case): one softmax over the
    keys of both. `source_foreground` is true where the source must not be read. The logits there
    are minus infinity, which is the meaning of the paper's product with the mask. If all of the
    source is foreground, this is plain attention to the target. `attend` is that of a `Layer`.
    """
    hidden = source_foreground.to(q.device)
    hidden = hidden if hidden.dtype == torch.bool else hidden > 0.5
    seen = functional.pad(~hidden, (0, k_target.shape[2]), value=True)
    # One bias for all queries: kernels broadcast it.
    bias = torch.zeros(seen.shape, dtype=q.dtype, device=q.device).masked_fill(~seen, -torch.inf)
    return attend(
        q,
        torch.cat([k_source, k_target], dim=2),
        torch.cat([v_source, v_target], dim=2),
        rearrange(bias, "b m -> b 1 1 m").expand(-1, -1, q.shape[2], -1),
    )


def source_layout(pairs: Mapping[int, int], coarse: Callable[[int], bool]) -> Counterparts:
    """SA-I: clips use the self-attention maps of their counterparts on their own values.

    VideoDirector, Eq. 6, first case. A layer of so many tokens changes only if it is `coarse`: the
    maps of fine layers show texture rather than layout.
    """

    def read(layer: Layer, own: Parts, source: Parts, unchanged: Callable[[], Tensor]) -> Tensor:
        if not coarse(own[0].shape[2]):
            return unchanged()
        return layer.attend(source[0], source[1], own[2])

    return Counterparts(pairs, read)


def mutual(
    pairs: Mapping[int, int], foreground: Callable[[Site, int], Bool[Tensor, "s m"]]
) -> Counterparts:
    """SA-II: clips attend to the background of their counterpart and to themselves.

    `foreground(site, tokens)` says which of the tokens that each sample reads are foreground of the
    source. In an inflated model, these are also tokens of other frames.
    """

    def read(layer: Layer, own: Parts, source: Parts, unchanged: Callable[[], Tensor]) -> Tensor:
        q, k, v = own
        hidden = foreground(layer.site, q.shape[2])
        return mutual_attention(q, source[1], source[2], k, v, hidden, layer.attend)

    return Counterparts(pairs, read)


def foreground_tokens(covered: Float[Tensor, "f n"]) -> Bool[Tensor, "f n"]:
    """Which tokens count as foreground, from the share of each token that a mask covers.

    These are the tokens covered by half or more. In a frame without such a token, the tokens with
    the largest share count. So an object that is smaller than a token is not lost.
    """
    most = covered.amax(dim=1, keepdim=True)
    return (covered >= most.clamp(max=0.5)) & (covered > 0)


@dataclass(frozen=True)
class SourceLayout:
    """SA-I as a control: until `end`, the edit with its prompt uses the maps of the source.

    Its `end` is tau_s of VideoDirector, which is chosen for each clip from 0.2 to 0.5 (Sec. 4).
    `max_tokens` is from the authors' code.
    """

    end: float = 0.4
    # Layers with more tokens a frame do not change. In a model of one size all do, unless it is 0.
    max_tokens: int = 32 * 32
    start: float = 0.0
    name: ClassVar[str] = "SA-I (layout)"
    reads: ClassVar[tuple[str, ...]] = ("cond",)

    def __post_init__(self) -> None:
        check_times(self)
        if self.max_tokens < 0:
            raise ValueError(
                f"SA-I acts in layers of at most {self.max_tokens} tokens; it must be 0 or more."
            )

    def on(self, layers: Layers, clip: Clip) -> Held:
        """The control in all spatial layers."""
        sites = layers.find("*", "spatial")

        def coarse(tokens: int) -> bool:
            if layers.one_size:
                return self.max_tokens > 0
            height, width = layers.map_size(tokens, *clip.latent[1:])
            return height * width <= self.max_tokens

        return lambda pairs, frames: Entry(sites, source_layout(pairs, coarse))


@dataclass(frozen=True, eq=False)
class SourceBackground:
    """SA-II as a control: from `start` on, the edit also reads the background of the source.

    Its `start` is tau_s of VideoDirector; `sites` are those of the authors' code.
    """

    start: float = 0.4
    mask: Float[Tensor, "n H W"] | None = None  # the foreground, which is not read from the source
    sites: str = "decoder"
    end: float = 1.0
    name: ClassVar[str] = "SA-II (background)"
    reads: ClassVar[tuple[str, ...]] = ("uncond", "cond")

    def __post_init__(self) -> None:
        check_times(self)

    def on(self, layers: Layers, clip: Clip) -> Held:
        """The control in the spatial layers that `sites` names."""
        sites = layers.find(self.sites, "spatial")
        hidden = _Hidden(self.mask, layers, clip)
        return lambda pairs, frames: Entry(sites, mutual(pairs, partial(hidden, frames)))


class _Hidden:
    """Computes which of the source's tokens the edit must not read at a layer."""

    def __init__(self, mask: Float[Tensor, "n H W"] | None, layers: Layers, clip: Clip) -> None:
        self.mask, self.layers, self.clip = mask, layers, clip
        self._foreground: dict[int, Tensor] = {}
        if mask is not None:
            clip.covered_tokens(mask, 1, 1)  # raises an error at once if the mask does not fit

    def __call__(self, frames: slice | list[int], site: Site, tokens: int) -> Bool[Tensor, "f m"]:
        length, height, width = self.clip.latent
        size = self.layers.map_size(tokens, height, width)
        if tokens not in self._foreground:
            hidden = torch.zeros(length, size[0] * size[1], dtype=torch.bool)
            if self.mask is not None:
                hidden = foreground_tokens(self.clip.covered_tokens(self.mask, *size))
            self._foreground[tokens] = hidden
        return self.layers.marked_of_read(site, self._foreground[tokens][frames], *size)
