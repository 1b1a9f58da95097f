"""`attention.layers.Layers` for a video transformer, whose self-attention reads all frames at once.

A change gets self-attention with one sample for each clip, which holds the tokens of all frames.
It gets text cross-attention with one sample for each frame, as in a UNet: there each token reads
only the text, so frames can be separated. Where one attention reads clip and text together, a
change gets the tokens of the clip alone. They still read the text, and the text reads what it read.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from ..checkpointing import checkpointed
from ..layers import Attend, Layer, Plan, Site, changed, last_of, layer_at, without_recording
from .sites import Family, blocks, find_sites


class TransformerLayers:
    """The attention layers of a video transformer; see `Layers` for the methods.

    Whoever runs the model must call `attention` instead of the attention kernel. In layers that no
    plan changes, `attention` calls the kernel.
    """

    one_size = True

    def __init__(
        self,
        model: nn.Module,
        family: Family,
        again: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        """`again()` is a context in which blocks can be run a second time, in a backward pass."""
        self.model, self.family, self._within = model, family, again
        self._plan: Plan = ()
        self._rows: tuple[int, ...] = ()
        # The layer whose attention comes next, if a plan changes it, and its plain keys.
        self._here: tuple[Site, Tensor] | None = None
        self._reads_picture = False  # whether that attention is the one to a picture, before it
        self._grid = (1, 1, 1)  # frames, height and width of a clip in tokens

    @property
    def changing(self) -> bool:
        """Whether a plan changes the layer whose attention comes next."""
        return self._here is not None

    def find(self, pattern: str, kind: str) -> tuple[Site, ...]:
        return find_sites(self.model, self.family, pattern, kind)

    def last(self, count: int) -> tuple[Site, ...]:
        return last_of(self.find("*", "spatial"), count)

    @contextmanager
    def installed(self, plan: Plan, rows: Sequence[int]) -> Iterator[None]:
        if self._plan:
            raise ValueError("Attention is already changed. Put both changes into one plan.")
        sites = {site for entry in plan for site in entry.sites}
        hooks = [self.model.register_forward_pre_hook(self._begin, with_kwargs=True)]
        for site in sites:
            layer = layer_at(self.model, site)
            keys = layer.get_submodule(self.family.key_norm)
            hooks.append(keys.register_forward_hook(partial(self._keyed, site)))
            if hasattr(layer, self.family.picture_norm):
                picture = layer.get_submodule(self.family.picture_norm)
                hooks.append(picture.register_forward_hook(self._keyed_by_picture))
        self._plan, self._rows = plan, tuple(rows)
        try:
            yield
        finally:
            self._plan, self._rows, self._here = (), (), None
            self._reads_picture = False
            for hook in hooks:
                hook.remove()

    def checkpointed(self) -> AbstractContextManager[None]:
        # Evaluated when a block runs in the forward pass, so that its second run has the same plan.
        # Without the recorders: what they keep has a graph, and the graph would keep them.
        return checkpointed(
            blocks(self.model, self.family),
            lambda _: self._again(without_recording(self._plan), self._rows, self._grid),
            in_place=self.family.in_place,
        )

    @contextmanager
    def _again(
        self, plan: Plan, rows: tuple[int, ...], grid: tuple[int, int, int]
    ) -> Iterator[None]:
        """The context for a block's second run, with the plan of the first."""
        with self._within(), self.installed(plan, rows):
            self._grid = grid
            yield

    def map_size(self, tokens: int, height: int, width: int) -> tuple[int, int]:
        h, w = self._tokens(height), self._tokens(width)
        # `tokens` are those of one frame in cross-attention, those of all frames in self-attention.
        if tokens % (h * w):
            raise ValueError(
                f"A layer has {tokens} tokens, and {width} x {height} latents are {w} x {h} of "
                "them a frame: they are another clip's."
            )
        return h, w

    def marked_of_read(
        self, site: Site, marked: Bool[Tensor, "f n"], height: int, width: int
    ) -> Bool[Tensor, "1 m"]:
        return rearrange(marked, "f n -> 1 (f n)")

    def attention(
        self, kernel: Attend, q: Tensor, k: Tensor, v: Tensor
    ) -> Float[Tensor, "b h n d"]:
        """The output of the heads `[b, h, n, d]` of the layer that runs now, with all changes."""
        if self._here is None or self._reads_picture:
            self._reads_picture = False
            return kernel(q, k, v)
        (site, keys), self._here = self._here, None
        if site.kind == "cross":
            return self._by_frame(site, kernel, q, k, v)
        if keys.ndim == 3:
            keys = rearrange(keys, "b n (h d) -> b h n d", h=q.shape[1])
        read = self._beside_text if self.family.joint else self._alone
        return read(site, keys, kernel, q, k, v)

    def _alone(
        self, site: Site, keys: Tensor, kernel: Attend, q: Tensor, k: Tensor, v: Tensor
    ) -> Tensor:
        layer = Layer(site, self._rows, self._of_frames(keys), kernel)
        return changed(self._plan, layer, kernel)(q, k, v)

    def _beside_text(
        self, site: Site, keys: Tensor, kernel: Attend, q: Tensor, k: Tensor, v: Tensor
    ) -> Tensor:
        # Which of both comes first has changed with the versions of ComfyUI.
        clip_first = getattr(self.model.double_blocks[0], "flipped_img_txt", False)
        count = math.prod(self._grid)
        clip, text = slice(-count, None), slice(-count)
        if clip_first:
            clip, text = slice(count), slice(count, None)
        k_text, v_text = k[:, :, text], v[:, :, text]

        def beside(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
            if bias is not None:
                bias = functional.pad(bias, (k_text.shape[2], 0))
            return kernel(q, torch.cat([k_text, k], 2), torch.cat([v_text, v], 2), bias)

        layer = Layer(site, self._rows, self._of_frames(keys[:, :, clip]), beside)
        read = changed(self._plan, layer, beside)(*(part[:, :, clip] for part in (q, k, v)))
        both = [kernel(q[:, :, text], k, v), read]
        return torch.cat(both[::-1] if clip_first else both, dim=2)

    def _of_frames(self, keys: Tensor) -> Tensor:
        """Keys of a clip, a sample for each frame."""
        count = math.prod(self._grid)
        if keys.shape[2] != count:
            raise ValueError(
                f"{type(self.model).__name__} reads {keys.shape[2]} tokens for a clip of {count}: "
                "it reads a picture beside it. Leave that out, or what works on attention."
            )
        return rearrange(keys, "b h (f n) d -> (b f) h n d", f=self._grid[0])

    def _by_frame(self, site: Site, kernel: Attend, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        frames = self._grid[0]
        q = rearrange(q, "b h (f n) d -> (b f) h n d", f=frames)
        k, v = (repeat(part, "b h m d -> (b f) h m d", f=frames) for part in (k, v))
        read = changed(self._plan, Layer(site, self._rows), kernel)(q, k, v)
        return rearrange(read, "(b f) h n d -> b h (f n) d", f=frames)

    def _tokens(self, length: int) -> int:
        """Tokens along a side of latents, which are padded to whole ones."""
        patch = self.family.patch or self.model.patch_size[-1]
        return -(-length // patch)

    def _begin(self, model: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
        frames, height, width = (*args, *named.values())[0].shape[2:]
        self._grid = frames, self._tokens(height), self._tokens(width)

    def _keyed(self, site: Site, module: nn.Module, args: Any, keys: Tensor) -> None:
        self._here = site, keys

    def _keyed_by_picture(self, module: nn.Module, args: Any, keys: Tensor) -> None:
        self._reads_picture = True
