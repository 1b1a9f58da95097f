"""The covariate-shift report, against covariances written out, and on real inflated models."""

import math

import pytest
import torch
from rescore.pipelines.models.denoiser import Denoiser
from rescore.pipelines.models.process import VariancePreserving
from rescore.pipelines.models.unet.inflation import inflate
from rescore.pipelines.tuning.covariate_shift import LayerShift, covariate_shift, shift_table
from tiny_models import SCHEDULE as SCHEDULE_CONFIG
from tiny_models import TEXT_WIDTH, tiny_unet
from torch import Tensor, nn

F, D = 5, 3
SCHEDULE = VariancePreserving.from_config(SCHEDULE_CONFIG)


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


class Affine(nn.Module):
    """x A + b on features: its shift is known."""

    def __init__(self, scale: float, offset: float) -> None:
        super().__init__()
        self.scale, self.offset = scale, offset

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * x + self.offset


def through(layers: dict[str, nn.Module], features: list[Tensor]):
    """A model that runs the layers over given features, one set per call."""
    waiting = iter(features)

    def output(z, t, cond):
        x = next(waiting)
        for layer in layers.values():
            x = layer(x)
        return z

    return Denoiser("layers", SCHEDULE, "epsilon", output)


def measure(layers, features) -> tuple[LayerShift, ...]:
    z, cond = draw(1, 4, F, 2, 3), draw(1, 2, D)
    levels = [SCHEDULE.level(t) for t in range(100, 100 + len(features))]
    return covariate_shift(layers, through(layers, features), z, cond, levels)


def test_a_known_map_has_the_known_shift():
    x = draw(2, 7, F, D, dtype=torch.float64) + 3
    (shift,) = measure({"a": Affine(2.0, 0.0)}, [x])
    assert shift.mean_shift == pytest.approx(1.0)
    assert shift.variance_ratio == pytest.approx(4.0)
    assert shift.covariance_shift == pytest.approx(3.0)
    (shift,) = measure({"a": Affine(1.0, 0.5)}, [x])
    mu = x.mean(-2)
    expected = 0.5 * math.sqrt(mu.numel()) / float(mu.norm())
    assert shift.mean_shift == pytest.approx(expected)
    assert shift.variance_ratio == pytest.approx(1.0)
    assert shift.covariance_shift == pytest.approx(0.0, abs=1e-6)


def test_the_covariance_shift_is_that_of_the_covariances():
    class Mix(nn.Module):
        def __init__(self):
            super().__init__()
            self.channels = draw(D, D, seed=1, dtype=torch.float64)
            self.frames = draw(F, F, seed=2, dtype=torch.float64)

        def forward(self, x):
            return x + self.frames @ x @ self.channels

    mix, features = Mix(), [draw(2, 7, F, D, seed=s, dtype=torch.float64) for s in (3, 4)]
    (shift,) = measure({"a": mix}, features)

    def covariances(x):
        x = (x - x.mean(-2, keepdim=True)).flatten(0, -3)
        return x.mT @ x / F

    before = torch.cat([covariances(x) for x in features])
    after = torch.cat([covariances(mix(x)) for x in features])
    assert shift.covariance_shift == pytest.approx(float((after - before).norm() / before.norm()))


def test_layers_come_in_the_order_they_run():
    layers = {"b": Affine(2.0, 0.0), "a": Affine(3.0, 0.0)}
    shifts = measure(layers, [draw(2, F, D)])
    assert [(s.name, round(s.variance_ratio)) for s in shifts] == [("b", 4), ("a", 9)]


def test_features_of_one_frame_have_no_covariance_to_shift():
    (shift,) = measure({"a": Affine(1.0, 0.0)}, [draw(2, 1, D)])
    assert shift == LayerShift("a", 0.0, 1.0, 0.0)


@pytest.mark.parametrize("variant", ["ei2", "tune-a-video"])
def test_real_models_with_moved_weights(variant):
    """STAM keeps the mean whatever its maps are; Tune-A-Video's attention moves it."""
    model = inflate(tiny_unet("2D"), variant)
    state = {
        name: tensor + (0.0 if "bias" in name else 0.5) * draw(*tensor.shape, seed=1)
        for name, tensor in model.tuned_state().items()
    }
    model = model.with_tuned(state)
    z, cond = draw(1, 4, F, 7, 6), draw(1, 3, TEXT_WIDTH)
    seen, levels = [], [SCHEDULE.level(t) for t in (100, 500, 900)]
    denoiser = Denoiser("tiny", SCHEDULE, "epsilon", lambda z, t, cond: model(z, round(t), cond))
    shifts = covariate_shift(model.temporal, denoiser, z, cond, levels, on_step=seen.append)
    assert seen == [1, 2, 3]
    assert {s.name for s in shifts} == model.temporal.keys()
    assert all(s.covariance_shift > 1e-3 for s in shifts)
    assert all((s.mean_shift < 1e-5) == (variant == "ei2") for s in shifts)
    assert not any(layer._forward_hooks for layer in model.temporal.values())


def test_watching_ends_also_after_an_error():
    layer = Affine(1.0, 0.0)
    with pytest.raises(StopIteration):
        covariate_shift(
            {"a": layer},
            through({"a": layer}, []),
            draw(1, 4, F, 2, 3),
            draw(1, 2, D),
            [SCHEDULE.level(100)],
        )
    assert not layer._forward_hooks


def test_models_without_modules_along_time_are_told():
    with pytest.raises(ValueError, match="no modules along time"):
        measure({}, [draw(2, F, D)])
    other = {"a": Affine(1.0, 0.0)}
    z, cond = draw(1, 4, F, 2, 3), draw(1, 2, D)
    with pytest.raises(ValueError, match="ran without any"):
        covariate_shift(other, through({}, [z]), z, cond, [SCHEDULE.level(100)])


def test_labels_and_table():
    name = "{}.attentions.1.transformer_blocks.0.temporal"
    labels = [
        LayerShift(name.format(b), 0.5, 2.0, 1.0).label for b in ("down_blocks.0", "mid_block")
    ]
    assert labels == ["down 0.1", "mid 1"]
    assert LayerShift("other", 0.0, 1.0, 0.0).label == "other"
    rows = [LayerShift(name.format(f"up_blocks.{i}"), i / 2, 1.0 + i, 0.0) for i in (1, 2)]
    table = shift_table({"ei2": rows}).splitlines()
    assert [line.split() for line in table[1:]] == [
        ["up", "1.1", "0.5000", "2.0000", "0.0000"],
        ["up", "2.1", "1.0000", "3.0000", "0.0000"],
        ["mean", "0.7500", "2.5000", "0.0000"],
    ]
