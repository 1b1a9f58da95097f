"""`attention.layers.Layers` for a video transformer, whose self-attention reads all frames at once.

A change gets self-attention with one sample for each clip, which holds the tokens of all frames.
It gets text cross-attention with one sample for each frame, as in a UNet: there each token reads
only the text, so frames can be separated.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

from einops import rearrange, repeat
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ..checkpointing import checkpointed
from ..layers import Attend, Layer, Plan, Site, changed, last_of, layer_at, without_recording
from .sites import Family, find_sites


class TransformerLayers:
    """The attention layers of a video transformer; see `Layers` for the methods.

    Whoever runs the model must call `attention` instead of the attention kernel. In layers that no
    plan changes, `attention` calls the kernel.
    """

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
        self._here: Site | None = None  # the layer that runs now, if a plan changes it
        self._keys: Tensor | None = None  # its keys without rotary positions
        self._grid = (1, 1, 1)  # frames, height and width of a clip in tokens

    @property
    def changing(self) -> bool:
        """Whether a plan changes the layer that runs now."""
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
        hooks = [getattr(self.model, self.family.embedding).register_forward_hook(self._embedded)]
        for site in sites:
            layer = layer_at(self.model, site)
            hooks.append(layer.register_forward_pre_hook(partial(self._enter, site)))
            hooks.append(layer.register_forward_hook(self._leave))
            if site.kind == "spatial":
                keys = getattr(layer, self.family.key_norm)
                hooks.append(keys.register_forward_hook(self._keyed))
        self._plan, self._rows = plan, tuple(rows)
        try:
            yield
        finally:
            self._plan, self._rows = (), ()
            self._here = self._keys = None
            for hook in hooks:
                hook.remove()

    def checkpointed(self) -> AbstractContextManager[None]:
        # Evaluated when a block runs in the forward pass, so that its second run has the same plan.
        # Without the recorders: what they keep has a graph, and the graph would keep them.
        return checkpointed(
            [*getattr(self.model, self.family.block)],
            lambda _: self._again(without_recording(self._plan), self._rows, self._grid),
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
        patch = self.family.patch
        h, w = -(-height // patch), -(-width // patch)
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
        if self._here is None:
            return kernel(q, k, v)
        site = self._here
        if site.kind == "cross":
            return self._by_frame(site, kernel, q, k, v)
        keys = rearrange(self._keys, "b (f n) (h d) -> (b f) h n d", f=self._grid[0], h=q.shape[1])
        return changed(self._plan, Layer(site, self._rows, keys), kernel)(q, k, v)

    def _by_frame(self, site: Site, kernel: Attend, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        frames = self._grid[0]
        q = rearrange(q, "b h (f n) d -> (b f) h n d", f=frames)
        k, v = (repeat(part, "b h m d -> (b f) h m d", f=frames) for part in (k, v))
        read = changed(self._plan, Layer(site, self._rows), kernel)(q, k, v)
        return rearrange(read, "(b f) h n d -> b h (f n) d", f=frames)

    def _enter(self, site: Site, module: nn.Module, args: Any) -> None:
        self._here = site

    def _leave(self, module: nn.Module, args: Any, output: Any) -> None:
        self._here = self._keys = None

    def _keyed(self, module: nn.Module, args: Any, keys: Tensor) -> None:
        self._keys = keys

    def _embedded(self, module: nn.Module, args: Any, tokens: Tensor) -> None:
        self._grid = tuple(tokens.shape[2:])
