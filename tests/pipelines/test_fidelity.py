"""Signal-to-noise by hand."""

import math

import pytest
import torch
from rescore.pipelines.fidelity import psnr


def test_by_hand():
    a = torch.zeros(2, 3, 5)
    assert psnr(a, a + 0.1) == pytest.approx(20, abs=1e-5)
    assert psnr(a, a + 1) == pytest.approx(0)
    assert psnr(a, a) == math.inf
