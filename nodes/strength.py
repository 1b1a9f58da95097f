"""The node that makes the settings of an edit from one number."""

from . import host
from .widgets import FLOAT, Node, outputs


class EditStrength(Node):
    TITLE = "Edit Strength"
    SEARCH_ALIASES = ["denoise slider", "one slider", "how strong", "strength"]
    DESCRIPTION = (
        "One number for those who want only that: 0 touches the clip up, 1 makes it over. Wire its "
        "outputs to Score Distillation, with order descending and t_min 0, and eta to Delta "
        "Denoising, with weighting velocity. For flow models such as Wan."
    )
    CATEGORY = f"{host.CATEGORY}/distillation"
    FUNCTION = "settings"
    RETURN_TYPES, RETURN_NAMES, OUTPUT_TOOLTIPS = outputs(
        cfg=("FLOAT", "Guidance: 2 to 7."),
        t_max=("FLOAT", "The highest level of noise, as a share of the clock: 0.7 to 0.9."),
        step_size=("FLOAT", "The step: 0.5, from strength 0.5 on 1."),
        eta=("FLOAT", "Eta of Delta Denoising: 0, from strength 0.5 on rising to 0.5."),
    )
    REQUIRED = {
        "strength": FLOAT(0.5, 0, 1, 0.01,
            "0.5 to start with. If nothing changes, raise it; if more changes than should, lower "
            "it.", display="slider"),
    }  # fmt: skip

    def settings(self, strength: float):
        def between(low: float, high: float) -> float:
            return round(low + strength * (high - low), 4)

        step_size, eta = min(0.5 + strength, 1.0), max(strength - 0.5, 0.0)
        return (between(2, 7), between(0.7, 0.9), round(step_size, 4), round(eta, 4))


NODE_CLASS_MAPPINGS = {"ReScoreEditStrength": EditStrength}
