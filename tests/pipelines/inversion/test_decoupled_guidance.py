"""The guidance losses: by hand, against dense arithmetic, and their gradients."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rescore.pipelines.inversion.decoupled_guidance import (
    LOOKS,
    TOKEN_WEIGHT,
    GuidanceSettings,
    block_weight,
    frame_loss,
    guidance_loss,
    guided_step,
    temporal_map_loss,
    token_loss,
)
from rescore.pipelines.models.process import Level, move, split

P, H, F, N, C = 5, 3, 7, 5, 11


def maps(seed: int):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(P, H, F, F, generator=generator, dtype=torch.float64).softmax(-1)


def keys(seed: int):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(F, N, C, generator=generator, dtype=torch.float64)


def mask(seed: int = 2, share: float = 0.4):
    return torch.rand(F, P, generator=torch.Generator().manual_seed(seed)) < share


def picked(reference, current, top_k: int):
    """The largest weights of the reference, and those of the current map in the same places."""
    kept, frames = reference.topk(min(top_k, reference.shape[-1]), dim=-1)
    return kept, current.gather(-1, frames)


def test_temporal_loss_by_hand():
    reference = torch.tensor([[[[1.0, 2.0], [4.0, 3.0]]], [[[5.0, 6.0], [8.0, 7.0]]]])
    current = torch.zeros(2, 1, 2, 2)
    # Of frame 0 position 1 counts (largest: 6), of frame 1 position 0 (4).
    chosen = torch.tensor([[False, True], [True, False]])
    assert temporal_map_loss(*picked(reference, current, 1), chosen) == (36 + 16) / 2
    both = temporal_map_loss(*picked(reference, current, 2), chosen)
    assert both == (36 + 25 + 16 + 9) / 4


@pytest.mark.parametrize("top_k", [1, 3, F, F + 2])
def test_temporal_loss_is_the_mean_over_what_is_selected(top_k):
    reference, current, chosen = maps(0), maps(1), mask()
    threshold = reference.sort(-1, descending=True).values[..., min(top_k, F) - 1, None]
    squares = (reference - current).square()
    selected = (reference >= threshold) & chosen.T[:, None, :, None]
    torch.testing.assert_close(
        temporal_map_loss(*picked(reference, current, top_k), chosen), squares[selected].mean()
    )


def test_token_loss_is_the_mean_over_what_is_selected():
    reference, current, chosen = keys(0), keys(1), mask()
    expected = TOKEN_WEIGHT * (reference - current).square()[chosen].mean()
    torch.testing.assert_close(token_loss(reference, current, chosen), expected)


def test_frame_loss_compares_the_means_of_what_is_selected():
    """As the authors' code does, frame by frame; a frame without any such token does not count."""
    reference, current, chosen = keys(0), keys(1), mask()
    chosen[2] = False
    means = [
        (current[i][chosen[i]] - reference[i][chosen[i]]).mean(dim=0) for i in range(F) if i != 2
    ]
    expected = torch.stack(means).square().mean()
    torch.testing.assert_close(frame_loss(reference, current, chosen), expected)


def test_frame_loss_lets_tokens_change_places():
    everywhere = torch.ones(F, N)
    moved = keys(0).flip(1)
    assert frame_loss(keys(0), moved, everywhere) < 1e-30 < token_loss(keys(0), moved, everywhere)


def test_blocks_1_and_2_have_the_weights_of_the_authors_code():
    assert [block_weight(block) for block in range(4)] == [20000, 20000, 10000, 10000]


def test_shares_weigh():
    reference, current = keys(0), keys(1)
    shares = torch.zeros(F, N, dtype=torch.float64)
    shares[1, 2], shares[3, 4] = 0.75, 0.25
    squares = (reference - current).square().mean(-1)
    expected = TOKEN_WEIGHT * (0.75 * squares[1, 2] + 0.25 * squares[3, 4])
    torch.testing.assert_close(token_loss(reference, current, shares), expected)
    shares[1, 4] = 0.25
    means = torch.stack(
        [
            0.75 * (current - reference)[1, 2] + 0.25 * (current - reference)[1, 4],
            (current - reference)[3, 4],
        ]
    )
    torch.testing.assert_close(frame_loss(reference, current, shares), means.square().mean())


LOSSES = {
    "temporal": lambda current, chosen: temporal_map_loss(*picked(maps(0), current, 2), chosen),
    "frame means": lambda current, chosen: frame_loss(keys(0), current, chosen),
    "token by token": lambda current, chosen: token_loss(keys(0), current, chosen),
}
CURRENT = {"temporal": maps, "frame means": keys, "token by token": keys}


@pytest.mark.parametrize("kind", LOSSES)
def test_gradients(kind):
    current = CURRENT[kind](1).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: LOSSES[kind](x, mask()), current)


@pytest.mark.parametrize("kind", LOSSES)
def test_a_mask_of_nothing_gives_zero_and_a_zero_gradient(kind):
    current = CURRENT[kind](1).requires_grad_()
    loss = LOSSES[kind](current, torch.zeros(F, P, dtype=torch.bool))
    loss.backward()
    assert loss == 0
    assert torch.equal(current.grad, torch.zeros_like(current))


@pytest.mark.parametrize("kind", LOSSES)
def test_no_drift_no_loss_and_no_gradient(kind):
    current = CURRENT[kind](0).requires_grad_()
    loss = LOSSES[kind](current, mask())
    loss.backward()
    assert loss == 0
    assert torch.equal(current.grad, torch.zeros_like(current))


@pytest.mark.parametrize("look", LOOKS)
def test_all_four_parts_add_up(look):
    layers = {"a": picked(maps(0), maps(1), 1), "b": picked(maps(0), maps(2), 1)}
    tokens = {"c": (keys(0), keys(1))}
    shares = mask().double()
    held = GuidanceSettings(0.2, 0.3, 0.5, 0.7, look=look)
    weights = {"a": 3.0, "b": 5.0, "c": 7.0}
    found = guidance_loss(held, layers, tokens, {P: shares}, weights)
    expected = 0.0
    for weight, chosen in ((0.2, shares), (0.3, 1 - shares)):
        one, two = (temporal_map_loss(*layers[name], chosen) for name in "ab")
        expected += weight * (3 * one + 5 * two) / 2
    for weight, chosen in ((0.5, shares), (0.7, 1 - shares)):
        expected += weight * 7 * LOOKS[look](keys(0), keys(1), chosen)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("look", LOOKS)
def test_a_coefficient_means_the_same_at_any_size(look):
    """A clip twice as long whose frames all drift alike: each gets the same gradient."""
    held = GuidanceSettings(0.0, 0.0, 0.3, 0.7, look=look)
    gradients = []
    for times in (1, 2):
        current = keys(1).repeat(times, 1, 1).requires_grad_()
        pair = {"a": (keys(0).repeat(times, 1, 1), current)}
        chosen = {N: mask().double().repeat(times, 1)}
        guidance_loss(held, {}, pair, chosen, {"a": 1.0}, pixels=times * 1000).backward()
        gradients.append(current.grad[:F])
    torch.testing.assert_close(*gradients)


def test_a_coefficient_of_zero_is_left_out():
    broken = {"a": (keys(0), keys(1) / 0)}
    chosen = {N: torch.ones(F, N, dtype=torch.float64)}
    held = GuidanceSettings(0.0, 0.0, 0.0, 0.5)
    assert not torch.isfinite(guidance_loss(held, {}, broken, chosen, {"a": 1.0}))
    layers = {"a": picked(maps(0), maps(1), 1)}
    only = GuidanceSettings(0.5, 0.5, 0.0, 0.0)
    assert torch.isfinite(guidance_loss(only, layers, {}, chosen, {"a": 1.0}))
    assert not GuidanceSettings(0.0, 0.0, 0.0, 0.0).temporal
    assert not GuidanceSettings(0.0, 0.0, 0.0, 0.0).keys
    assert not GuidanceSettings(strength=0.0).keys
    with pytest.raises(ValueError, match="nothing to hold"):
        guidance_loss(GuidanceSettings(0.0, 0.0, 0.0, 0.0), {}, {}, chosen, {})


@given(st.floats(0.01, 0.98), st.floats(0.005, 0.015), st.floats(0.1, 3.0))
@settings(max_examples=50, deadline=None)
def test_guidance_enters_the_direction_term_only(a_from, apart, strength):
    """The step with eps - sqrt(1 - a_from) G in its direction, and eps in its clean clip."""
    a_to = a_from + apart
    z, eps, G = (torch.randn(1, 2, 3, 5, 7, dtype=torch.float64) for _ in range(3))
    clean = (z - math.sqrt(1 - a_from) * eps) / math.sqrt(a_from)
    direction = eps - strength * math.sqrt(1 - a_from) * G
    expected = math.sqrt(a_to) * clean + math.sqrt(1 - a_to) * direction
    here, there = (Level(0.0, math.sqrt(a), math.sqrt(1 - a)) for a in (a_from, a_to))
    plain = move(split(eps, z, here, "epsilon"), there)
    stepped = guided_step(plain, G, here, there, strength)
    torch.testing.assert_close(stepped, expected)


def test_without_guidance_a_step_is_left_as_it_is():
    z = torch.randn(1, 2, 3, 5, 7)
    here, there = Level(9.0, 0.6, 0.8), Level(3.0, 0.8, 0.6)
    assert guided_step(z, None, here, there, 1.0) is z
    assert guided_step(z, torch.ones_like(z), here, there, 0.0) is z


def test_swapping_is_for_the_background():
    swapped = GuidanceSettings(0.5, 0.8, 0.0, 0.25, top_k=3).swapped()
    assert swapped == GuidanceSettings(0.8, 0.5, 0.25, 0.0, top_k=3)
    assert swapped.swapped() == GuidanceSettings(0.5, 0.8, 0.0, 0.25, top_k=3)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"temporal_foreground": -0.1}, "temporal foreground is -0.1"),
        ({"keys_background": math.nan}, "keys background is nan"),
        ({"strength": math.inf}, "strength is inf"),
        ({"top_k": 0}, "top k is 0"),
    ],
)
def test_settings_are_checked(wrong, sentence):
    with pytest.raises(ValueError, match=sentence):
        GuidanceSettings(**wrong)
