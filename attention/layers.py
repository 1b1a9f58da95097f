"""The interfaces between changes of attention and families of models.

A plan says which layers are changed, and how. A change keeps no counters: what it needs to know of
a call, such as the clips in the batch, is passed to it.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from types import MappingProxyType
from typing import NamedTuple, Protocol, TypeAlias, runtime_checkable

from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

KINDS = MappingProxyType(
    {
        "spatial": "spatial self-attention",
        "cross": "text cross-attention",
        "temporal": "temporal self-attention",
    }
)
# From queries `[b, h, n, d]`, keys and values `[b, h, m, d]` to the output of the heads
# `[b, h, n, d]`.
Attend: TypeAlias = Callable[[Tensor, Tensor, Tensor], Tensor]


def attend(
    q: Float[Tensor, "b h n d"],
    k: Float[Tensor, "b h m d"],
    v: Float[Tensor, "b h m d"],
    bias: Float[Tensor, "#b #h #n m"] | None = None,
) -> Float[Tensor, "b h n d"]:
    """softmax(q k^T / sqrt(d) + bias) v, by torch's fused kernels, which never store the maps."""
    return functional.scaled_dot_product_attention(q, k, v, attn_mask=bias)


@dataclass(frozen=True)
class Site:
    """An attention layer: its full name in the model, and its kind, a key of `KINDS`.

    `block` is the number of its block in its half of the model; 0 in models without such blocks.
    """

    name: str
    kind: str
    block: int = 0


class Layer(NamedTuple):
    """An attention layer during a call: where it is, and which clips it gets.

    `rows` are the numbers of the clips in the order of the batch. The batch has the same number of
    samples for each clip, one clip after another. A sample is a frame, in temporal attention a
    position, and in attention over all frames the whole clip. `keys` are only given if the keys of
    the attention differ from the layer's plain keys, because they contain positions, belong to all
    frames at once or to other frames, too, or stand behind those of the text: then they are the
    plain keys (of the image), with a sample for each frame. `attend` is the attention of the layer
    without changes. It also reads what the layer reads beside the clip, such as a text, whatever
    keys and values it gets.
    """

    site: Site
    rows: tuple[int, ...]
    keys: Float[Tensor, "b h n d"] | None = None
    attend: Callable[..., Tensor] = attend


# A change of a layer: from q `[b, h, n, d]`, k and v `[b, h, m, d]` it computes the output of the
# heads, `[b, h, n, d]`. Its last argument computes the output without the change.
Change: TypeAlias = Callable[[Layer, Tensor, Tensor, Tensor, Attend], Tensor]


class Entry(NamedTuple):
    """One line of a plan: a change, and the layers that it changes.

    A change that records tensors with their graph also needs `again`: the same computation without
    recording, for the second run of a checkpointed layer. A graph keeps a reference to what it will
    run again. If that were the change itself, the graph would keep itself alive and never be freed.
    """

    sites: Sequence[Site]
    change: Change
    again: Change | None = None


Plan: TypeAlias = Sequence[Entry]
# A control in one model. From the counterpart of each clip that it changes, and the frames of the
# call, it makes its line of a plan.
Held: TypeAlias = Callable[[Mapping[int, int], slice | list[int]], Entry]


@runtime_checkable
class Layers(Protocol):
    """The attention layers of one model."""

    one_size: bool  # whether all have equally many tokens a frame, so that none is coarse or fine

    def find(self, pattern: str, kind: str) -> tuple[Site, ...]:
        """The layers of a kind that match a pattern, in the order in which they run.

        `pattern` is a named set of the family ("decoder", "late"), or a pattern as for file names
        (`*`, `?`, `[12]`). Several are separated by blanks or commas.

        Raises:
            ValueError: if `kind` is unknown, or a pattern matches no layer of that kind.
        """
        ...

    def last(self, count: int) -> tuple[Site, ...]:
        """The last `count` spatial self-attention layers, in the order in which they run.

        Raises:
            ValueError: if `count` is less than 1 or more than there are.
        """
        ...

    def installed(self, plan: Plan, rows: Sequence[int]) -> AbstractContextManager[None]:
        """Within the `with`, attention is changed by a plan; after it, it is as before.

        `rows` are the numbers of the clips in every call of the model inside the `with`.
        """
        ...

    def checkpointed(self) -> AbstractContextManager[None]:
        """Within the `with`, layers store no activations for gradients; they are run again."""
        ...

    def map_size(self, tokens: int, height: int, width: int) -> tuple[int, int]:
        """Height and width of a layer's token map, for latents of the given height and width.

        Raises:
            ValueError: if a layer of this model cannot have that many tokens.
        """
        ...

    def marked_of_read(
        self, site: Site, marked: Bool[Tensor, "f n"], height: int, width: int
    ) -> Bool[Tensor, "f m"]:
        """Among the tokens that each frame reads at a layer, those that contain a marked token.

        `marked` are the marked tokens of each frame itself, a map of `height` x `width`.
        """
        ...


@runtime_checkable
class Clip(Protocol):
    """What a control may know about a clip: how it lies on the latents of the model."""

    latent: tuple[int, int, int]  # frames, height, width

    def covered_tokens(
        self, mask: Float[Tensor, "n H W"], height: int, width: int
    ) -> Float[Tensor, "f tokens"]:
        """The share of each token that a mask covers, in a layer with a `height` x `width` map.

        Raises:
            ValueError: if the mask does not fit the clip.
        """
        ...


@runtime_checkable
class Control(Protocol):
    """A change of attention that keeps the edit close to its source.

    It acts from `start` to `end`, given as shares of the steps. `reads` names the rows of the edit
    that read the source: "cond" (with the prompt), "uncond" (without it), or both.
    """

    name: str
    start: float
    end: float
    reads: tuple[str, ...]

    def on(self, layers: Layers, clip: Clip) -> Held:
        """The control, prepared for a model with these layers and for this clip.

        Raises:
            ValueError: if the model does not have the layers that it needs, or its mask does not
                fit the clip.
        """
        ...


def check_times(control: Control) -> None:
    """Check that a control starts before it ends, both inside the run.

    Raises:
        ValueError: if not; the message has the control's name and times.
    """
    if not 0 <= control.start <= control.end <= 1:
        raise ValueError(
            f"{control.name} acts from {control.start:.0%} to {control.end:.0%} of the steps; the "
            "start must not lie after the end, and both must lie within 0 % and 100 %."
        )


def attention_maps(
    q: Float[Tensor, "b h n d"], k: Float[Tensor, "b h m d"]
) -> Float[Tensor, "b h n m"]:
    """softmax(q k^T / sqrt(d)), the weights themselves, in float32."""
    return (q.float() @ k.float().mT * q.shape[-1] ** -0.5).softmax(dim=-1)


# --- what all families share ----------------------------------------------------------------------


# What to do where a model has no layer of a kind.
_WITHOUT = {
    KINDS["cross"]: " Where text and image share one attention, as in a cascade of pixels, there "
    "are no layers of text alone: in Attention-Controlled Sampling set prompt_control to off, and "
    "in place of Mask from Words paint a mask.",
    KINDS["temporal"]: " In Decoupled Guidance set motion_foreground and motion_background to 0, "
    "and it holds the look alone.",
}


def matching(
    there: Sequence[Site], pattern: str, sets: Mapping[str, Collection[Site]], what: str
) -> tuple[Site, ...]:
    """The layers among `there` that a pattern names, as `Layers.find` takes it, in their order.

    `sets` are the named sets of the family, `what` says in the message what kind of layer is meant.

    Raises:
        ValueError: if a part of the pattern matches no layer; the message lists all layers.
    """
    found: set[Site] = set()
    for part in pattern.replace(",", " ").split() or [pattern]:
        named = sets.get(part) or [site for site in there if fnmatchcase(site.name, part)]
        if not named:
            raise ValueError(
                f"The pattern {part!r} matches no {what} layer of this model. It has "
                f"{_listed(there)}.{'' if there else _WITHOUT.get(what, '')}"
            )
        found.update(named)
    return tuple(site for site in there if site in found)


def last_of(there: Sequence[Site], count: int) -> tuple[Site, ...]:
    """The last `count` of spatial layers.

    Raises:
        ValueError: if `count` is less than 1 or more than there are.
    """
    if not 1 <= count <= len(there):
        raise ValueError(
            f"The last {count} spatial self-attention layers were asked for; choose 1 to "
            f"{len(there)}, for this model has {_listed(there)}."
        )
    return tuple(there[-count:])


def layer_at(model: nn.Module, site: Site) -> nn.Module:
    """The module of a layer.

    Raises:
        ValueError: if the model has no layer of that name.
    """
    try:
        return model.get_submodule(site.name)
    except AttributeError:
        raise ValueError(
            f"This model has no attention layer {site.name}: the sites are another model's."
        ) from None


def changed(plan: Plan, layer: Layer, attend: Attend) -> Attend:
    """`attend` with all changes of a plan at a layer. The last entry runs first; see `Change`."""
    for entry in plan:
        if layer.site in entry.sites:
            attend = partial(_change, entry.change, layer, attend)
    return attend


def without_recording(plan: Plan) -> list[Entry]:
    """The same plan for the second run of a checkpointed layer; see `Entry`."""
    return [Entry(entry.sites, entry.again or entry.change) for entry in plan]


def _change(change: Change, layer: Layer, inner: Attend, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return change(layer, q, k, v, inner)


def _listed(sites: Sequence[Site]) -> str:
    if not sites:
        return "none"
    return f"{len(sites)} of them: {', '.join(site.name for site in sites)}"
