"""Charts as pictures: the lines lie where the numbers are."""

import math

import pytest
import torch
from rescore.nodes import charts
from rescore.nodes.charts import line_chart, running_mean


def coloured(picture: torch.Tensor, colour: str) -> torch.Tensor:
    """Rows and columns of the plot's pixels in one of its colours."""
    wanted = torch.tensor([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    near = (picture[0] - wanted).abs().amax(dim=-1) < 0.1
    near[charts._SIZE[1] - charts._MARGINS[3] + 20 :] = False  # the legend
    return near.nonzero()


def test_a_chart_is_an_image():
    picture = line_chart("Loss", {"loss": [1.0, 2.0]})
    assert picture.shape == (1, 432, 768, 3)
    assert picture.dtype == torch.float32
    assert 0 <= picture.min() < 0.5 and picture.max() == 1


def test_lines_run_from_left_to_right_and_from_zero_up():
    left, top, right, bottom = charts._MARGINS
    pixels = coloured(line_chart("", {"rising": [0.0, 5.0, 10.0]}), charts._COLOURS[0])
    first, last = pixels[pixels[:, 1].argmin()], pixels[pixels[:, 1].argmax()]
    assert first.tolist() == pytest.approx([432 - bottom, left], abs=4)
    assert last.tolist() == pytest.approx([top, 768 - right], abs=4)
    middle = pixels[pixels[:, 1] == (left + 768 - right) // 2].float().mean(dim=0)
    assert float(middle[0]) == pytest.approx((top + 432 - bottom) / 2, abs=3)


def test_values_that_are_no_numbers_leave_a_gap():
    rising = [float(i) for i in range(9)]
    gap = [*rising[:4], math.nan, math.inf, *rising[6:]]
    whole = coloured(line_chart("", {"a": rising}), charts._COLOURS[0])
    broken = coloured(line_chart("", {"a": gap}), charts._COLOURS[0])
    assert 0.5 * len(whole) < len(broken) < 0.7 * len(whole)


@pytest.mark.parametrize("series", [{}, {"a": []}, {"a": [math.nan]}, {"a": [0.0]}])
def test_nothing_to_show_is_an_empty_chart(series):
    assert torch.isfinite(line_chart("Loss", series, ["only"])).all()


def test_faint_series_are_paler():
    picture = line_chart("", {"loss": [1.0, 2.0], "mean": [2.0, 1.0]}, faint=["loss"])
    assert len(coloured(picture, charts._FAINT)) > 100
    assert len(coloured(picture, charts._COLOURS[0])) == 0
    assert len(coloured(picture, charts._COLOURS[1])) > 100


def test_running_mean_by_hand():
    assert running_mean([1.0, 3.0, 5.0, 9.0], 2) == [1.0, 2.0, 4.0, 7.0]
    assert running_mean([], 3) == []
