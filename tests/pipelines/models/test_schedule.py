"""The schedules against diffusers' own, and the DDIM step against the flow of a Gaussian."""

import math
from itertools import pairwise

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from rescore.pipelines.models.schedule import NoiseSchedule, ddim_step

CONFIGS = {
    "stable diffusion": {
        "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012,
    },
    "animatediff": {"beta_schedule": "linear", "beta_start": 0.00085, "beta_end": 0.012},
    "cosine": {"beta_schedule": "squaredcos_cap_v2"},
    "trained": {"trained_betas": [0.1, 0.2, 0.05], "num_train_timesteps": 3},
    "zero snr": {
        "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012,
        "rescale_betas_zero_snr": True,
    },
}  # fmt: skip


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_table_equals_diffusers(config):
    ours = NoiseSchedule.from_config(config)
    theirs = DDIMScheduler.from_config(config).alphas_cumprod
    assert ours.alphas_bar.dtype == torch.float64
    assert len(ours) == len(theirs)
    torch.testing.assert_close(ours.alphas_bar.float(), theirs, rtol=2e-5, atol=1e-7)


def test_betas_of_a_model_saved_to_disk(tmp_path):
    DDPMScheduler(beta_schedule="linear", beta_start=0.001, beta_end=0.017).save_pretrained(
        tmp_path
    )
    config = DDPMScheduler.load_config(tmp_path)
    assert NoiseSchedule.from_config(config) == NoiseSchedule.from_config(
        {"beta_schedule": "linear", "beta_start": 0.001, "beta_end": 0.017}
    )


def test_schedules_are_equal_by_value():
    one, same, other = (
        NoiseSchedule.from_config(CONFIGS[k]) for k in ("cosine", "cosine", "trained")
    )
    assert one == same
    assert one != other
    assert one != NoiseSchedule(one.alphas_bar, "v_prediction")


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"beta_schedule": "sigmoid"}, "noise schedule is 'sigmoid'"),
        ({"prediction_type": "sample"}, "predicts 'sample'"),
    ],
)
def test_unknown_settings_are_named(config, sentence):
    with pytest.raises(ValueError, match=sentence):
        NoiseSchedule.from_config(config)


def test_add_noise_equals_diffusers():
    schedule = NoiseSchedule.from_config(CONFIGS["stable diffusion"])
    z_0, noise = torch.randn(2, 3, 5, 7, 11), torch.randn(2, 3, 5, 7, 11)
    t = torch.tensor([17, 947])
    theirs = DDIMScheduler.from_config(CONFIGS["stable diffusion"]).add_noise(z_0, noise, t)
    torch.testing.assert_close(schedule.add_noise(z_0, noise, t), theirs, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(schedule.add_noise(z_0, noise, 17)[0], theirs[0])


@pytest.mark.parametrize("t", [0, 499, 999])
def test_noise_is_read_back_from_a_v_prediction(t):
    schedule = NoiseSchedule.from_config(CONFIGS["cosine"] | {"prediction_type": "v_prediction"})
    z_0, noise = torch.randn(2, 3, 5, 7, 11).double(), torch.randn(2, 3, 5, 7, 11).double()
    a = schedule.alphas_bar[t]
    v = a.sqrt() * noise - (1 - a).sqrt() * z_0
    torch.testing.assert_close(schedule.eps_from(v, schedule.add_noise(z_0, noise, t), t), noise)


def test_timesteps_run_from_clean_to_noise():
    schedule = NoiseSchedule.from_config(CONFIGS["stable diffusion"])
    grid = schedule.timesteps(50)
    assert (grid[0], grid[-1], len(grid)) == (0, 999, 51)
    assert grid == sorted(set(grid))
    for steps in (0, 1000):
        with pytest.raises(ValueError, match="between 1 and 999"):
            schedule.timesteps(steps)


def test_ddim_step_equals_diffusers():
    theirs = DDIMScheduler.from_config(CONFIGS["stable diffusion"] | {"clip_sample": False})
    theirs.set_timesteps(20)
    schedule = NoiseSchedule.from_config(CONFIGS["stable diffusion"])
    z, eps = torch.randn(2, 3, 5, 7, 11), torch.randn(2, 3, 5, 7, 11)
    t_from, t_to = theirs.timesteps[4].item(), theirs.timesteps[5].item()
    ours = ddim_step(z, eps, schedule.alphas_bar[t_from].item(), schedule.alphas_bar[t_to].item())
    torch.testing.assert_close(ours, theirs.step(eps, t_from, z).prev_sample, rtol=1e-5, atol=1e-6)


def test_ddim_step_there_and_back():
    z, eps = torch.randn(2, 3, 5, 7, 11).double(), torch.randn(2, 3, 5, 7, 11).double()
    there = ddim_step(z, eps, 0.81, 0.23)
    torch.testing.assert_close(ddim_step(there, eps, 0.23, 0.81), z)


def test_many_ddim_steps_follow_the_exact_flow_of_a_gaussian():
    """For N(m, s^2) the probability flow is known: (z - sqrt(a) m) / sd(a) stays constant."""
    from gaussian_world import SPREAD, exact_eps

    mean, z = 1.7, torch.linspace(-3, 3, 13, dtype=torch.float64)
    levels = [math.cos(x) ** 2 for x in torch.linspace(1.5, 0.01, 4001).tolist()]

    def deviation(a: float) -> float:
        return math.sqrt(a * SPREAD**2 + 1 - a)

    moved = z
    for a_from, a_to in pairwise(levels):
        moved = ddim_step(moved, exact_eps(moved, a_from, mean), a_from, a_to)
    first, last = levels[0], levels[-1]
    exact = math.sqrt(last) * mean + (z - math.sqrt(first) * mean) * deviation(last) / deviation(
        first
    )
    torch.testing.assert_close(moved, exact, rtol=0, atol=2e-3)
