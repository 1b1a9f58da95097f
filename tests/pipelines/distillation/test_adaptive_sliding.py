"""Adaptive sliding score distillation: Eq. 8 to 10, by hand and by what must hold."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rescore.pipelines.distillation.adaptive_sliding import (
    AdaptiveSliding,
    adaptive_mask,
    assd_gradient,
    sliding_window,
)
from rescore.pipelines.distillation.terms import Draw, Needs, Predictions
from rescore.pipelines.models.process import Level, Prediction

SHAPE = (2, 3, 5, 7, 11)


def eps(seed: int, shape=SHAPE, dtype=torch.float64) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def over_time(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64).view(1, 1, -1, 1, 1)


def test_a_window_by_hand():
    """Weights 1, 2, 5 on 8, 16, 40: the ends of the clip lack a neighbour."""
    smoothed = sliding_window(over_time(8, 16, 40), (1, 2, 5))
    expected = over_time((2 * 8 + 5 * 16) / 7, (8 + 2 * 16 + 5 * 40) / 8, (16 + 2 * 40) / 3)
    torch.testing.assert_close(smoothed, expected)
    assert torch.equal(
        sliding_window(over_time(8, 16, 40), torch.tensor([1.0, 2.0, 5.0])), smoothed
    )


def test_a_wider_window_by_hand():
    smoothed = sliding_window(over_time(1, 10, 100, 1000, 10000), (1, 0, 2, 0, 3))
    expected = over_time(302 / 5, 3020 / 5, 30201 / 6, 2010 / 3, 20100 / 3)
    torch.testing.assert_close(smoothed, expected)


def test_each_place_is_smoothed_by_itself():
    x = eps(0)
    smoothed = sliding_window(x, (0.25, 0.5, 0.25))
    inner = (x[:, :, :-2] + 2 * x[:, :, 1:-1] + x[:, :, 2:]) / 4
    torch.testing.assert_close(smoothed[:, :, 1:-1], inner)
    torch.testing.assert_close(smoothed[:, :, 0], (2 * x[:, :, 0] + x[:, :, 1]) / 3)
    torch.testing.assert_close(smoothed[:, :, -1], (2 * x[:, :, -1] + x[:, :, -2]) / 3)


@given(
    weights=st.sampled_from([1, 3, 5]).flatmap(
        lambda n: st.lists(st.floats(0.1, 10), min_size=n, max_size=n)
    ),
    frames=st.integers(5, 9),
    scale=st.floats(0.1, 10),
)
@settings(deadline=None)
def test_what_holds_for_every_window(weights, frames, scale):
    """Linear, blind to the scale of the weights, keeps what is constant, and mirrors with time."""
    x, y = eps(1, (1, 2, frames, 1, 3)), eps(2, (1, 2, frames, 1, 3))
    both = sliding_window(x + scale * y, weights)
    torch.testing.assert_close(
        both, sliding_window(x, weights) + scale * sliding_window(y, weights)
    )
    torch.testing.assert_close(
        sliding_window(x, [scale * w for w in weights]), sliding_window(x, weights)
    )
    still = x[:, :, :1].expand_as(x)
    torch.testing.assert_close(sliding_window(still, weights), still)
    torch.testing.assert_close(
        sliding_window(x.flip(2), weights[::-1]).flip(2), sliding_window(x, weights)
    )


@pytest.mark.parametrize("weights", [(3.0,), (0.0, 0.5, 0.0)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_window_of_the_frame_alone_changes_nothing(weights, dtype):
    x = eps(0).to(dtype)
    smoothed = sliding_window(x, weights)
    assert torch.equal(smoothed, x)
    assert smoothed.dtype == dtype


@pytest.mark.parametrize("frames", [1, 2])
def test_a_window_of_three_fits_the_shortest_clips(frames):
    x = over_time(*[4.0, 10.0][:frames])
    expected = over_time(*([4.0] if frames == 1 else [6.0, 8.0]))
    torch.testing.assert_close(sliding_window(x, (0.25, 0.5, 0.25)), expected)


@pytest.mark.parametrize(
    ("weights", "frames", "sentence"),
    [
        ((0.5, 0.5), 5, "2 weights; it needs an odd number"),
        ((), 5, "0 weights; it needs an odd number"),
        ((1.0,) * 7, 6, "7 frames wide and the clip has 6. Give at most 5 weights"),
        ((1.0,) * 5, 2, "5 frames wide and the clip has 2. Give at most 3 weights"),
        ((0.0, 0.0, 0.0), 5, "sum to zero"),
        ((-1.0, 2.0, -1.0), 5, "sum to zero"),
        ((0.1, 0.2, -0.3), 5, "sum to zero"),
        ((3.0, -1.0, 1.0), 5, "sum to zero over the frames that exist at an end"),
        ((1.0, math.nan, 1.0), 5, "finite"),
        ((1.0, math.inf, 1.0), 5, "finite"),
    ],
)
def test_windows_that_cannot_be(weights, frames, sentence):
    with pytest.raises(ValueError, match=sentence):
        sliding_window(eps(0, (1, 1, frames, 1, 1)), weights)


def test_a_mask_by_hand():
    """|difference| is 1, 5, 2, 4.5; with tau 1 the threshold is 4, and 4.5 lies above it."""
    target, source = over_time(1, 5, 0, 0), over_time(0, 0, 2, 4.5)
    mask = adaptive_mask(target, source, 1.0)
    assert mask.flatten().tolist() == [True, False, True, False]
    assert mask.dtype == torch.bool


def test_the_threshold_itself_is_not_below_it():
    assert not adaptive_mask(over_time(3, 5), over_time(0, 0), 2.0).any()


def test_the_maximum_is_over_time_at_each_place():
    target, source = eps(1), eps(2)
    mask = adaptive_mask(target, source, 0.3)
    assert mask.shape == SHAPE
    difference = (target - source).abs()
    for c, y, x in [(0, 0, 0), (2, 6, 10), (1, 3, 5)]:
        values = difference[1, c, :, y, x]
        assert mask[1, c, :, y, x].tolist() == [bool(v < values.max() - 0.3) for v in values]


def test_a_larger_tau_is_stricter():
    target, source = eps(1), eps(2)
    masks = [adaptive_mask(target, source, tau) for tau in (0.0, 0.5, 1.0, 9.0)]
    counts = [int(mask.sum()) for mask in masks]
    assert all((small <= large).all() for large, small in pairwise(masks))
    # Without tau, all but the one maximum in time of each place.
    assert counts[0] == target.numel() * 4 // 5
    assert counts[0] > counts[1] > counts[2] > counts[3] == 0


def test_the_gradient_is_equation_10():
    target, source, weights, tau = eps(1), eps(2), (0.2, 0.5, 0.3), 0.4
    m = adaptive_mask(target, source, tau).double()
    smoothed = sliding_window(source, weights)
    expected = m * (target - smoothed) + (1 - m) * (target - source)
    torch.testing.assert_close(assd_gradient(target, source, weights, tau), expected)


def test_without_a_mask_or_a_window_it_is_delta_denoising():
    target, source = eps(1), eps(2)
    torch.testing.assert_close(
        assd_gradient(target, source, (1, 2, 1), 1e9), target - source, rtol=0, atol=0
    )
    torch.testing.assert_close(
        assd_gradient(target, source, (1,), 0.0), target - source, rtol=0, atol=0
    )


def test_a_clip_of_one_frame_is_delta_denoising():
    target, source = eps(1)[:, :, :1], eps(2)[:, :, :1]
    assert torch.equal(assd_gradient(target, source, (0.25, 0.5, 0.25), 0.0), target - source)


def test_the_term():
    target, source = eps(1), eps(2)
    term = AdaptiveSliding((1.0, 1.0, 1.0), 0.3)
    nothing = torch.zeros_like(target)
    draw = Draw(Level(7, 0.6, 0.8), nothing, nothing, nothing)
    predictions = Predictions(Prediction(nothing, target), Prediction(nothing, source))
    result = term(draw, predictions, target, source)
    assert torch.equal(result.gradient, assd_gradient(target, source, (1.0, 1.0, 1.0), 0.3))
    assert result.value == pytest.approx(result.gradient.square().mean().sqrt().item())
    assert torch.equal(result.smoothed, adaptive_mask(target, source, 0.3))
    assert term.needs == Needs(target=True, source=True)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"weights": (1.0, 1.0)}, "odd number"),
        ({"weights": (0.0,)}, "sum to zero"),
        ({"tau": -0.1}, "tau is -0.1"),
        ({"tau": math.nan}, "tau is nan"),
    ],
)
def test_settings_of_the_term_are_checked(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        AdaptiveSliding(**settings)
