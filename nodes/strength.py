"""The node that makes the settings of an edit from one number."""

from . import host
from .widgets import FLOAT, Node, outputs


class EditStrength(Node):
    TITLE = "Edit Strength"
    SEARCH_ALIASES = ["denoise slider", "one slider", "how strong", "strength"]
    DESCRIPTION = (
        "One number for those who want only that: 0 edits nothing, 1 makes the clip over. Wire its "
        "outputs to Score Distillation, with order descending and t_min 0, and eta to Delta "
        "Denoising, with weighting velocity. For flow models such as Wan."
    )
    CATEGORY = f"{host.CATEGORY}/distillation"
    FUNCTION = "settings"
    RETURN_TYPES, RETURN_NAMES, OUTPUT_TOOLTIPS = outputs(
        cfg=("FLOAT", "Guidance: 2 to 6, 3 in the middle."),
        t_max=("FLOAT", "The highest level of noise, as a share of the clock: 0.7 to 0.9."),
        step_size=("FLOAT", "The step: from 0 to 1, from strength 0.5 on 1."),
        eta=("FLOAT", "Eta of Delta Denoising: 0 to 0.5."),
    )
    REQUIRED = {
        "strength": FLOAT(0.5, 0, 1, 0.01,
            "0.5 to start with. If nothing changes, raise it; if more changes than should, lower "
            "it. 0 edits nothing.", display="slider"),
    }  # fmt: skip

    def settings(self, strength: float):
        return (
            _between(strength, 2, 3, 6),
            _between(strength, 0.7, 0.8, 0.9),
            _between(strength, 0, 1, 1),
            _between(strength, 0, 0.25, 0.5),
        )


def of_random_levels(strength: float) -> tuple[float, float, float]:
    """The same for models of noise, with levels drawn at random: `cfg`, `t_max`, `step_size`."""
    return (
        _between(strength, 3, 5.5, 8),
        _between(strength, 0.92, 0.95, 0.98),
        _between(strength, 0, 0.25, 0.4),
    )


def _between(strength: float, low: float, middle: float, high: float) -> float:
    """A value that goes evenly from `low` to `middle`, and from there to `high`."""
    first, second = min(2 * strength, 1), max(2 * strength - 1, 0)
    return round(low + first * (middle - low) + second * (high - middle), 4)


NODE_CLASS_MAPPINGS = {"ReScoreEditStrength": EditStrength}
