"""Windows cover every frame, and what they give blends without a seam."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rescore.pipelines.models.process import Level, Prediction
from rescore.pipelines.windows import Windows, blended, windowed

LEVEL = Level(5, 0.6, 0.8)


@settings(max_examples=200, deadline=None)
@given(st.integers(2, 33), st.integers(0, 32), st.integers(1, 200))
def test_every_frame_is_covered_and_neighbours_overlap(length, overlap, frames):
    if overlap >= length:
        return
    spans = Windows(length, overlap).over(frames)
    assert spans[0].start == 0 and spans[-1].stop == frames
    assert all(span.stop - span.start == min(length, frames) for span in spans)
    for one, next_one in pairwise(spans):
        assert one.start < next_one.start <= one.stop - overlap


@pytest.mark.parametrize("frames", [1, 5, 8])
def test_one_window_is_the_model_itself_bit_for_bit(frames):
    z = torch.randn(2, 3, frames, 5, 7)
    calls = []

    def predict(z, level, cond):
        calls.append(z.shape)
        return Prediction(z.sin(), z.cos())

    found = windowed(predict, Windows(8, 2))(z, LEVEL, torch.zeros(2, 1, 1))
    assert torch.equal(found.z_0, z.sin()) and torch.equal(found.eps, z.cos())
    assert calls == [z.shape]
    assert windowed(predict, None) is predict


@pytest.mark.parametrize(("frames", "length", "overlap"), [(11, 4, 1), (23, 8, 3), (9, 8, 0)])
def test_what_does_not_depend_on_the_window_is_kept(frames, length, overlap):
    z = torch.randn(2, 3, frames, 5, 7, dtype=torch.float64)
    cond = torch.randn(2, frames, 1, 1, dtype=torch.float64)

    def predict(z, level, cond):
        return Prediction(z * level.signal + cond[:, None], z * level.t)

    found = windowed(predict, Windows(length, overlap))(z, LEVEL, cond)
    torch.testing.assert_close(found, predict(z, LEVEL, cond))


def test_the_blend_by_hand():
    """Two windows of 3 over 4 frames: depths 1 2 1 and 1 2 1."""
    parts = [torch.zeros(1, 1, 3, 1, 1), torch.ones(1, 1, 3, 1, 1)]
    found = blended(parts, [slice(0, 3), slice(1, 4)], 4).flatten()
    torch.testing.assert_close(found, torch.tensor([0, 1 / 3, 2 / 3, 1]))


def test_gradients_come_through():
    z = torch.randn(1, 2, 5, 1, 1, dtype=torch.float64, requires_grad=True)
    spans = Windows(3, 1).over(5)
    assert torch.autograd.gradcheck(
        lambda z: blended([z[:, :, s].sin() for s in spans], spans, 5), z
    )


@pytest.mark.parametrize(("length", "overlap"), [(1, 0), (0, 0), (4, 4), (4, 7), (4, -1)])
def test_windows_that_cannot_cover_are_told(length, overlap):
    with pytest.raises(ValueError, match="cannot cover a clip"):
        Windows(length, overlap)
