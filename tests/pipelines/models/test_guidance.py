"""The one convention of classifier-free guidance."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from rescore.pipelines.models.denoiser import guide


def test_guide_by_hand():
    assert guide(torch.tensor([1.0]), torch.tensor([3.0]), 2.5).item() == 6.0


@given(st.floats(-100, 100), st.floats(-100, 100))
def test_scale_0_is_unconditional_and_1_conditional(uncond, cond):
    uncond, cond = torch.tensor([uncond]), torch.tensor([cond])
    assert torch.equal(guide(uncond, cond, 0), uncond)
    assert torch.equal(guide(uncond, cond, 1), cond)


@given(st.floats(0, 20))
def test_equal_predictions_stay_whatever_the_scale(cfg):
    eps = torch.linspace(-2, 2, 7)
    assert torch.equal(guide(eps, eps, cfg), eps)
