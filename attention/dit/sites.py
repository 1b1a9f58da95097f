"""Where the attention layers of a video transformer are, for each known family."""

from dataclasses import dataclass

from torch import nn

from ..layers import KINDS, Site, matching


@dataclass(frozen=True)
class Family:
    """The names of the parts of a transformer."""

    own: str  # the self-attention of a block, which reads all frames at once
    cross: str  # the cross-attention of a block to the text
    block: str = "blocks"  # the list of blocks
    key_norm: str = "norm_k"  # in self-attention; its output are the keys without positions
    embedding: str = "patch_embedding"  # from latents to tokens, `[b, c, f, h, w]`
    patch: int = 2  # latent pixels per side of one token


FAMILIES = {
    "WanModel": Family("self_attn", "cross_attn"),  # ComfyUI's
    "WanTransformer3DModel": Family("attn1", "attn2"),  # diffusers'
}


def family_of(model: nn.Module) -> Family | None:
    """The family of a transformer, by the name of its class; None if unknown."""
    return FAMILIES.get(type(model).__name__)


def attention_sites(model: nn.Module, family: Family) -> tuple[Site, ...]:
    """All attention layers, in the order in which they run."""
    count = len(getattr(model, family.block))
    return tuple(
        Site(f"{family.block}.{i}.{name}", kind)
        for i in range(count)
        for name, kind in ((family.own, "spatial"), (family.cross, "cross"))
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
    if not there:
        raise ValueError(
            f"A video transformer such as {type(model).__name__} has no {KINDS[kind]}: its "
            "self-attention reads all frames at once. Use a UNet with motion layers for it, or a "
            "node that works on self-attention, such as Spatial Self-Similarity."
        )
    half, later = len(there) // 2, max(len(there) // 2 + 1, len(there) * 3 // 4)
    sets = {"decoder": there[half:], "late": there[half:later]}
    return matching(there, pattern, sets, KINDS[kind])
