"""The nodes: one file for each stage of a graph. Here they are collected for ComfyUI.

A module with nodes lists them in its own `NODE_CLASS_MAPPINGS` (id to class); a new module needs no
entry here. `widgets.py` declares an input in one line, `shared.py` has inputs that several nodes
share, `files.py` what nodes share that load a folder or a file, and `running.py` prepares a run.
`host/` is the only folder of the pack that uses ComfyUI.
Nothing here may import torch while the pack is loading.
"""

from importlib import import_module
from pkgutil import iter_modules

NODE_CLASS_MAPPINGS: dict[str, type] = {}

for _name in sorted(info.name for info in iter_modules(__path__)):
    _module = import_module(f".{_name}", __name__)
    _classes = getattr(_module, "NODE_CLASS_MAPPINGS", {})
    if _twice := NODE_CLASS_MAPPINGS.keys() & _classes.keys():
        raise ValueError(
            f"Node id {', '.join(sorted(_twice))} of nodes/{_name}.py is already taken by another "
            "module of nodes/; every id is registered once."
        )
    NODE_CLASS_MAPPINGS.update(_classes)

import_module(".host", __name__).offer_shapeworld()

NODE_DISPLAY_NAME_MAPPINGS = {name: node.TITLE for name, node in NODE_CLASS_MAPPINGS.items()}
