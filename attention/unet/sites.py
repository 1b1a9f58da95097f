"""The attention layers of a diffusers UNet: their names and kinds, in the order they run."""

import re
from fnmatch import fnmatchcase
from types import MappingProxyType

from diffusers.models.attention_processor import Attention
from torch import nn

from ..layers import KINDS, Site, matching

# Named sets of layers: all layers of the upsampling half, and those of its blocks 1 and 2.
SETS = MappingProxyType({"decoder": "up_blocks.*", "late": "up_blocks.[12].*"})
# The parts of a UNet in the order in which they run, which is not the order of its modules.
_STAGES = ("transformer_in", "down_blocks", "mid_block", "up_blocks")
_TEMPORAL = ("temp_attentions", "motion_modules", "transformer_in")


def attention_sites(unet: nn.Module) -> tuple[Site, ...]:
    """All attention layers of a UNet, in the order in which they run.

    It works for `UNet2DConditionModel`, `UNet3DConditionModel` and `UNetMotionModel`.
    """
    layers = ((name, m) for name, m in unet.named_modules() if isinstance(m, Attention))
    sites = [Site(name, _kind(name, layer), _block(name)) for name, layer in layers]
    return tuple(sorted(sites, key=lambda site: _order(site.name)))


def find_sites(unet: nn.Module, pattern: str = "*", kind: str | None = None) -> tuple[Site, ...]:
    """The attention layers whose full name matches a pattern, in the order in which they run.

    `pattern` is a key of `SETS`, or a pattern as for file names (`*`, `?`, `[12]`), in which `*`
    also matches dots. Several are separated by blanks or commas. `kind` is a key of `KINDS`; None
    means any kind.

    Raises:
        ValueError: if `kind` is unknown, or a pattern matches no layer of that kind.
    """
    if kind is not None and kind not in KINDS:
        raise ValueError(f"{kind!r} is no kind of attention; choose {', '.join(KINDS)}.")
    there = [site for site in attention_sites(unet) if kind in (None, site.kind)]
    sets = {name: [s for s in there if fnmatchcase(s.name, glob)] for name, glob in SETS.items()}
    return matching(there, pattern, sets, "attention" if kind is None else KINDS[kind])


def map_size(tokens: int, height: int, width: int) -> tuple[int, int]:
    """Height and width of a layer's token map, for latents of the given height and width.

    A UNet halves the picture several times; odd sizes are rounded up.

    Raises:
        ValueError: if no number of halvings gives that many tokens.
    """
    h, w = height, width
    while h * w > tokens and (h, w) != (1, 1):
        h, w = -(-h // 2), -(-w // 2)
    if h * w != tokens:
        raise ValueError(
            f"A layer has {tokens} tokens, which are no halving of {width} x {height} latents. "
            "UNets of another layout are not supported; use a Stable Diffusion 1.x model."
        )
    return h, w


def _kind(name: str, layer: Attention) -> str:
    if any(part in name.split(".") for part in _TEMPORAL):
        return "temporal"
    if layer.added_kv_proj_dim is not None:  # one attention to text and image
        return "cross" if layer.only_cross_attention else "spatial"
    return "cross" if layer.is_cross_attention else "spatial"


def _order(name: str) -> tuple[int | bool | str, ...]:
    """The sort key for the order in which layers run: stage, block, step, spatial first, rest.

    A block has a list of spatial and a list of temporal attention; both layers i run before both
    layers i + 1.
    """
    stage = next((i for i, part in enumerate(_STAGES) if name.startswith(part)), len(_STAGES))
    temporal = any(part in name.split(".") for part in _TEMPORAL)
    step = _number(r"(?:attentions|motion_modules)\.(\d+)", name)
    return stage, _block(name), step, temporal, _number(r"transformer_blocks\.(\d+)", name), name


def _block(name: str) -> int:
    return _number(r"^(?:down|up)_blocks\.(\d+)", name)


def _number(pattern: str, name: str) -> int:
    """The number that a pattern finds in a name; 0 if it finds none."""
    found = re.search(pattern, name)
    return int(found[1]) if found else 0
