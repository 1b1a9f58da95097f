"""The node that makes the settings of an edit from one number."""

from . import host
from .widgets import FLOAT, Node, outputs


class EditStrength(Node):
    TITLE = "Edit Strength"
    SEARCH_ALIASES = ["denoise slider", "one slider", "how strong", "strength"]
    DESCRIPTION = (
        "One number for those who want only that: 0 touches the clip up, 1 makes it over. Wire its "
        "outputs to Score Distillation. It sets guidance, the highest level of noise and the step."
    )
    CATEGORY = f"{host.CATEGORY}/distillation"
    FUNCTION = "settings"
    RETURN_TYPES, RETURN_NAMES, OUTPUT_TOOLTIPS = outputs(
        cfg=("FLOAT", "Guidance: 3 to 8."),
        t_max=("FLOAT", "The highest level of noise, as a share of the clock: 0.92 to 0.98."),
        step_size=("FLOAT", "The step: 0.1 to 0.4."),
    )
    REQUIRED = {
        "strength": FLOAT(0.5, 0, 1, 0.01,
            "0.5 to start with. If nothing changes, raise it; if more changes than should, lower "
            "it.", display="slider"),
    }  # fmt: skip

    def settings(self, strength: float):
        def between(low: float, high: float) -> float:
            return round(low + strength * (high - low), 4)

        return (between(3, 8), between(0.92, 0.98), between(0.1, 0.4))


NODE_CLASS_MAPPINGS = {"ReScoreEditStrength": EditStrength}
