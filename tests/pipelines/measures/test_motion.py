"""Roughness, warping error and motion fidelity, on flows made by hand and on a moving square."""

import math

import pytest
import torch
from rescore.pipelines.flow import Flow
from rescore.pipelines.flow.estimation import estimate_flow
from rescore.pipelines.measures.motion import roughness, warping_error
from rescore.pipelines.measures.tracks import Tracks, follow, grid, motion_fidelity
from rescore.shapeworld.edits import edited
from rescore.shapeworld.showcase import SHOWCASE

HEIGHT, WIDTH = 13, 17


def uniform(*steps: tuple[float, float], visible: bool = True) -> Flow:
    """A flow that carries the whole picture by a step (x, y) from frame to frame."""
    forward = (
        torch.tensor(steps, dtype=torch.float32)[:, :, None, None]
        .expand(-1, -1, HEIGHT, WIDTH)
        .clone()
    )
    seen = torch.full((len(steps), HEIGHT, WIDTH), visible)
    return Flow(forward, -forward, seen, seen)


def test_even_motion_is_smooth():
    assert roughness(uniform((2, 1), (2, 1), (2, 1))).value == 0
    assert roughness(uniform((0, 0), (0, 0))).values == (0,)


def test_roughness_by_hand():
    """From (1, 0) to (4, 4) is an acceleration of 5 pixels."""
    found = roughness(uniform((1, 0), (4, 4), (4, 4)))
    diagonal = math.hypot(HEIGHT, WIDTH)
    assert found.values == pytest.approx((5000 / diagonal, 0))
    assert found.value == pytest.approx(2500 / diagonal)


def test_roughness_follows_the_point():
    """Flow that speeds up across the picture is acceleration of points that ride on it."""
    forward = torch.zeros(2, 2, HEIGHT, WIDTH)
    forward[:, 0] = torch.arange(WIDTH) * 0.25
    seen = torch.zeros(2, HEIGHT, WIDTH, dtype=torch.bool)
    seen[:, :, 4:6] = True
    found = roughness(Flow(forward, -forward, seen, seen))
    # At x = 4 the way of 1 pixel leads to x = 5, where it is 1.25; x = 5 leads out of what is seen.
    assert found.value == pytest.approx(0.25 * 1000 / math.hypot(HEIGHT, WIDTH), rel=1e-4)


def test_roughness_is_the_same_at_any_size():
    small, large = uniform((1, 0), (3, 1)), uniform((1, 0), (3, 1)).resized(3 * HEIGHT, 3 * WIDTH)
    assert roughness(large).value == pytest.approx(roughness(small).value, rel=1e-5)


def test_warping_error_by_hand():
    clip = torch.zeros(1, 3, 3, HEIGHT, WIDTH)
    clip[:, :, 1] = 0.2
    clip[:, 0, 2] = 0.2
    found = warping_error(clip, uniform((0, 0), (0, 0)))
    assert found.values == pytest.approx((40, 40 * 2 / 3), rel=1e-5)
    assert found.value == pytest.approx(40 * 5 / 6, rel=1e-5)


def test_a_shifted_picture_has_no_warping_error_along_its_own_flow():
    frame = torch.rand(3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0))
    clip = torch.stack([frame.roll(2 * i, dims=-1) for i in range(3)], dim=1)[None]
    seen = torch.zeros(2, HEIGHT, WIDTH, dtype=torch.bool)
    seen[..., :-5] = True
    flow = uniform((2, 0), (2, 0))
    along = warping_error(clip, Flow(flow.forward, flow.backward, seen, seen), name="along it")
    assert along.value == pytest.approx(0, abs=1e-6)
    assert along.name == "warping error along it"
    assert warping_error(clip, uniform((0, 0), (0, 0))).value > 10


@pytest.mark.parametrize("frames", [1, 2])
def test_fewer_than_three_frames_have_no_roughness(frames):
    flow = uniform(*[(0.0, 0.0)] * (frames - 1)) if frames > 1 else empty()
    found = roughness(flow)
    assert math.isnan(found.value) and found.values == ()


def test_one_frame_has_no_warping_error():
    assert math.isnan(warping_error(torch.zeros(1, 3, 1, HEIGHT, WIDTH), empty()).value)


def empty() -> Flow:
    none, nothing = torch.zeros(0, 2, HEIGHT, WIDTH), torch.zeros(0, HEIGHT, WIDTH)
    return Flow(none, none, nothing, nothing)


def test_motion_that_nothing_follows_is_told():
    lost = uniform((0, 0), (0, 0), visible=False)
    with pytest.raises(ValueError, match="No pixel of the clip stays visible"):
        roughness(lost)
    with pytest.raises(ValueError, match="No pixel of the clip stays visible"):
        warping_error(torch.zeros(1, 3, 3, HEIGHT, WIDTH), lost)
    tracks = follow(lost, grid(HEIGHT, WIDTH, 3))
    with pytest.raises(ValueError, match="No point can be followed"):
        motion_fidelity(tracks, tracks)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 3, 2, HEIGHT, WIDTH), "3 frames of 17 x 13, and the clip has 2"),
        ((1, 3, 3, HEIGHT, 11), "the clip has 3 of 11 x 13"),
    ],
)
def test_another_clips_flow_is_refused(shape, message):
    with pytest.raises(ValueError, match=message):
        warping_error(torch.zeros(shape), uniform((0, 0), (0, 0)))


def test_the_grid_is_even_and_keeps_to_the_mask():
    assert grid(4, 6, 2).tolist() == [[1, 0.5], [4, 0.5], [1, 2.5], [4, 2.5]]
    where = torch.zeros(4, 6, dtype=torch.bool)
    where[:, 3:] = True
    assert grid(4, 6, 2, where).tolist() == [[4, 0.5], [4, 2.5]]
    with pytest.raises(ValueError, match="None of 2 x 2 points"):
        grid(4, 6, 2, torch.zeros(4, 6, dtype=torch.bool))


def test_points_go_along_the_flow_until_they_leave():
    forward = torch.zeros(3, 2, HEIGHT, WIDTH)
    forward[:, 0] = torch.arange(WIDTH) * 0.5
    seen = torch.ones(3, HEIGHT, WIDTH, dtype=torch.bool)
    seen[0, :, 10] = False
    tracks = follow(Flow(forward, -forward, seen, seen), torch.tensor([[2.0, 5.0], [10.0, 5.0]]))
    # x grows by half at each step; the second point leaves from 15 to 22.5, which stays unknown.
    assert tracks.places[..., 0].T.flatten().tolist() == pytest.approx(
        [2, 3, 4.5, 6.75, 10, 15, 22.5, 22.5], rel=1e-4
    )
    assert tracks.seen.T.tolist() == [[True, True, True], [False, True, False]]


def straight(*directions: tuple[float, float], steps: int = 4, seen=None) -> Tracks:
    """Tracks from the origin, each with the same step all the time."""
    way = torch.arange(steps + 1.0)[:, None, None] * torch.tensor(directions)
    known = torch.ones(steps, len(directions), dtype=torch.bool) if seen is None else seen
    return Tracks(way, known)


@pytest.mark.parametrize(
    ("source", "edited", "score"),
    [
        ([(1, 0)], [(1, 0)], 1),
        ([(1, 0)], [(7, 0)], 1),  # direction, not length
        ([(1, 0)], [(0, 1)], 0),
        ([(1, 0)], [(-3, 0)], -1),
        ([(1, 0)], [(1, 1)], 1 / math.sqrt(2)),
        ([(1, 0), (0, 1)], [(0, 2), (2, 0)], 1),  # wherever they lie
        ([(1, 0), (0, 1)], [(1, 0)], 3 / 4),  # (1/1 + (1 + 0)/2) / 2
        ([(0, 0)], [(0.1, 0)], 1),  # both stand still
        ([(0, 0)], [(1, 0)], 0),
    ],
)
def test_motion_fidelity_by_hand(source, edited, score):
    found = motion_fidelity(straight(*source), straight(*edited), still=0.2)
    assert found.value == pytest.approx(score, abs=1e-6)


def test_steps_are_compared_while_both_tracks_last():
    seen = torch.tensor([True, True, False, False])[:, None]
    source, edited = straight((1, 0)), straight((1, 0), seen=seen)
    edited.places[3:, 0] = torch.tensor([-9.0, 5.0])
    assert motion_fidelity(source, edited).value == pytest.approx(1)
    shorter = straight((1, 0), seen=torch.tensor([True, False, False, False])[:, None])
    with pytest.raises(ValueError, match="No point can be followed through half"):
        motion_fidelity(source, shorter)


def test_clips_of_other_lengths_are_refused():
    with pytest.raises(ValueError, match="5 and 4 frames"):
        motion_fidelity(straight((1, 0)), straight((1, 0), steps=3))
    still = follow(empty(), grid(HEIGHT, WIDTH, 2))
    assert math.isnan(motion_fidelity(still, still).value)


def square(*columns: int) -> torch.Tensor:
    """A patterned square whose left edge is at these columns, frame after frame, on grey."""
    pattern = torch.rand(3, 12, 12, generator=torch.Generator().manual_seed(1))
    clip = torch.full((1, 3, len(columns), 32, 48), 0.5)
    for i, column in enumerate(columns):
        clip[0, :, i, 10:22, column : column + 12] = pattern
    return clip


def test_on_estimated_flow_a_moving_square_tells_right_from_left():
    pytest.importorskip("cv2")
    right, left, jerky = (
        estimate_flow(square(*columns))
        for columns in ((8, 10, 12, 14), (26, 24, 22, 20), (8, 12, 12, 16))
    )
    on_the_square = torch.zeros(32, 48, dtype=torch.bool)
    on_the_square[12:20, 10:18] = True
    start = grid(32, 48, 16, on_the_square)
    tracks = follow(right, start)
    assert motion_fidelity(tracks, tracks).value == pytest.approx(1)
    mirrored = start + torch.tensor([18.0, 0.0])
    assert motion_fidelity(tracks, follow(left, mirrored)).value < -0.9
    assert roughness(jerky).value > 5 * roughness(right).value


def test_the_exact_edit_of_a_clip_moves_like_it_and_the_reversed_clip_does_not():
    pytest.importorskip("cv2")
    truth = edited(SHOWCASE["red_circle"])
    source, target = (part.clip.movedim(-1, 0)[None] for part in (truth.source, truth.target))
    start = grid(64, 64, 24, truth.paint[0])
    flows = [estimate_flow(clip) for clip in (source, target, source.flip(2))]
    tracks = [follow(flow, start) for flow in flows]
    assert motion_fidelity(tracks[0], tracks[1]).value > 0.95
    assert motion_fidelity(tracks[0], tracks[2]).value < 0.5
    flicker = target * torch.tensor([0.8, 1.0] * 4)[:, None, None]
    exact, dim = (warping_error(clip, flows[0]).value for clip in (target, flicker))
    assert dim > 10 * exact
