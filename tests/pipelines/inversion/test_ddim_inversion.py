"""Inversion in a world whose flow is known exactly, its way back, and the trajectory it makes."""

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from gaussian_world import SPREAD, carried, gaussian_model, prompt
from hypothesis import given, settings
from hypothesis import strategies as st
from rescore.pipelines.inversion.ddim_inversion import Refinement, ddim_invert
from rescore.pipelines.inversion.sampling import ddim_sample
from rescore.pipelines.inversion.trajectory import Trajectory
from rescore.pipelines.models.process import (
    Prediction,
    RectifiedFlow,
    VariancePreserving,
)

SCHEDULE = VariancePreserving.from_config(
    {"beta_schedule": "linear", "beta_start": 0.00085, "beta_end": 0.012}
)
MEAN = 0.3


def clip(seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return MEAN + SPREAD * torch.randn(1, 2, 3, 5, 7, generator=generator, dtype=torch.float64)


predict = partial(gaussian_model(SCHEDULE), cond=prompt(MEAN))


def exact(z_0, level):
    return carried(z_0, SCHEDULE.level(0), level, MEAN)


def denoised(trajectory):
    return ddim_sample(trajectory.latents[-1], predict, trajectory.levels)


def levels(*times):
    return tuple(map(SCHEDULE.level, times))


@pytest.mark.parametrize(("steps", "error"), [(10, 0.2), (50, 0.08), (250, 0.02), (999, 0.006)])
def test_it_follows_the_exact_flow(steps, error):
    trajectory = ddim_invert(clip(), predict, SCHEDULE.grid(steps))
    for z, level in zip(trajectory.latents, trajectory.levels, strict=True):
        torch.testing.assert_close(z, exact(clip(), level), rtol=0, atol=error)


def test_finer_grids_come_closer():
    errors = []
    for steps in (25, 50, 100, 200):
        trajectory = ddim_invert(clip(), predict, SCHEDULE.grid(steps))
        errors.append(
            float((trajectory.latents[-1] - exact(clip(), SCHEDULE.level(999))).abs().max())
        )
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < errors[0] / 4


@pytest.mark.parametrize(("steps", "error"), [(50, 0.1), (999, 0.006)])
def test_denoising_returns_to_the_clip(steps, error):
    trajectory = ddim_invert(clip(), predict, SCHEDULE.grid(steps))
    torch.testing.assert_close(denoised(trajectory), clip(), rtol=0, atol=error)


@pytest.mark.parametrize("steps", [7, 50])
def test_refined_steps_are_undone_exactly(steps):
    trajectory = ddim_invert(
        clip(), predict, SCHEDULE.grid(steps), refinement=Refinement(200, 1e-14)
    )
    torch.testing.assert_close(denoised(trajectory), clip(), rtol=0, atol=1e-9)


def test_refinement_stops_where_nothing_moves_any_more():
    model = gaussian_model(SCHEDULE)
    ask = partial(model, cond=prompt(0))
    ddim_invert(clip(), ask, SCHEDULE.grid(11), refinement=Refinement(3, 1e9))
    assert model.output.rows == [1] * 22


def silent(z, level):
    """A model that sees no noise."""
    return Prediction(z / level.signal, torch.zeros_like(z))


def test_a_constant_prediction_by_hand():
    """With eps = 0 latents only shrink: z_i = sqrt(a_i / a_0) z_0."""
    grid = levels(1, 10, 100, 999)
    trajectory = ddim_invert(clip(), silent, grid)
    assert trajectory.levels == grid
    assert torch.equal(trajectory.latents[0], clip())
    for z, level in zip(trajectory.latents, grid, strict=True):
        torch.testing.assert_close(z, level.signal / grid[0].signal * clip())


@pytest.mark.parametrize("shift", [1.0, 8.0])
def test_for_a_flow_it_is_eulers_method(shift):
    """z moves by (n_there - n_here) v, v being asked at the level it goes to."""
    process, v = RectifiedFlow(shift), torch.full_like(clip(), 0.7)
    grid, asked = process.grid(7), []

    def flow(z, level):
        asked.append(level)
        return Prediction(z - level.noise * v, z + level.signal * v)

    trajectory = ddim_invert(clip(), flow, grid, kind="flow")
    for z, level in zip(trajectory.latents, grid, strict=True):
        torch.testing.assert_close(z, clip() + level.noise * v)
    assert asked == list(grid[1:])


@pytest.mark.parametrize(("steps", "error"), [(50, 0.2), (999, 0.01)])
def test_a_gaussian_flow_is_followed_exactly(steps, error):
    process = RectifiedFlow(3.0)
    grid = process.grid(steps)
    ask = partial(gaussian_model(process, "flow"), cond=prompt(MEAN))
    trajectory = ddim_invert(clip(), ask, grid, kind="flow")
    for z, level in zip(trajectory.latents, grid, strict=True):
        torch.testing.assert_close(z, carried(clip(), grid[0], level, MEAN), rtol=0, atol=error)
    back = ddim_sample(trajectory.latents[-1], ask, grid)
    torch.testing.assert_close(back, clip(), rtol=0, atol=error)


def test_where_no_signal_is_left_a_v_model_still_inverts():
    """With zero terminal SNR nothing is divided by the signal of the last level, which is 0."""
    process = VariancePreserving.from_config({"rescale_betas_zero_snr": True})
    grid = process.grid(50)
    assert grid[-1].signal == 0
    ask = partial(gaussian_model(process, "v"), cond=prompt(MEAN))
    trajectory = ddim_invert(clip(), ask, grid)
    assert bool(torch.isfinite(trajectory.latents).all())
    back = ddim_sample(trajectory.latents[-1], ask, grid)
    assert bool(torch.isfinite(back).all())


def test_the_model_is_asked_where_denoising_will_ask_it():
    asked = []

    def ask(z, level):
        asked.append(level.t)
        return Prediction(z, z)

    ddim_invert(clip(), ask, levels(0, 20, 40))
    assert asked == [20, 40]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 999), min_size=2, max_size=9, unique=True))
def test_any_ascending_grid_works(grid):
    grid = levels(*sorted(grid))
    trajectory = ddim_invert(clip(), predict, grid)
    assert trajectory.steps == len(grid) - 1
    assert bool(torch.isfinite(trajectory.latents).all())


@pytest.mark.parametrize("grid", [[], [5], [5, 5], [9, 3], [0, 7, 5]])
def test_anything_else_is_no_grid(grid):
    with pytest.raises(ValueError, match="are no grid"):
        ddim_invert(clip(), predict, levels(*grid))


def test_progress_is_told_and_may_stop_it():
    seen = []

    def stop(progress):
        seen.append((progress.step, progress.steps))
        if progress.step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ddim_invert(clip(), predict, SCHEDULE.grid(5), stop)
    assert seen == [(1, 5), (2, 5)]


def test_values_that_are_not_finite_are_told():
    def overflowing(z, level):
        return Prediction(z, z * (math.inf if level.t == 20 else 1))

    broken = clip()
    broken[0, 0, 0, 0, 0] = math.nan
    with pytest.raises(ValueError, match="NaN or infinite"):
        ddim_invert(broken, predict, levels(0, 999))
    with pytest.raises(FloatingPointError, match="step 2 of 3"):
        ddim_invert(clip(), overflowing, levels(0, 10, 20, 30))


@pytest.mark.parametrize(("iterations", "tolerance"), [(-1, 0.1), (1, -1.0), (1, math.nan)])
def test_refinement_is_checked(iterations, tolerance):
    with pytest.raises(ValueError, match="must be 0"):
        Refinement(iterations, tolerance)


TRAJECTORY = Trajectory(torch.rand(4, 1, 2, 3, 5, 7), levels(0, 3, 6, 9), "a red circle", "m1")


def test_what_fits_is_taken():
    TRAJECTORY.require(model="m1", prompt=" a red circle\n")


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"model": "m2"}, "made with another model"),
        ({"prompt": "a blue circle"}, 'prompt "a red circle" and the source prompt is now "a blue'),
    ],
)
def test_what_does_not_fit_is_refused(wrong, sentence):
    with pytest.raises(ValueError, match=sentence):
        TRAJECTORY.require(**{"model": "m1", "prompt": "a red circle", **wrong})


def test_a_trajectory_is_named_by_all_it_holds():
    assert replace(TRAJECTORY).fingerprint == TRAJECTORY.fingerprint
    others = [
        replace(TRAJECTORY, latents=TRAJECTORY.latents + 1e-6),
        replace(TRAJECTORY, levels=levels(0, 3, 6, 8)),
        replace(TRAJECTORY, prompt="x"),
        replace(TRAJECTORY, model="m2"),
    ]
    assert len({TRAJECTORY.fingerprint, *(t.fingerprint for t in others)}) == 5


def test_an_error_in_decibels_of_the_range_by_hand():
    path = Trajectory(torch.tensor([0.0, 4.0]).view(1, 1, 1, 1, 1, 2), levels(0))
    assert path.psnr(0, 0.16) == pytest.approx(20)
    assert path.psnr(0, 0.0) == math.inf


def test_every_latent_has_its_level():
    with pytest.raises(ValueError, match="4 latents cannot have 3 levels"):
        replace(TRAJECTORY, levels=levels(0, 3, 6))
