"""The steps of a run in which a term or a control acts."""

import math


def whole_steps(share: float | int, steps: int) -> int:
    """How many whole steps a share of a run's `steps` is.

    Users type shares as decimals: 0.55 of 100 steps are 55 and 0.29 are 29, although these
    products of floating-point numbers are not exact.
    """
    return math.floor(round(share * steps, 6))


def acts(start: float | int, end: float | int, step: int, steps: int) -> bool:
    """Whether something that acts from share `start` to share `end` acts in step number `step`."""
    return whole_steps(start, steps) <= step < whole_steps(end, steps)
