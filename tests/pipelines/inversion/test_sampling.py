"""Plain DDIM sampling against a distribution whose samples are known."""

import math

import pytest
import torch
from gaussian_world import SPREAD, exact_eps
from rescore.pipelines.inversion.sampling import ddim_sample
from rescore.pipelines.models.schedule import NoiseSchedule

SCHEDULE = NoiseSchedule.from_config(
    {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
)


def test_noise_becomes_the_sample_the_exact_flow_leads_to():
    mean, grid = 1.3, list(range(1000))
    z = torch.randn(1, 2, 3, 5, 7, dtype=torch.float64)
    sample = ddim_sample(
        z, lambda z, t: exact_eps(z, SCHEDULE.alphas_bar[t], mean), SCHEDULE.alphas_bar, grid
    )
    first, last = SCHEDULE.alphas_bar[999].item(), SCHEDULE.alphas_bar[0].item()

    def deviation(a):
        return math.sqrt(a * SPREAD**2 + 1 - a)

    exact = math.sqrt(last) * mean + (z - math.sqrt(first) * mean) * deviation(last) / deviation(
        first
    )
    torch.testing.assert_close(sample, exact, rtol=0, atol=5e-3)


def test_the_model_is_asked_at_the_timestep_it_leaves():
    asked, done = [], []
    ddim_sample(
        torch.zeros(1, 1, 1, 1, 1),
        lambda z, t: asked.append(t) or z,
        SCHEDULE.alphas_bar,
        [0, 300, 999],
        lambda step, z: done.append(step),
    )
    assert (asked, done) == ([999, 300], [1, 2])


def test_it_stops_when_told_to():
    def stop(step, z):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ddim_sample(torch.zeros(1, 1, 1, 1, 1), lambda z, t: z, SCHEDULE.alphas_bar, [0, 9], stop)
