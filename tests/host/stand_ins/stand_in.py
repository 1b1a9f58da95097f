"""Modules that stand in for a package of native code: all names are there, none of them works."""

import sys
from types import ModuleType


def absent(name: str) -> type:
    """A class that can be imported and named in an annotation, but not made."""
    package = name.partition(".")[0]

    def refuse(cls, *args, **kwargs):
        raise RuntimeError(f"{name} needs the real {package}; only a stand-in is installed here.")

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


def add_submodules(package: str, paths: tuple[str, ...]) -> None:
    """Gives an imported package these submodules; a parent comes before its children."""
    for path in paths:
        module = StandIn(f"{package}.{path}")
        sys.modules[module.__name__] = module
        parent, _, leaf = module.__name__.rpartition(".")
        setattr(sys.modules[parent], leaf, module)
