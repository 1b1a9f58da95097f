"""Inversion in a world whose flow is known exactly, its way back, and the trajectory it makes."""

import math
from dataclasses import replace

import pytest
import torch
from gaussian_world import SPREAD, GaussianModel, exact_eps, prompt
from hypothesis import given, settings
from hypothesis import strategies as st
from rescore.pipelines.inversion.ddim_inversion import Refinement, ddim_invert
from rescore.pipelines.inversion.trajectory import Trajectory
from rescore.pipelines.models.schedule import NoiseSchedule, ddim_step

SCHEDULE = NoiseSchedule.from_config(
    {"beta_schedule": "linear", "beta_start": 0.00085, "beta_end": 0.012}
)
A = SCHEDULE.alphas_bar
MEAN = 0.3


def clip(seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return MEAN + SPREAD * torch.randn(1, 2, 3, 5, 7, generator=generator, dtype=torch.float64)


def eps_theta(z, t):
    return exact_eps(z, A[t], MEAN)


def exact(z_0, t):
    """The probability flow of a Gaussian keeps each point's place within it."""
    a, b = A[0].item(), A[t].item()
    width = [math.sqrt(x * SPREAD**2 + 1 - x) for x in (a, b)]
    return math.sqrt(b) * MEAN + width[1] / width[0] * (z_0 - math.sqrt(a) * MEAN)


def denoised(trajectory):
    z, times = trajectory.latents[-1], trajectory.timesteps
    for i in reversed(range(trajectory.steps)):
        z = ddim_step(z, eps_theta(z, times[i + 1]), A[times[i + 1]].item(), A[times[i]].item())
    return z


@pytest.mark.parametrize(("steps", "error"), [(10, 0.2), (50, 0.08), (250, 0.02), (999, 0.006)])
def test_it_follows_the_exact_flow(steps, error):
    trajectory = ddim_invert(clip(), eps_theta, A, SCHEDULE.timesteps(steps))
    for z, t in zip(trajectory.latents, trajectory.timesteps, strict=True):
        torch.testing.assert_close(z, exact(clip(), t), rtol=0, atol=error)


def test_finer_grids_come_closer():
    errors = []
    for steps in (25, 50, 100, 200):
        trajectory = ddim_invert(clip(), eps_theta, A, SCHEDULE.timesteps(steps))
        errors.append(float((trajectory.latents[-1] - exact(clip(), 999)).abs().max()))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < errors[0] / 4


@pytest.mark.parametrize(("steps", "error"), [(50, 0.1), (999, 0.006)])
def test_denoising_returns_to_the_clip(steps, error):
    trajectory = ddim_invert(clip(), eps_theta, A, SCHEDULE.timesteps(steps))
    torch.testing.assert_close(denoised(trajectory), clip(), rtol=0, atol=error)


@pytest.mark.parametrize("steps", [7, 50])
def test_refined_steps_are_undone_exactly(steps):
    trajectory = ddim_invert(
        clip(), eps_theta, A, SCHEDULE.timesteps(steps), refinement=Refinement(200, 1e-14)
    )
    torch.testing.assert_close(denoised(trajectory), clip(), rtol=0, atol=1e-9)


def test_refinement_stops_where_nothing_moves_any_more():
    model = GaussianModel(A)
    grid = SCHEDULE.timesteps(11)
    ddim_invert(clip(), lambda z, t: model(z, t, prompt(0)), A, grid, refinement=Refinement(3, 1e9))
    assert model.rows == [1] * 22


def test_a_constant_prediction_by_hand():
    """With eps = 0 latents only shrink: z_i = sqrt(a_i / a_0) z_0."""
    grid = [1, 10, 100, 999]
    trajectory = ddim_invert(clip(), lambda z, t: torch.zeros_like(z), A, grid)
    assert trajectory.timesteps == tuple(grid)
    assert torch.equal(trajectory.latents[0], clip())
    for z, t in zip(trajectory.latents, grid, strict=True):
        torch.testing.assert_close(z, (A[t] / A[1]).sqrt() * clip())


def test_a_grid_may_be_a_tensor():
    grid = torch.tensor(SCHEDULE.timesteps(5))
    given = ddim_invert(clip(), eps_theta, A, grid)
    assert given.timesteps == tuple(SCHEDULE.timesteps(5))


def test_the_model_is_asked_where_denoising_will_ask_it():
    asked = []
    ddim_invert(clip(), lambda z, t: asked.append(t) or z, A, [0, 20, 40])
    assert asked == [20, 40]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 999), min_size=2, max_size=9, unique=True))
def test_any_ascending_grid_works(grid):
    grid = sorted(grid)
    trajectory = ddim_invert(clip(), eps_theta, A, grid)
    assert trajectory.steps == len(grid) - 1
    assert bool(torch.isfinite(trajectory.latents).all())


@pytest.mark.parametrize("grid", [[], [5], [5, 5], [9, 3], [0, 1000], [-1, 5]])
def test_anything_else_is_no_grid(grid):
    with pytest.raises(ValueError, match="are no grid"):
        ddim_invert(clip(), eps_theta, A, grid)


def test_progress_is_told_and_may_stop_it():
    seen = []

    def stop(progress):
        seen.append((progress.step, progress.steps))
        if progress.step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ddim_invert(clip(), eps_theta, A, SCHEDULE.timesteps(5), stop)
    assert seen == [(1, 5), (2, 5)]


def test_values_that_are_not_finite_are_told():
    broken = clip()
    broken[0, 0, 0, 0, 0] = math.nan
    with pytest.raises(ValueError, match="NaN or infinite"):
        ddim_invert(broken, eps_theta, A, [0, 999])
    with pytest.raises(FloatingPointError, match="step 2 of 3"):
        ddim_invert(clip(), lambda z, t: z * (math.inf if t == 20 else 1), A, [0, 10, 20, 30])


@pytest.mark.parametrize(("iterations", "tolerance"), [(-1, 0.1), (1, -1.0), (1, math.nan)])
def test_refinement_is_checked(iterations, tolerance):
    with pytest.raises(ValueError, match="must be 0"):
        Refinement(iterations, tolerance)


TRAJECTORY = Trajectory(torch.rand(4, 1, 2, 3, 5, 7), (0, 3, 6, 9), "a red circle", "m1")


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
        replace(TRAJECTORY, timesteps=(0, 3, 6, 8)),
        replace(TRAJECTORY, prompt="x"),
        replace(TRAJECTORY, model="m2"),
    ]
    assert len({TRAJECTORY.fingerprint, *(t.fingerprint for t in others)}) == 5


def test_an_error_in_decibels_of_the_range_by_hand():
    path = Trajectory(torch.tensor([0.0, 4.0]).view(1, 1, 1, 1, 1, 2), (0,))
    assert path.psnr(0, 0.16) == pytest.approx(20)
    assert path.psnr(0, 0.0) == math.inf


def test_every_latent_has_its_timestep():
    with pytest.raises(ValueError, match="4 latents cannot have 3 timesteps"):
        replace(TRAJECTORY, timesteps=(0, 3, 6))
