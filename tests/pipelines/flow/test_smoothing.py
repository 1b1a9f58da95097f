"""Gradients smoothed along optical flow: what is averaged, with what, and what is left alone."""

import pytest
import torch
from rescore.pipelines.flow import Flow, FlowSmoothing, smooth_along_flow, visibility
from rescore.pipelines.models.grid import ClipGrid
from small_flows import H, W, random, steady


def still(frames: int, height: int = H, width: int = W):
    """No motion at all, everything visible."""
    flow = steady(0, 0, frames - 1, height, width)
    seen = torch.ones(frames - 1, height, width, dtype=torch.bool)
    return flow, flow.clone(), seen, seen.clone()


def over_time(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64).view(1, 1, -1, 1, 1).repeat(1, 1, 1, 3, 5)


@pytest.mark.parametrize(
    ("radius", "strength", "expected"),
    [
        (1, 1.0, (6, 13, 33, 45.5)),
        (2, 1.0, (13, 25.75, 25.75, 33)),
        (9, 1, (25.75,) * 4),
        (1, 0.5, (5, 10.5, 30, 54.75)),
        (1, 0.0, (4, 8, 27, 64)),
    ],
)
def test_where_nothing_moves_it_is_the_mean_over_time(radius, strength, expected):
    smoothed = smooth_along_flow(over_time(4, 8, 27, 64), *still(4, 3, 5), strength, radius)
    torch.testing.assert_close(smoothed, over_time(*expected))


def drifting(frames: int, step: int):
    """A picture that moves `step` pixels to the right with every frame, and its flow."""
    wide = random(1, 3, 1, H, W + step * frames)
    gradient = torch.cat(
        [wide[..., step * (frames - i) : step * (frames - i) + W] for i in range(frames)], dim=2
    )
    forward, backward = steady(step, 0, frames - 1), steady(-step, 0, frames - 1)
    return gradient, forward, backward, visibility(forward, backward), visibility(backward, forward)


@pytest.mark.parametrize("radius", [1, 2, 3])
def test_what_moves_with_the_flow_stays_as_it_is(radius):
    """Each frame finds its own values again in the others, as far as they show them."""
    gradient, *flow = drifting(5, 2)
    torch.testing.assert_close(smooth_along_flow(gradient, *flow, 1.0, radius), gradient)
    # Which it would not without the flow.
    smoothed = smooth_along_flow(gradient, *still(5), 1.0, radius)
    assert not torch.allclose(smoothed, gradient, atol=0.1)


def test_noise_on_what_moves_is_averaged_away():
    gradient, *flow = drifting(7, 1)
    noise = random(*gradient.shape, seed=4)
    smoothed = smooth_along_flow(gradient + noise, *flow, 1.0, 1) - gradient
    inner = smoothed[:, :, 1:-1, :, 1:-1]
    torch.testing.assert_close(inner.std(), noise.std() / 3**0.5, rtol=0.1, atol=0)


def test_longer_ways_are_chained():
    """Frame 0 leads 2 pixels right to frame 1, which leads 3 down to frame 2."""
    gradient = random(1, 2, 3, H, W)
    forward = torch.cat([steady(2, 0), steady(0, 3)])
    hidden, seen = torch.zeros(2, H, W, dtype=torch.float64), torch.ones(2, H, W).double()
    smoothed = smooth_along_flow(gradient, forward, -forward, seen, hidden, 1.0, 2)
    zero, one, two = gradient[0].unbind(dim=1)
    expected = (zero[:, :-3, :-2] + one[:, :-3, 2:] + two[:, 3:, 2:]) / 3
    torch.testing.assert_close(smoothed[0, :, 0, :-3, :-2], expected)
    # And back by the same ways; but nothing was said to be visible there.
    torch.testing.assert_close(smoothed[:, :, 2], gradient[:, :, 2])


def test_backward_flow_reaches_earlier_frames():
    gradient = random(1, 2, 2, H, W)
    flow, seen = steady(0, 0), torch.ones(1, H, W, dtype=torch.bool)
    smoothed = smooth_along_flow(gradient, flow, steady(-1, 0), ~seen, seen, 1.0, 1)
    torch.testing.assert_close(smoothed[:, :, 0], gradient[:, :, 0])
    expected = (gradient[:, :, 1, :, 1:] + gradient[:, :, 0, :, :-1]) / 2
    torch.testing.assert_close(smoothed[:, :, 1, :, 1:], expected)


def test_hidden_points_take_nothing():
    gradient, (flow, back, seen, seen_back) = random(1, 2, 3, H, W), still(3)
    seen[0, 4, 6] = seen_back[1, 2, 3] = False
    smoothed = smooth_along_flow(gradient, flow, back, seen, seen_back, 1.0, 1)
    everywhere = smooth_along_flow(gradient, *still(3), 1.0, 1)
    changed = (smoothed != everywhere).any(dim=1)[0]
    assert changed.nonzero().tolist() == [[0, 4, 6], [2, 2, 3]]
    torch.testing.assert_close(smoothed[:, :, 0, 4, 6], gradient[:, :, 0, 4, 6])


def test_half_hidden_points_count_half():
    gradient, (flow, back, _, _) = over_time(4, 10), still(2, 3, 5)
    half = torch.full((1, 3, 5), 0.5, dtype=torch.float64)
    smoothed = smooth_along_flow(gradient, flow, back, half, half, 1.0, 1)
    torch.testing.assert_close(smoothed, over_time(6, 8))


def test_clips_of_a_batch_share_the_flow():
    gradient, *flow = drifting(4, 1)
    other = random(*gradient.shape, seed=5)
    both = smooth_along_flow(torch.cat([gradient, other]), *flow, 0.7, 2)
    single = [smooth_along_flow(part, *flow, 0.7, 2) for part in (gradient, other)]
    torch.testing.assert_close(both, torch.cat(single))


def test_time_may_run_backwards():
    gradient, (forward, backward, *_) = random(1, 2, 4, H, W), drifting(4, 1)[1:]
    forward, backward = forward + 0.3, backward - 0.2
    seen = [(random(3, H, W, seed=s) > 0).double() for s in (1, 2)]
    there = smooth_along_flow(gradient, forward, backward, *seen, 0.8, 3)
    back = smooth_along_flow(
        gradient.flip(2), backward.flip(0), forward.flip(0), *(s.flip(0) for s in reversed(seen)),
        0.8, 3,
    )  # fmt: skip
    torch.testing.assert_close(back.flip(2), there)


def test_a_clip_of_one_frame_stays_as_it_is():
    gradient = random(1, 2, 1, H, W)
    assert torch.equal(smooth_along_flow(gradient, *still(1), 1.0, 3), gradient)


@pytest.mark.parametrize(
    ("frames", "size", "sentence"),
    [
        (5, (H, W), f"5 frames of {W} x {H}, and the gradient has 4 frames"),
        (4, (H, W + 1), f"4 frames of {W + 1} x {H}, and the gradient has 4 frames of {W} x {H}"),
    ],
)
@pytest.mark.parametrize("which", ["forward", "backward"])
def test_another_clips_flow(frames, size, sentence, which):
    forward, backward, seen, seen_back = still(4)
    wrong = steady(0, 0, frames - 1, *size)
    ways = (wrong, backward) if which == "forward" else (forward, wrong)
    with pytest.raises(ValueError, match=sentence):
        smooth_along_flow(random(1, 2, 4, H, W), *ways, seen, seen_back, 0.5, 1)


@pytest.mark.parametrize(
    ("strength", "radius", "sentence"),
    [(-0.1, 1, "strength is -0.1"), (1.1, 1, "strength is 1.1"), (0.5, 0, "radius is 0 frames")],
)
def test_settings_that_cannot_be(strength, radius, sentence):
    with pytest.raises(ValueError, match=sentence):
        smooth_along_flow(random(1, 2, 3, H, W), *still(3), strength, radius)
    with pytest.raises(ValueError, match=sentence):
        FlowSmoothing(Flow(*still(3)), strength, radius)


GRID = ClipGrid((3, 3, 4), (24, 32), 8)


def pixel_flow() -> Flow:
    """The flow of three frames of 32 x 24 pixels that drift 4 pixels a frame to the right."""
    forward, backward = (steady(x, 0, 2, 24, 32) for x in (4, -4))
    return Flow.of(forward, backward)


def test_a_flow_knows_where_it_holds():
    flow = pixel_flow()
    assert flow.frames == 3
    assert torch.equal(flow.visible_forward.bool(), visibility(flow.forward, flow.backward))
    assert torch.equal(flow.visible_backward.bool(), visibility(flow.backward, flow.forward))
    small = flow.resized(3, 4)
    torch.testing.assert_close(small.forward, steady(0.5, 0, 2, 3, 4))
    assert (0 <= small.visible_forward).all() and (small.visible_forward <= 1).all()
    assert (small.visible_forward[..., 0] == 1).all() and (small.visible_forward[..., 3] < 1).all()


def test_smoothing_at_pixel_size_is_used_at_latent_size():
    gradient, flow = random(2, 4, 3, 3, 4), pixel_flow()
    smooth = FlowSmoothing(flow, 0.6, 2).on_grid(gradient, GRID)
    small = flow.resized(3, 4)
    expected = smooth_along_flow(
        gradient, small.forward, small.backward, small.visible_forward, small.visible_backward,
        0.6, 2,
    )  # fmt: skip
    torch.testing.assert_close(smooth(gradient), expected)
    # A flow in float64 serves latents in float32.
    torch.testing.assert_close(
        FlowSmoothing(flow, 0.6, 2).on_grid(gradient.float(), GRID)(gradient.float()),
        expected.float(),
    )


@pytest.mark.parametrize("shape", [(4, 3, 4), (3, 4, 4), (3, 3, 5)])
def test_a_flow_of_another_clip_is_refused(shape):
    with pytest.raises(
        ValueError, match=r"another clip's: it has 3 frames of 32 x 24, and the lat"
    ):
        FlowSmoothing(pixel_flow()).on_grid(random(1, 4, *shape), ClipGrid.of(random(1, 4, *shape)))
