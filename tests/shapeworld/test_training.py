"""Training, two steps at a time: it resumes exactly, and its exports load as real models do."""

import json

import pytest
import torch
from rescore.shapeworld.train.__main__ import make_parser, train
from rescore.shapeworld.train.loop import Recipe, averaged, fit
from torch import nn


def small_recipe(steps: int = 7) -> Recipe:
    torch.manual_seed(3)
    model = nn.Linear(5, 3)

    def loss(generator: torch.Generator) -> torch.Tensor:
        x = torch.randn(11, 5, generator=generator)
        return (model(x) - x[:, :3]).square().mean()

    return Recipe("small", model, loss, steps, learning_rate=0.05, warmup=2, averaging=0.9)


def test_a_stopped_and_resumed_training_equals_one_that_ran_through(tmp_path):
    whole = small_recipe()
    curve = fit(whole, tmp_path / "whole", checkpoint_every=2)

    class Stopped(Exception):
        pass

    stopped, calls = small_recipe(), 0

    def loss_until_stopped(generator):
        nonlocal calls
        calls += 1
        if calls == 6:
            raise Stopped
        return small.loss(generator)

    small = stopped
    with pytest.raises(Stopped):
        fit(
            Recipe("small", stopped.trained, loss_until_stopped, 7, 0.05, warmup=2, averaging=0.9),
            tmp_path / "parts",
            checkpoint_every=2,
        )
    resumed = small_recipe()
    assert fit(resumed, tmp_path / "parts", checkpoint_every=2) == curve
    assert torch.equal(resumed.trained.weight, whole.trained.weight)


def test_the_average_is_borrowed_and_given_back(tmp_path):
    recipe = small_recipe()
    fit(recipe, tmp_path)
    final = recipe.trained.weight.clone()
    with torch.no_grad():
        recipe.trained.weight.zero_()
    with averaged(recipe, tmp_path) as step:
        assert step == 7
        assert torch.equal(recipe.trained.weight, final)
    assert not recipe.trained.weight.any()


def test_a_loss_that_is_not_finite_stops_the_training(tmp_path):
    model = nn.Linear(2, 2)
    recipe = Recipe("broken", model, lambda g: model.weight.sum() * float("nan"), 3, 0.1)
    with pytest.raises(FloatingPointError, match="broken: the loss is nan at step 0"):
        fit(recipe, tmp_path)
    assert not (tmp_path / "checkpoint.pt").exists()


@pytest.mark.slow
def test_two_steps_of_every_model_and_its_export(tmp_path):
    """The whole chain of commands; what comes out has the layout of the models it stands for."""
    for name in ("vae", "shapeworld-sd", "shapeworld-t2v", "shapeworld-animatediff"):
        options = ["--runs", str(tmp_path / "runs"), "--weights", str(tmp_path / "weights")]
        arguments = make_parser().parse_args([name, *options, "--steps", "2", "--clips", "9"])
        train(**vars(arguments))

    from diffusers import MotionAdapter, UNet2DConditionModel, UNet3DConditionModel

    weights = tmp_path / "weights"
    for name, cls in (("sd", UNet2DConditionModel), ("t2v", UNet3DConditionModel)):
        folder = weights / f"shapeworld-{name}"
        index = json.loads((folder / "model_index.json").read_text())
        assert index["unet"] == ["diffusers", cls.__name__]
        assert type(cls.from_pretrained(folder / "unet")) is cls
    adapter = MotionAdapter.from_pretrained(weights / "shapeworld-animatediff")
    trained = torch.load(
        tmp_path / "runs" / "shapeworld-animatediff" / "checkpoint.pt", weights_only=True
    )
    name = "down_blocks.0.motion_modules.0.proj_in.weight"
    assert adapter.state_dict()[name].shape == trained["trained"][name].shape
