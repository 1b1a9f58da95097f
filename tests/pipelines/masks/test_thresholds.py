"""Maps to masks: cuts computed by hand, Otsu against all ways to part the values."""

import math

import pytest
import torch
from rescore.pipelines.masks.thresholds import (
    Threshold,
    otsu,
    quantile,
    smoothed,
)


def test_otsu_parts_two_groups_between_them():
    assert otsu(torch.tensor([[1.0, 2.0, 1.0], [9.0, 8.0, 2.0]])) == 5.0


def test_otsu_is_the_best_of_all_ways_to_part_the_values():
    values = torch.rand(2, 5, 7, generator=torch.Generator().manual_seed(0)) ** 3

    def between(at: float) -> float:
        low, high = values[values <= at].double(), values[values > at].double()
        return len(low) * len(high) * float(low.mean() - high.mean()) ** 2

    candidates = values.flatten().sort().values[:-1].tolist()
    assert between(otsu(values)) == pytest.approx(max(map(between, candidates)), rel=1e-12)


def test_otsu_keeps_equal_values_together():
    assert otsu(torch.tensor([0.0, 1.0, 1.0, 1.0])) == 0.5
    assert otsu(torch.tensor([3.0, 3.0, 3.0])) == 3.0
    assert otsu(torch.tensor([3.0])) == 3.0


@pytest.mark.parametrize(("share", "white"), [(0.0, 10), (0.25, 7), (0.3, 7), (0.9, 1), (1.0, 0)])
def test_a_quantile_leaves_its_share_black(share, white):
    values = torch.arange(10.0).reshape(1, 2, 5)
    assert int((values > quantile(values, share)).sum()) == white
    assert int(Threshold("quantile", quantile=share)(values).sum()) == white


def test_a_level_lies_between_the_weakest_and_the_strongest_place():
    values = torch.tensor([[[2.0, 3.0, 4.0]], [[2.0, 5.9, 6.0]]])
    assert Threshold("level", level=0.5)(values).tolist() == [[[0, 0, 0]], [[0, 1, 1]]]
    alone = Threshold("level", level=0.5, per_frame=True)(values)
    assert alone.tolist() == [[[0, 0, 1]], [[0, 1, 1]]]
    assert Threshold("otsu")(values).tolist() == [[[0, 0, 0]], [[0, 1, 1]]]


@pytest.mark.parametrize("method", ["level", "otsu"])
def test_a_frame_without_anything_has_no_white(method):
    values = torch.tensor([[[2.0, 2.0]], [[0.0, 3.0]]])
    assert Threshold(method, per_frame=True)(values).tolist() == [[[0, 0]], [[0, 1]]]


def test_mistakes_are_told():
    with pytest.raises(ValueError, match="'mean'; choose level, otsu, quantile"):
        Threshold("mean")
    with pytest.raises(ValueError, match=r"level is 1\.5"):
        Threshold(level=1.5)
    with pytest.raises(ValueError, match="quantile is -1"):
        Threshold(quantile=-1.0)
    with pytest.raises(ValueError, match=r"same everywhere.*may be equal"):
        Threshold()(torch.full((2, 3, 5), 0.7))
    with pytest.raises(ValueError, match="NaN"):
        Threshold()(torch.tensor([[[0.0, math.nan]]]))


def test_smoothing_keeps_what_is_even_and_spreads_a_point():
    even = torch.full((2, 5, 7), 3.0)
    torch.testing.assert_close(smoothed(even, 1.5), even)
    assert smoothed(even, 0) is even
    point = torch.zeros(2, 11, 13)
    point[0, 5, 6] = 1
    spread = smoothed(point, 1.0)
    assert float(spread[1].max()) == 0
    assert float(spread[0].sum()) == pytest.approx(1, abs=1e-5)
    # A Gaussian: one cell away it is exp(-1/2) of its height.
    torch.testing.assert_close(spread[0, 5, 7] / spread[0, 5, 6], torch.tensor(math.exp(-0.5)))
    torch.testing.assert_close(spread[0], spread[0].flip(0).flip(1))
