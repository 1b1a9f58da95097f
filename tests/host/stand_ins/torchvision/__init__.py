"""A stand-in for torchvision, so that ComfyUI starts where only the CPU build of torch is present.

The host, and transformers and diffusers once they find a package of this name, import names from
torchvision that nothing in the tests calls. Every such name exists here; using one is an error
that says what is missing.
"""

import sys
from enum import Enum
from types import ModuleType

__version__ = "0.0.0"

SUBMODULES = (
    "transforms",
    "transforms.functional",
    "transforms.v2",
    "transforms.v2.functional",
    "ops",
    "ops.boxes",
    "io",
    "models",
)


class InterpolationMode(Enum):
    """The one name whose values are read at import (transformers keeps a table of them)."""

    NEAREST = "nearest"
    NEAREST_EXACT = "nearest-exact"
    BILINEAR = "bilinear"
    BICUBIC = "bicubic"
    BOX = "box"
    HAMMING = "hamming"
    LANCZOS = "lanczos"


def absent(name: str) -> type:
    """A class that can be imported and named in an annotation, but not made."""

    def refuse(cls, *args, **kwargs):
        raise RuntimeError(f"{name} needs the real torchvision; only a stand-in is installed here.")

    return type(name.rpartition(".")[2], (), {"__new__": refuse})


class StandIn(ModuleType):
    """A module in which every public name exists and is absent."""

    def __init__(self, name: str):
        super().__init__(name)
        self.__path__ = []  # a package to the import system, with no files of its own

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        return absent(f"{self.__name__}.{name}")


for path in SUBMODULES:
    module = StandIn(f"{__name__}.{path}")
    if path in ("transforms", "transforms.v2"):
        module.InterpolationMode = InterpolationMode
    sys.modules[module.__name__] = module
    parent, _, leaf = module.__name__.rpartition(".")
    setattr(sys.modules[parent], leaf, module)
