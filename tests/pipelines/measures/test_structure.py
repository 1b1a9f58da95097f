"""Structure distance: a case computed by hand, and what it does not see."""

import pytest
import torch
from rescore.pipelines.measures.structure import structure_distance


def test_by_hand():
    # Two tokens: at right angles, and at 60 degrees with other lengths. S differs by 1/2 off the
    # diagonal, which is half of the four entries: 1000 * (2 * 1/4) / 4 = 125.
    before = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    after = torch.tensor([[[2.0, 0.0], [3.0 * 0.5, 3.0 * 0.75**0.5]]])
    found = structure_distance(before, after)
    assert found.value == pytest.approx(125)
    assert (found.name, found.unit, found.better) == ("structure distance", "x1000", "lower")
    both = structure_distance(torch.cat([before, before]), torch.cat([after, before]))
    assert both.values == pytest.approx((125, 0), abs=1e-4) and both.value == pytest.approx(62.5)


def test_length_and_rotation_of_keys_are_no_structure():
    generator = torch.Generator().manual_seed(0)
    keys = torch.randn(2, 7, 5, generator=generator)
    turn, _ = torch.linalg.qr(torch.randn(5, 5, generator=generator))
    lengths = torch.rand(2, 7, 1, generator=generator) + 0.5
    assert structure_distance(keys, lengths * keys @ turn).value == pytest.approx(0, abs=1e-6)
    assert structure_distance(keys, keys.flip(1)).value > 1


def test_clips_that_differ_are_told():
    with pytest.raises(ValueError, match="2 frames of 7 tokens and the edit 3 of 7"):
        structure_distance(torch.rand(2, 7, 5), torch.rand(3, 7, 5))
