"""A stand-in for torchvision, so that ComfyUI starts where only the CPU build of torch is present.

The host, and transformers and diffusers once they find a package of this name, import names from
torchvision that nothing in the tests calls.
"""

import sys
from enum import Enum

from stand_in import add_submodules

__version__ = "0.0.0"


class InterpolationMode(Enum):
    """The one name whose values are read at import (transformers keeps a table of them)."""

    NEAREST = "nearest"
    NEAREST_EXACT = "nearest-exact"
    BILINEAR = "bilinear"
    BICUBIC = "bicubic"
    BOX = "box"
    HAMMING = "hamming"
    LANCZOS = "lanczos"


add_submodules(
    __name__,
    (
        "transforms",
        "transforms.functional",
        "transforms.v2",
        "transforms.v2.functional",
        "ops",
        "ops.boxes",
        "io",
        "models",
        "models.optical_flow",
    ),
)
for path in ("transforms", "transforms.functional", "transforms.v2"):
    sys.modules[f"{__name__}.{path}"].InterpolationMode = InterpolationMode
