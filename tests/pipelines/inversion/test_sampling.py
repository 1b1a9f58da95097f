"""Plain sampling against distributions whose samples are known."""

from functools import partial

import pytest
import torch
from gaussian_world import carried, gaussian_model, prompt
from rescore.pipelines.inversion.sampling import ddim_sample
from rescore.pipelines.models.process import Prediction, RectifiedFlow, VariancePreserving

SCHEDULE = VariancePreserving.from_config(
    {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
)
WORLDS = {
    "epsilon": (SCHEDULE, 999, 5e-3),
    "v": (SCHEDULE, 999, 5e-3),
    "v, zero SNR": (VariancePreserving.from_config({"rescale_betas_zero_snr": True}), 999, 2e-2),
    "flow": (RectifiedFlow(), 1000, 5e-3),
    "flow, shifted": (RectifiedFlow(8.0), 1000, 1.2e-2),
}


@pytest.mark.parametrize("world", WORLDS)
def test_noise_becomes_the_sample_the_exact_flow_leads_to(world):
    process, steps, error = WORLDS[world]
    mean, grid = 1.3, process.grid(steps)
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(1, 2, 3, 5, 7, generator=generator, dtype=torch.float64)
    model = gaussian_model(process, world.split(",")[0])
    sample = ddim_sample(z, partial(model, cond=prompt(mean)), grid)
    torch.testing.assert_close(sample, carried(z, grid[-1], grid[0], mean), rtol=0, atol=error)


def test_the_model_is_asked_at_the_level_it_leaves():
    asked, done = [], []

    def ask(z, level):
        asked.append(level.t)
        return Prediction(z, z)

    grid = tuple(map(SCHEDULE.level, (0, 300, 999)))
    ddim_sample(torch.zeros(1, 1, 1, 1, 1), ask, grid, lambda step, z: done.append(step))
    assert (asked, done) == ([999, 300], [1, 2])


def test_it_stops_when_told_to():
    def stop(step, z):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ddim_sample(
            torch.zeros(1, 1, 1, 1, 1), lambda z, level: Prediction(z, z), SCHEDULE.grid(2), stop
        )
