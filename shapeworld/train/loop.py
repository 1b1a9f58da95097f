"""The one training loop: seeded, resumable bit for bit, with averaged weights and a loss curve."""

import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import torch
from diffusers.training_utils import EMAModel
from torch import Tensor, nn

from .optimisers import Optimiser, adamw, learning_parameters

CHECKPOINT, CURVE = "checkpoint.pt", "loss_curve.json"

# Recipe -> (step since the very beginning, mean loss); losses of two recipes do not compare.
Curve: TypeAlias = dict[str, list[tuple[int, float]]]


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
    recipe: Recipe,
    folder: Path,
    *,
    checkpoint_every: int = 100,
    bfloat16: bool = False,
    device: str = "cpu",
) -> list[tuple[int, float]]:
    """Train to the end of the recipe and leave the averaged weights in `recipe.trained`.

    With `bfloat16` layers compute in it, while weights and their sums stay float32. What is trained
    is moved to the device, and the generator that the loss is given lies there.

    Every step draws from a generator seeded by (recipe, step), so a run that was stopped and
    resumed from its checkpoint equals one that ran through. Returns (step, mean loss) pairs.
    """
    recipe.trained.to(device)
    parameters = list(learning_parameters(recipe.trained).values())
    optimiser = recipe.optimiser(recipe.trained, recipe.learning_rate)
    average = EMAModel(parameters, decay=recipe.averaging, foreach=True)
    start, curve = _resume(recipe, folder, optimiser, average)
    recent: list[Tensor] = []  # read together: a graphics card would wait for each
    began = time.monotonic()
    for step in range(start, recipe.steps):
        for group in optimiser.param_groups:
            group["lr"] = recipe.learning_rate * _rate(step, recipe)
        generator = torch.Generator(device).manual_seed(recipe.seed * 10_000_019 + step)
        with torch.autocast(generator.device.type, torch.bfloat16, enabled=bfloat16):
            loss = recipe.loss(generator)
        recipe.trained.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        average.step(parameters)
        recent.append(loss.detach())
        if (step + 1) % checkpoint_every == 0 or step + 1 == recipe.steps:
            losses = torch.stack(recent).tolist()
            for at, value in enumerate(losses, start=step + 1 - len(losses)):
                if not math.isfinite(value):
                    raise FloatingPointError(f"{recipe.name}: the loss is {value} at step {at}.")
            curve.append((step + 1, sum(losses) / len(losses)))
            pace = (time.monotonic() - began) / (step + 1 - start)
            print(
                f"{recipe.name} {step + 1}/{recipe.steps} loss {curve[-1][1]:.5f} "
                f"{pace:.3f} s/step",
                flush=True,
            )
            recent.clear()
            _save(recipe, folder, optimiser, average, step + 1, curve)
    average.copy_to(parameters)
    return curve


def read_curve(file: Path) -> Curve:
    """A curve that was written as JSON."""
    stages = json.loads(file.read_text("utf-8"))
    return {name: [(step, loss) for step, loss in points] for name, points in stages.items()}


def write_curve(file: Path, curve: Curve) -> None:
    """Write a curve as JSON."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(curve), "utf-8")


def joined(curve: Curve, name: str, points: list[tuple[int, float]]) -> Curve:
    """A curve with the points of one more training, whose steps count on from the last."""
    begun = max((step for stage in curve.values() for step, _ in stage), default=0)
    later = [(begun + step, loss) for step, loss in points]
    return curve | {name: [*curve.get(name, []), *later]}


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
    at = next(recipe.trained.parameters()).device
    state = torch.load(file, weights_only=True, map_location=at)
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
