"""ReScore: what ComfyUI reads when it loads this folder as a custom node pack.

Importing the pack takes milliseconds and loads no torch: a node imports what it needs when it runs.
"""

from .nodes import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS

WEB_DIRECTORY = "./js"

__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS", "WEB_DIRECTORY"]
