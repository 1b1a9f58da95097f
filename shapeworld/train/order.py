"""What a training command asks for."""

from dataclasses import dataclass, fields
from pathlib import Path

from .loop import Recipe, fit


@dataclass(frozen=True)
class Order:
    """How long and on how much a model is trained, where, and where it lies afterwards.

    `runs` is the folder of checkpoints, `weights` that of finished models. `steps` and `clips` of
    None are the recipe's own. With `further` a finished model is trained for so many steps more.
    """

    runs: Path
    weights: Path
    steps: int | None = None
    clips: int | None = None
    further: int | None = None
    bfloat16: bool = False
    device: str = "cpu"
    workers: int = 0

    def fit(self, recipe: Recipe, **settings: int) -> list[tuple[int, float]]:
        """Train to the end of a recipe, or on from its checkpoint; (step, mean loss) pairs."""
        how = {"bfloat16": self.bfloat16, "device": self.device}
        return fit(recipe, self.runs / recipe.name, **how, **settings)

    @classmethod
    def of(cls, arguments: object) -> "Order":
        """What was given on the command line."""
        return cls(**{field.name: getattr(arguments, field.name) for field in fields(cls)})
