"""The one training loop: seeded, resumable bit for bit, with averaged weights and a loss curve."""

import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers.training_utils import EMAModel
from torch import Tensor, nn

from .optimisers import Optimiser, adamw, learning_parameters

CHECKPOINT = "checkpoint.pt"


@dataclass(frozen=True)
class Recipe:
    """How one model is trained. `loss` draws its own batch from the generator it is given."""

    name: str
    trained: nn.Module
    loss: Callable[[torch.Generator], Tensor]
    steps: int
    learning_rate: float
    warmup: int = 100
    averaging: float = 0.999
    seed: int = 0
    settles: bool = True  # whether the learning rate falls to nothing in the end
    optimiser: Callable[[nn.Module, float], Optimiser] = adamw


def fit(
    recipe: Recipe, folder: Path, *, checkpoint_every: int = 100, bfloat16: bool = False
) -> list[tuple[int, float]]:
    """Train to the end of the recipe and leave the averaged weights in `recipe.trained`.

    With `bfloat16` layers compute in it, while weights and their sums stay float32.

    Every step draws from a generator seeded by (recipe, step), so a run that was stopped and
    resumed from its checkpoint equals one that ran through. Returns (step, mean loss) pairs.
    """
    parameters = list(learning_parameters(recipe.trained).values())
    optimiser = recipe.optimiser(recipe.trained, recipe.learning_rate)
    average = EMAModel(parameters, decay=recipe.averaging)
    start, curve = _resume(recipe, folder, optimiser, average)
    recent: list[float] = []
    began = time.monotonic()
    for step in range(start, recipe.steps):
        for group in optimiser.param_groups:
            group["lr"] = recipe.learning_rate * _rate(step, recipe)
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            loss = recipe.loss(torch.Generator().manual_seed(recipe.seed * 10_000_019 + step))
        recipe.trained.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        average.step(parameters)
        recent.append(float(loss.detach()))
        if not math.isfinite(recent[-1]):
            raise FloatingPointError(f"{recipe.name}: the loss is {recent[-1]} at step {step}.")
        if (step + 1) % checkpoint_every == 0 or step + 1 == recipe.steps:
            curve.append((step + 1, sum(recent) / len(recent)))
            pace = (time.monotonic() - began) / (step + 1 - start)
            print(
                f"{recipe.name} {step + 1}/{recipe.steps} loss {curve[-1][1]:.5f} "
                f"{pace:.2f} s/step",
                flush=True,
            )
            recent.clear()
            _save(recipe, folder, optimiser, average, step + 1, curve)
    average.copy_to(parameters)
    return curve


def _rate(step: int, recipe: Recipe) -> float:
    """Linear warm-up, then a cosine down to nothing, or all the same where others follow."""
    if step < recipe.warmup:
        return (step + 1) / recipe.warmup
    if not recipe.settles:
        return 1.0
    done = (step - recipe.warmup) / max(1, recipe.steps - recipe.warmup)
    return 0.5 * (1 + math.cos(math.pi * done))


def _resume(recipe, folder, optimiser, average) -> tuple[int, list[tuple[int, float]]]:
    file = folder / CHECKPOINT
    if not file.exists():
        return 0, []
    state = torch.load(file, weights_only=True)
    recipe.trained.load_state_dict(state["trained"])
    optimiser.load_state_dict(state["optimiser"])
    average.load_state_dict(state["average"])
    print(f"{recipe.name}: resuming after step {state['step']}", flush=True)
    return state["step"], [tuple(point) for point in state["curve"]]


def _save(recipe, folder, optimiser, average, step, curve) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    state = {
        "step": step,
        "trained": recipe.trained.state_dict(),
        "optimiser": optimiser.state_dict(),
        "average": average.state_dict(),
        "curve": [list(point) for point in curve],
    }
    # A new file first: an interruption leaves the old checkpoint whole.
    torch.save(state, folder / (CHECKPOINT + ".new"))
    os.replace(folder / (CHECKPOINT + ".new"), folder / CHECKPOINT)
    (folder / "curve.json").write_text(json.dumps(state["curve"]), "utf-8")
