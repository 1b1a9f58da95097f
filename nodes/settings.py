"""The switch in front of the shipped graphs, between the tiny model's settings and a real one's."""

from .load import CATEGORY
from .widgets import COMBO, Node


class TinyOrReal(Node):
    """A switch that works in the browser (js/settings.js); the server never runs it."""

    TITLE = "Tiny or Real Model"
    SEARCH_ALIASES = ["settings for a real model", "papers' settings", "presets", "profile"]
    DESCRIPTION = (
        "Switches the settings of a shipped graph from those of the tiny model to those of a real "
        "one: every widget that the graph's note names. It changes the widgets where they stand "
        "and takes no part in a run."
    )
    CATEGORY = CATEGORY
    FUNCTION = "nothing"
    RETURN_TYPES = RETURN_NAMES = OUTPUT_TOOLTIPS = ()
    REQUIRED = {
        "settings": COMBO(["tiny model", "real model"],
            "Whose settings the graph has. real model: those of the papers, or of the model's "
            "authors. tiny model: as the graph was shipped."),
    }  # fmt: skip

    def nothing(self, settings: str) -> tuple[()]:
        """What a host demands of every node. Nothing is wired to this one, so it is never run."""
        return ()


NODE_CLASS_MAPPINGS = {"ReScoreTinyOrReal": TinyOrReal}
