"""Self-similarity without the maps, against the maps."""

import pytest
import torch
from rescore.pipelines.distillation.self_similarity import (
    spatial_self_similarity_loss,
    temporal_self_similarity_loss,
)
from torch.nn.functional import cosine_similarity, normalize

# More channels than places, fewer, and as many: both forms of the distance.
SIZES = pytest.mark.parametrize("size", [(3, 5, 11), (3, 11, 5), (2, 7, 7)], ids=str)
LOSSES = pytest.mark.parametrize(
    "loss", [spatial_self_similarity_loss, temporal_self_similarity_loss]
)


def keys(size, seed=0, dtype=torch.float64) -> torch.Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def self_map(rows: torch.Tensor) -> torch.Tensor:
    """Eq. 11 and 14 as they are written: the cosine of every two rows."""
    return cosine_similarity(rows[..., :, None, :], rows[..., None, :, :], dim=-1)


def explicit_spatial(source, target):
    difference = self_map(target) - self_map(source)
    return difference.square().sum(dim=(1, 2)).mean() / source.shape[1] ** 2


def explicit_temporal(source, target):
    difference = self_map(target.mean(dim=1)) - self_map(source.mean(dim=1))
    return difference.square().sum() / len(source) ** 2


PAIRS = pytest.mark.parametrize(
    ("loss", "explicit"),
    [
        (spatial_self_similarity_loss, explicit_spatial),
        (temporal_self_similarity_loss, explicit_temporal),
    ],
)


@PAIRS
@SIZES
def test_value_and_gradient_are_those_of_the_maps(loss, explicit, size):
    source, target = keys(size), keys(size, 1).requires_grad_()
    value, expected = loss(source, target), explicit(source, target)
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=0)
    (gradient,) = torch.autograd.grad(value, target)
    (expected,) = torch.autograd.grad(expected, target)
    torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-14)


@LOSSES
@SIZES
def test_gradcheck(loss, size):
    source, target = keys(size), keys(size, 1).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: loss(source, x), target)
    assert torch.autograd.gradcheck(lambda x: loss(x, target.detach()), source.requires_grad_())


def test_a_spatial_case_by_hand():
    """Equal keys look alike in the source (1), at a right angle in the target (0): 2 of 4 pairs."""
    source = torch.tensor([[[1.0, 0.0], [5.0, 0.0]]])
    target = torch.tensor([[[2.0, 0.0], [0.0, 3.0]]])
    assert spatial_self_similarity_loss(source, target).item() == pytest.approx(2 / 4)


def test_a_temporal_case_by_hand():
    """Three frames, alike in the source; in the target the last one points the other way."""
    source = torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1).expand(3, 2, 1)
    target = torch.tensor([1.0, 1.0, -1.0]).view(3, 1, 1).expand(3, 2, 1)
    # Four of nine cosines are -1 instead of 1.
    assert temporal_self_similarity_loss(source, target).item() == pytest.approx(4 * 4 / 9)


@LOSSES
@SIZES
def test_rotating_and_scaling_all_keys_is_no_difference(loss, size):
    """Only what is like what counts: not where in feature space it lies."""
    source = keys(size)
    rotation = torch.linalg.qr(keys((size[-1], size[-1]), 2)).Q
    assert loss(source, 3 * source @ rotation).item() < 1e-25
    scales = 1 + torch.arange(size[0], dtype=torch.float64).view(-1, 1, 1)
    assert loss(source, scales * source).item() < 1e-25


def test_the_number_of_places_does_not_count():
    """Every place twice gives the same mean over pairs."""
    source, target = keys((3, 5, 11)), keys((3, 5, 11), 1)
    twice = spatial_self_similarity_loss(source.repeat(1, 2, 1), target.repeat(1, 2, 1))
    torch.testing.assert_close(twice, spatial_self_similarity_loss(source, target))


@LOSSES
@SIZES
def test_nothing_cancels_as_the_clips_become_equal(loss, size):
    """In float32 the loss is right as far as the keys are, even at a distance of 1e-6.

    The form with three Gram norms has lost everything there.
    """
    source, step = keys(size).float().double(), 1e-6 * keys(size, 1)
    exact = (source + step).float().double().requires_grad_()
    expected = loss(source, exact)
    (expected_gradient,) = torch.autograd.grad(expected, exact)

    target = exact.detach().float().requires_grad_()
    value = loss(source.float(), target)
    (gradient,) = torch.autograd.grad(value, target)
    # The normalised keys are rounded to 6e-8 of their size, some % of the distance.
    assert value.item() == pytest.approx(expected.item(), rel=0.3)
    cosine = cosine_similarity(gradient.double().flatten(), expected_gradient.flatten(), dim=0)
    assert cosine > 0.95

    a, b = normalize(source.float(), dim=-1), normalize(target.detach(), dim=-1)
    grams = sum(s * (x.mT @ y).square().sum() for s, x, y in ((1, a, a), (1, b, b), (-2, a, b)))
    if loss is spatial_self_similarity_loss:
        exact_sum = expected.item() * size[0] * size[1] ** 2
        assert abs(grams.item() - exact_sum) > 0.9 * exact_sum


@LOSSES
def test_equal_clips_have_no_loss_and_no_gradient(loss):
    source = keys((3, 11, 5), dtype=torch.float32)
    target = source.clone().requires_grad_()
    value = loss(source, target)
    assert value.item() == 0
    assert not torch.autograd.grad(value, target)[0].any()


def test_one_frame_has_nothing_to_say_about_time():
    source, target = keys((1, 5, 7)), keys((1, 5, 7), 1).requires_grad_()
    value = temporal_self_similarity_loss(source, target)
    assert value.item() == 0
    assert not torch.autograd.grad(value, target)[0].any()


@LOSSES
def test_half_precision_is_computed_in_float32(loss):
    source, target = keys((3, 11, 5)).half(), keys((3, 11, 5), 1).half()
    value = loss(source, target)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, loss(source.float(), target.float()))


@LOSSES
def test_keys_of_zero_are_no_nan(loss):
    source, target = keys((2, 3, 5)), torch.zeros(2, 3, 5, dtype=torch.float64).requires_grad_()
    value = loss(source, target)
    assert torch.isfinite(value)
    assert torch.isfinite(torch.autograd.grad(value, target)[0]).all()


def test_the_maps_are_never_formed():
    """1600 places: a map would be 10 MB; nothing that large is kept for the way back."""
    source, target = keys((1, 1600, 8), dtype=torch.float32), keys((1, 1600, 8), 1).float()
    largest = 0

    def pack(tensor):
        nonlocal largest
        largest = max(largest, tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        spatial_self_similarity_loss(source, target.requires_grad_())
    assert largest <= 1600 * 8
