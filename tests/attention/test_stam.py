"""Temporal attention that restricts the shift of features: means, variances, spectral norms."""

import copy

import pytest
import torch
from rescore.attention.linear import SpectralLinear, TrainedLinear, drawn_weight
from rescore.attention.stam import TEMPORAL, ShiftRestrictedTemporalAttention, instance_center
from rescore.attention.temporal import TemporalAttention, instance_norm, layer_norm
from torch import nn

F, D, HEADS = 7, 12, 3


def features(*batch: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    mean = torch.randn(*batch, 1, D, generator=generator, dtype=dtype)
    return mean + torch.randn(*batch, F, D, generator=generator, dtype=dtype)


def trained(kind: str, seed: int = 1, scale: float = 3.0) -> TemporalAttention:
    """A module whose every weight and bias has been moved far from where it began."""
    generator = torch.Generator().manual_seed(seed)
    module = TEMPORAL[kind](D, HEADS, generator=generator).double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += scale * torch.randn(
                parameter.shape, generator=generator, dtype=torch.float64
            )
    for part in module.modules():
        if isinstance(part, SpectralLinear):
            part.settle()
    return module


def covariance(z: torch.Tensor) -> torch.Tensor:
    centred = z - z.mean(dim=-2, keepdim=True)
    return centred.mT @ centred / z.shape[-2]


def test_instance_center_by_hand():
    z = torch.tensor([[[1.0, 10.0], [3.0, 20.0]], [[5.0, 0.0], [5.0, 4.0]]])
    expected = torch.tensor([[[-1.0, -5.0], [1.0, 5.0]], [[0.0, -2.0], [0.0, 2.0]]])
    assert torch.equal(instance_center(z), expected)


def test_instance_center_takes_any_leading_axes_and_keeps_the_variance():
    z = features(2, 3, 5)
    centred = instance_center(z)
    torch.testing.assert_close(centred.mean(dim=-2), torch.zeros(2, 3, 5, D, dtype=z.dtype))
    torch.testing.assert_close(covariance(centred), covariance(z))
    assert torch.equal(instance_center(features()), features() - features().mean(0))


def test_norms_against_torch():
    z = features(5)
    assert torch.equal(layer_norm(z), nn.LayerNorm(D, elementwise_affine=False)(z))
    expected = nn.InstanceNorm1d(D)(z.mT).mT
    torch.testing.assert_close(instance_norm(z), expected)


@pytest.mark.parametrize("kind", ["stam", "centred"])
def test_the_temporal_mean_is_kept_whatever_the_weights(kind):
    module = trained(kind)
    nn.init.zeros_(module.to_out.bias)
    z = features(5)
    assert (module(z) - z).abs().max() > 0.1
    torch.testing.assert_close(module(z).mean(-2), z.mean(-2), rtol=1e-12, atol=1e-12)


def test_the_bias_is_all_that_moves_the_mean():
    module, z = trained("stam"), features(5)
    expected = z.mean(-2) + module.to_out.bias
    torch.testing.assert_close(module(z).mean(-2), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", ["layer-norm", "spectral"])
def test_layer_norm_moves_the_temporal_mean(kind):
    module, z = trained(kind), features(5)
    nn.init.zeros_(module.to_out.bias)
    assert (module(z).mean(-2) - z.mean(-2)).abs().max() > 0.1


def test_the_module_is_its_equations_written_out():
    module, z = trained("stam"), features()
    x = z - z.mean(0)
    w_v = module.to_v.weight / torch.linalg.matrix_norm(module.to_v.weight, 2)
    w_l = module.to_out.weight / torch.linalg.matrix_norm(module.to_out.weight, 2)
    heads = []
    for h in range(HEADS):
        rows = slice(h * D // HEADS, (h + 1) * D // HEADS)
        q, k = x @ module.to_q.weight[rows].T, x @ module.to_k.weight[rows].T
        m = (q @ k.T / (D // HEADS) ** 0.5).softmax(dim=-1)
        heads.append(m @ (x @ w_v[rows].T))
    attended = torch.cat(heads, dim=-1)
    expected = z + (attended - attended.mean(0)) @ w_l.T + module.to_out.bias
    torch.testing.assert_close(module(z), expected, rtol=1e-9, atol=1e-9)


def test_the_variance_bound():
    """Eq. 7: |Sigma_added| <= |W_L|^2 |W_v|^2 |Sigma_in|, with all norms spectral and the maps' 1.

    The equation is about independent rows; for any features at all, the attention of each head has
    rows that are averages of V, so that the added covariance is at most f times as large.
    """
    for seed in range(20):
        module, z = trained("stam", seed), features(seed=seed + 100)
        added = (module(z) - z) - module.to_out.bias
        norm = torch.linalg.matrix_norm(covariance(added), 2)
        within = torch.linalg.matrix_norm(covariance(z), 2)
        attention = read_maps(module, z)
        row = attention.square().sum(-1).max()  # omega of Proposition 1
        assert norm <= HEADS * F * row * within * (1 + 1e-9)
        assert norm <= HEADS * F * within * (1 + 1e-9)


def read_maps(module: TemporalAttention, z: torch.Tensor) -> torch.Tensor:
    x = module.norm(z)
    q = module.to_q(x).view(F, HEADS, -1).transpose(0, 1)
    k = module.to_k(x).view(F, HEADS, -1).transpose(0, 1)
    return (q @ k.mT / q.shape[-1] ** 0.5).softmax(dim=-1)


def test_the_variance_bound_of_proposition_1():
    """Rows that are Gaussian and independent: the covariance of what is added, over many draws.

    With W_q = 0 every frame reads the mean of all (omega = 1 / f); here one frame reads itself
    alone, the extreme case omega = 1, by sampling values directly through the normalised maps.
    """
    module = trained("stam")
    generator = torch.Generator().manual_seed(5)
    spread = torch.randn(D, D, generator=generator, dtype=torch.float64)
    z = torch.randn(200_000, D, generator=generator, dtype=torch.float64) @ spread
    added = z @ module.to_v.map.T @ module.to_out.map.T
    for order in (2, "fro"):
        grown = torch.linalg.matrix_norm(covariance(added), order)
        assert grown <= torch.linalg.matrix_norm(covariance(z), order) * (1 + 1e-9)


@pytest.mark.parametrize("shape", [(5, 11), (11, 5), (7, 7)])
def test_spectral_norm_is_the_largest_singular_value(shape):
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(shape, generator=generator, dtype=torch.float64)
    layer = SpectralLinear(weight, generator=generator)
    layer.settle()
    torch.testing.assert_close(layer.sigma, torch.linalg.svdvals(weight)[0], rtol=1e-10, atol=0.0)
    torch.testing.assert_close(
        torch.linalg.matrix_norm(layer.map, 2), torch.ones((), dtype=weight.dtype)
    )


@pytest.mark.parametrize("seed", range(3))
def test_spectral_norm_is_exact_from_the_beginning(seed):
    """Also where the largest singular values lie close together, as in wide random maps."""
    generator = torch.Generator().manual_seed(seed)
    layer = SpectralLinear(drawn_weight(317, 331, generator), generator=generator)
    assert torch.linalg.matrix_norm(layer.map.double(), 2).item() == pytest.approx(1, abs=2e-6)


def test_one_refinement_follows_a_small_change():
    generator = torch.Generator().manual_seed(3)
    layer = SpectralLinear(torch.randn(31, 31, generator=generator), generator=generator)
    for _ in range(50):
        with torch.no_grad():
            layer.weight += 3e-3 * torch.randn(31, 31, generator=generator).sign()
        layer.refine()
    torch.testing.assert_close(
        layer.sigma, torch.linalg.svdvals(layer.weight)[0], rtol=1e-2, atol=0.0
    )


def test_settling_finds_the_norm_wherever_the_weights_have_gone():
    """Also from a singular vector that is not the largest any more, where one step stays."""
    layer = SpectralLinear(torch.diag(torch.tensor([3.0, 2.0, 1.0])))
    with torch.no_grad():
        layer.weight.copy_(torch.diag(torch.tensor([1.0, 2.0, 5.0])))
    layer.refine()
    assert layer.sigma < 1.1
    layer.settle()
    torch.testing.assert_close(layer.sigma, torch.tensor(5.0))


def test_as_printed_is_equation_9_to_the_letter():
    module = TEMPORAL["stam-as-printed"](D, generator=torch.Generator().manual_seed(0)).double()
    with torch.no_grad():
        module.to_q.weight.copy_(module.to_k.weight.flip(0))
    z = torch.randn(2, 7, D, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x = z - z.mean(dim=1, keepdim=True)
    q, k, v = x @ module.to_q.map.T, x @ module.to_k.map.T, x @ module.to_v.map.T
    read = (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1) @ v
    torch.testing.assert_close(module(z), z + read @ module.to_out.map.T + module.to_out.bias)
    assert (module(z).mean(dim=1) - z.mean(dim=1)).abs().max() > 1e-3


def test_the_gradient_goes_through_the_norm():
    generator = torch.Generator().manual_seed(3)
    layer = SpectralLinear(torch.randn(5, 3, generator=generator, dtype=torch.float64))
    layer.settle()
    x = torch.randn(7, 3, generator=generator, dtype=torch.float64)

    def outputs(weight):
        return x @ (weight / torch.linalg.matrix_norm(weight, 2)).T

    weight = layer.weight.detach().clone().requires_grad_()
    (expected,) = torch.autograd.grad(outputs(weight).square().sum(), weight)
    (found,) = torch.autograd.grad(layer(x).square().sum(), layer.weight)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("kind", TEMPORAL)
@pytest.mark.parametrize("frames", [1, 2, 5])
def test_modules_begin_finite_and_with_finite_gradients(kind, frames):
    module = TEMPORAL[kind](D, HEADS, generator=torch.Generator().manual_seed(0))
    z = features(4, dtype=torch.float32)[:, :frames].requires_grad_()
    out = module(z)
    out.square().sum().backward()
    assert torch.isfinite(out).all()
    assert torch.isfinite(z.grad).all()
    assert all(torch.isfinite(p.grad).all() for p in module.parameters())


def test_spectral_norm_of_a_matrix_of_zeros():
    layer = SpectralLinear(torch.zeros(3, 5))
    assert torch.equal(layer(torch.ones(2, 5)), torch.zeros(2, 3))
    layer(torch.ones(2, 5)).sum().backward()
    assert torch.isfinite(layer.weight.grad).all()


@pytest.mark.parametrize("kind", ["layer-norm", "instance-norm", "centred"])
def test_modules_with_a_free_output_map_begin_as_the_identity(kind):
    module = TEMPORAL[kind](D, HEADS, generator=torch.Generator().manual_seed(0))
    z = features(5, dtype=torch.float32)
    assert torch.equal(module(z), z)


def test_stam_begins_as_the_identity_to_within_rounding():
    module = ShiftRestrictedTemporalAttention(D, HEADS).double()
    z = features(5)
    torch.testing.assert_close(module(z), z, rtol=0, atol=1e-14)


def test_a_frozen_clip_passes_stam_unchanged():
    module = trained("stam")
    nn.init.zeros_(module.to_out.bias)
    z = features(5)[:, :1].expand(-1, F, -1)
    torch.testing.assert_close(module(z), z, rtol=0, atol=1e-13)


def test_all_of_stam_learns():
    module = ShiftRestrictedTemporalAttention(D, HEADS, generator=torch.Generator().manual_seed(0))
    before = copy.deepcopy(module.state_dict())
    optimiser = torch.optim.AdamW(module.parameters(), lr=1e-2)
    z, wanted = features(3, dtype=torch.float32), features(3, seed=1, dtype=torch.float32)
    for _ in range(5):
        optimiser.zero_grad()
        (module(z) - wanted).square().mean().backward()
        optimiser.step()
        module.refine_norms()
    assert all(not torch.equal(before[name], p) for name, p in module.named_parameters())
    assert not torch.equal(before["to_v.u"], module.to_v.u)


def test_the_same_generator_gives_the_same_module_and_leaves_the_global_state_alone():
    state = torch.get_rng_state()
    one, two = (
        ShiftRestrictedTemporalAttention(D, HEADS, generator=torch.Generator().manual_seed(4))
        for _ in range(2)
    )
    assert all(torch.equal(a, two.state_dict()[name]) for name, a in one.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


def test_weights_stay_in_float32_while_a_module_computes_in_half_precision():
    module = ShiftRestrictedTemporalAttention(D, HEADS)
    out = module(features(5, dtype=torch.bfloat16))
    assert out.dtype == torch.bfloat16
    assert {p.dtype for p in module.parameters()} == {torch.float32}
    layer = TrainedLinear(torch.ones(3, 5, dtype=torch.float16))
    assert layer.weight.dtype == torch.float32
    assert layer(torch.ones(2, 5, dtype=torch.float16)).dtype == torch.float16


def test_more_positions_than_one_kernel_takes(monkeypatch):
    module, z = trained("stam"), features(11)
    whole = module(z)
    monkeypatch.setattr("rescore.attention.temporal._ROWS_PER_KERNEL", 4)
    torch.testing.assert_close(module(z), whole)


def test_heads_that_do_not_divide_the_channels_are_named():
    with pytest.raises(ValueError, match="13 channels cannot be split over 3 heads"):
        TemporalAttention(13, 3)
    assert TemporalAttention(13, 3, 4)(torch.zeros(2, F, 13)).shape == (2, F, 13)
