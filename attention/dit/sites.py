"""Where the attention layers of a video transformer are, for each known family."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from ..layers import KINDS, Site, matching


@dataclass(frozen=True)
class Family:
    """Where the attention layers of a transformer are, and how its blocks treat their inputs."""

    # Names of layers and their kinds. `*` is the number of a block; self-attention is spatial.
    layers: Mapping[str, str]
    key_norm: str  # inside a layer; its output are the keys without positions
    joint: bool = False  # self-attention reads the text together with the clip
    patch: int | None = 2  # latent pixels per side of one token; None: the model's `patch_size`
    in_place: bool = False  # blocks write into their inputs
    # Inside a layer that also reads a picture, its output are the picture's keys.
    picture_norm: str = "norm_k_img"


FAMILIES = {
    # ComfyUI's
    "WanModel": Family({"blocks.*.self_attn": "spatial", "blocks.*.cross_attn": "cross"}, "norm_k"),
    "LTXVModel": Family(
        {"transformer_blocks.*.attn1": "spatial", "transformer_blocks.*.attn2": "cross"},
        "k_norm",
        patch=1,
        in_place=True,
    ),
    "HunyuanVideo": Family(
        {"double_blocks.*.img_attn": "spatial", "single_blocks.*": "spatial"},
        "norm.key_norm",
        joint=True,
        patch=None,
        in_place=True,
    ),
    # diffusers'
    "WanTransformer3DModel": Family(
        {"blocks.*.attn1": "spatial", "blocks.*.attn2": "cross"}, "norm_k"
    ),
}


def family_of(model: nn.Module) -> Family | None:
    """The family of a transformer, by the name of its class; None if unknown."""
    return FAMILIES.get(type(model).__name__)


def attention_sites(model: nn.Module, family: Family) -> tuple[Site, ...]:
    """All attention layers, in the order in which they run."""
    return tuple(
        Site(name, kind)
        for name, _ in model.named_modules()
        for pattern, kind in family.layers.items()
        if _is_at(name.split("."), pattern.split("."))
    )


def blocks(model: nn.Module, family: Family) -> list[nn.Module]:
    """The blocks in which the layers lie, in the order in which they run."""
    stacks = dict.fromkeys(pattern.partition(".")[0] for pattern in family.layers)
    return [block for stack in stacks for block in getattr(model, stack)]


def _is_at(name: Sequence[str], pattern: Sequence[str]) -> bool:
    return len(name) == len(pattern) and all(
        wanted in ("*", part) for part, wanted in zip(name, pattern, strict=True)
    )


def find_sites(model: nn.Module, family: Family, pattern: str, kind: str) -> tuple[Site, ...]:
    """The layers of a kind that match a pattern, in the order in which they run.

    Self-attention counts as spatial. The named set "decoder" is the second half of the blocks,
    "late" the third quarter, similar to the places of these sets in a UNet.

    Raises:
        ValueError: if `kind` is unknown, if there is no layer of that kind, or if a pattern matches
            none.
    """
    if kind not in KINDS:
        raise ValueError(f"{kind!r} is no kind of attention; choose {', '.join(KINDS)}.")
    there = [site for site in attention_sites(model, family) if site.kind == kind]
    if not there and kind == "cross":
        raise ValueError(
            f"{type(model).__name__} reads its text together with the clip, in one attention: it "
            "has no text cross-attention of its own. Leave out what works on it, or use a model "
            "that has it, such as Wan or LTX-Video."
        )
    if not there:
        raise ValueError(
            f"A video transformer such as {type(model).__name__} has no {KINDS[kind]}: its "
            "self-attention reads all frames at once. Use a UNet with motion layers for it, or a "
            "node that works on self-attention, such as Spatial Self-Similarity."
        )
    half, later = len(there) // 2, max(len(there) // 2 + 1, len(there) * 3 // 4)
    sets = {"decoder": there[half:], "late": there[half:later]}
    return matching(there, pattern, sets, KINDS[kind])
