"""Optical flow: warping along it, where it holds, and the same flow on other grids."""

from functools import partial

import pytest
import torch
from rescore.pipelines.flow import Flow, resize_flow, visibility, warp
from rescore.shapeworld.render import render
from rescore.shapeworld.scene import sample_scene
from small_flows import H, W, random, steady

# Warping.


def test_no_flow_is_no_warp():
    x = random(2, 3, H, W)
    torch.testing.assert_close(warp(x, steady(0, 0, 2)), x)


def test_whole_pixels_are_a_shift():
    """The output at p is x at p + flow(p): channel 0 leads to the right, channel 1 down."""
    x = random(1, 3, H, W)
    right, down = warp(x, steady(2, 0)), warp(x, steady(0, 3))
    torch.testing.assert_close(right[..., :-2], x[..., 2:])
    torch.testing.assert_close(down[..., :-3, :], x[..., 3:, :])
    # Beyond the edge is the edge.
    torch.testing.assert_close(right[..., -2:], x[..., -1:].expand(-1, -1, -1, 2))


def test_half_a_pixel_is_the_mean_of_two():
    x = random(1, 1, H, W)
    torch.testing.assert_close(warp(x, steady(0.5, 0))[..., :-1], (x[..., :-1] + x[..., 1:]) / 2)


def test_a_ramp_reads_its_own_flow():
    """Bilinear is exact on a plane, so each pixel of a ramp is moved by its own vector."""
    rows, columns = torch.meshgrid(
        torch.arange(H, dtype=torch.float64), torch.arange(W, dtype=torch.float64), indexing="ij"
    )
    flow = random(1, 2, H, W)
    warped = warp(torch.stack([columns, rows])[None], flow)
    inside = (slice(None), slice(None), slice(4, -4), slice(4, -4))
    torch.testing.assert_close(
        (warped - torch.stack([columns, rows]))[inside], flow[inside], rtol=1e-9, atol=1e-9
    )


def test_each_picture_has_its_own_flow():
    x = random(2, 1, H, W)
    both = warp(x, torch.cat([steady(1, 0), steady(0, 0)]))
    torch.testing.assert_close(both[1], x[1])
    torch.testing.assert_close(both[0, :, :, :-1], x[0, :, :, 1:])


def test_the_gradient_of_warping():
    x, flow = random(1, 2, 3, 5).requires_grad_(), 0.3 + 0.1 * random(1, 2, 3, 5, seed=1)
    assert torch.autograd.gradcheck(warp, (x, flow))


# Visibility.


def moving_square(step: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """A square of 5 x 5 that moves to the right over a still backdrop: both flows, both masks."""
    masks = torch.zeros(2, H, W, dtype=torch.bool)
    masks[0, 3:8, 2:7] = True
    masks[1, 3:8, 2 + step : 7 + step] = True
    forward = masks[0] * steady(step, 0)
    return forward, masks[1] * steady(-step, 0), masks[0], masks[1]


def test_what_a_moving_square_covers_is_hidden():
    forward, backward, first, second = moving_square(3)
    seen = visibility(forward, backward)[0]
    assert torch.equal(seen, first | ~second)
    assert seen.dtype == torch.bool
    assert torch.equal(visibility(backward, forward)[0], second | ~first)


def test_what_leaves_the_picture_is_hidden():
    seen = visibility(steady(2.25, -1), steady(-2.25, 1))[0]
    expected = torch.zeros(H, W, dtype=torch.bool)
    # Up to the outer edge of the last pixels: half a pixel beyond their centres.
    expected[1:, : W - 2] = True
    assert torch.equal(seen, expected)


def test_the_threshold():
    """No flow back: the way there may be sqrt(0.5 / 0.99) = 0.7107 pixels long."""
    assert visibility(steady(0.71, 0), steady(0, 0))[..., :-1].all()
    assert not visibility(steady(0.712, 0), steady(0, 0)).any()
    # Fast motion has more room: (3 - d)^2 < 0.01 (9 + ...) + 0.5.
    assert visibility(steady(30, 0, width=97), steady(-29, 0, width=97))[..., :60].all()


@pytest.mark.parametrize("seed", [0, 3, 5, 8])
def test_the_flow_of_the_shape_world_holds_where_it_says(seed):
    """But for the object's edge, of which some pixels are still covered by less than half."""
    truth = render(sample_scene(seed))
    seen = visibility(truth.forward_flow, truth.backward_flow)
    assert (seen == truth.visible_forward).double().mean() > 0.985
    back = visibility(truth.backward_flow, truth.forward_flow)
    assert (back == truth.visible_backward).double().mean() > 0.985


# Other grids.


def test_vectors_are_scaled_with_the_picture():
    resized = resize_flow(steady(8, 6, 3, height=30, width=40), 10, 5)
    torch.testing.assert_close(resized, steady(1, 2, 3, height=10, width=5))


def test_its_own_grid_changes_nothing():
    flow = random(2, 2, H, W)
    torch.testing.assert_close(resize_flow(flow, H, W), flow)


def test_a_flow_means_the_same_on_another_grid():
    """Warping and then shrinking is shrinking and then warping, for what is smooth enough."""
    rows, columns = torch.meshgrid(
        torch.linspace(0, 3, 96, dtype=torch.float64),
        torch.linspace(0, 4, 128, dtype=torch.float64),
        indexing="ij",
    )
    x = (rows.sin() + columns.cos())[None, None]
    flow = torch.stack([3 * (rows + columns).sin(), 2 * rows.cos()])[None]
    shrink = partial(torch.nn.functional.interpolate, size=(24, 32), mode="area")
    torch.testing.assert_close(
        warp(shrink(x), resize_flow(flow, 24, 32))[..., 2:-2, 2:-2],
        shrink(warp(x, flow))[..., 2:-2, 2:-2],
        rtol=0,
        atol=0.01,
    )


def test_padding_of_the_clip_is_not_stretched_over():
    """60 x 44 pixels were padded to 64 x 48, which 8 x 6 latents show: 8 pixels a latent."""
    flow = steady(4, 2, height=44, width=60)
    resized = resize_flow(flow, 6, 8, shown=(44 / 48, 60 / 64))
    torch.testing.assert_close(resized, steady(0.5, 0.25, height=6, width=8))


def test_flows_are_chained():
    """Four steps of a steady motion are one of four times its length, there and back."""
    still = Flow.of(steady(0.25, -0.5, 8), steady(-0.25, 0.5, 8))
    chained = still.every(4)
    assert chained.frames == 3
    torch.testing.assert_close(chained.forward, steady(1.0, -2.0, 2))
    torch.testing.assert_close(chained.backward, steady(-1.0, 2.0, 2))
    inside = (slice(None), slice(3, -3), slice(3, -3))
    assert bool((chained.visible_forward[inside] == 1).all())
    assert bool((chained.visible_backward[inside] == 1).all())
    assert float(chained.visible_forward[:, 0].max()) == 0  # has left at the upper edge
    assert still.every(1) is still


def test_a_chain_goes_on_from_where_it_has_led():
    """Motion that grows to the right: x -> 1.25 x, and so x -> 1.25^2 x after two steps."""
    forward = torch.zeros(2, 2, H, W, dtype=torch.float64)
    forward[:, 0] = 0.25 * torch.arange(W)
    chained = Flow.of(forward, torch.zeros_like(forward)).every(2)
    expected = (1.25**2 - 1) * torch.arange(W, dtype=torch.float64)
    inside = slice(0, int(W / 1.25))
    torch.testing.assert_close(chained.forward[0, 0, :, inside], expected.expand(H, -1)[:, inside])


def test_a_last_frame_that_is_repeated_stands_still():
    """Six frames, padded to nine, in steps of four: the last step ends with the clip."""
    moving = Flow.of(steady(0.25, -0.5, 5), steady(-0.25, 0.5, 5))
    chained = moving.held(9).every(4)
    assert chained.frames == 3
    torch.testing.assert_close(chained.forward, torch.cat([steady(1.0, -2.0), steady(0.25, -0.5)]))
    torch.testing.assert_close(chained.backward, torch.cat([steady(-1.0, 2.0), steady(-0.25, 0.5)]))
    inside = (slice(None), slice(3, -3), slice(3, -3))
    assert bool((chained.visible_forward[inside] == 1).all())
    assert bool((chained.visible_backward[inside] == 1).all())
