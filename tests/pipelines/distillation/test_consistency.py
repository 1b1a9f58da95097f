"""Global consistency: what frames show on the whole, beside what the source's show."""

import pytest
import torch
from rescore.pipelines.distillation.consistency import global_consistency_loss

SIZE = (5, 7, 11)


def keys(seed=0, size=SIZE) -> torch.Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_a_case_by_hand():
    """Two frames of one place. From their means they deviate by (1, 0), in the target by (1, 2).

    They differ by (0, 2) and its opposite, 4 each; the source's features have squares 9 and 1.
    """
    source = torch.tensor([[[3.0, 0.0]], [[1.0, 0.0]]])
    target = torch.tensor([[[8.0, 3.0]], [[6.0, -1.0]]])
    assert global_consistency_loss(source, target).item() == pytest.approx(4 / 5)


def test_it_is_the_distance_of_deviations():
    source, target = keys(), keys(1)
    pooled = [k.mean(dim=1) for k in (source, target)]
    s, t = (p - p.mean(dim=0) for p in pooled)
    expected = (t - s).square().sum() / pooled[0].square().sum()
    torch.testing.assert_close(global_consistency_loss(source, target), expected)


def test_an_edit_that_moves_all_frames_alike_is_free():
    source = keys()
    target = source + keys(1, (1, 1, SIZE[2]))
    assert global_consistency_loss(source, target).item() < 1e-28


def test_where_it_happens_in_the_frame_does_not_count():
    source, target = keys(), keys(1)
    moved = target.flip(1)
    torch.testing.assert_close(
        global_consistency_loss(source, moved), global_consistency_loss(source, target)
    )


def test_flicker_costs_its_square():
    source = keys()
    flicker = keys(1, (SIZE[0], 1, SIZE[2]))
    once, twice = (global_consistency_loss(source, source + n * flicker) for n in (1, 2))
    torch.testing.assert_close(twice, 4 * once)
    assert once > 0.1


def test_the_scale_of_the_features_does_not_count():
    source, target = keys(), keys(1)
    torch.testing.assert_close(
        global_consistency_loss(9 * source, 9 * target), global_consistency_loss(source, target)
    )


def test_gradcheck():
    source, target = keys(), keys(1).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: global_consistency_loss(source, x), target)


def test_one_frame_strays_from_nothing():
    target = keys(1)[:1].requires_grad_()
    value = global_consistency_loss(keys()[:1], target)
    assert value.item() == 0
    assert not torch.autograd.grad(value, target)[0].any()


def test_half_precision_is_computed_in_float32():
    source, target = keys().half(), keys(1).half()
    value = global_consistency_loss(source, target)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, global_consistency_loss(source.float(), target.float()))


def test_a_source_of_zeros_is_no_nan():
    assert torch.isfinite(global_consistency_loss(0 * keys(), 0 * keys()))
