"""Levels of noise against diffusers' schedules, what models say there, and the flow of a Gaussian.

Every kind of output is a line through z_0 and eps. The arithmetic of `split`, `target` and `move`
is proved in float64 against those lines, each scheduler of diffusers against its own numbers, and
a whole path against the probability flow that is known for a Gaussian.
"""

import math
from functools import partial
from itertools import pairwise

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, FlowMatchEulerDiscreteScheduler
from gaussian_world import carried, exact_output, gaussian_model, prompt
from rescore.pipelines.inversion.ddim_inversion import ddim_invert
from rescore.pipelines.inversion.sampling import ddim_sample
from rescore.pipelines.models.process import (
    KINDS,
    Level,
    Prediction,
    Process,
    RectifiedFlow,
    Tabled,
    VariancePreserving,
    is_flow,
    move,
    noised,
    split,
    target,
)

STABLE_DIFFUSION = {
    "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012,
}  # fmt: skip
CONFIGS = {
    "stable diffusion": STABLE_DIFFUSION,
    "animatediff": {"beta_schedule": "linear", "beta_start": 0.00085, "beta_end": 0.012},
    "cosine": {"beta_schedule": "squaredcos_cap_v2"},
    "trained": {"trained_betas": [0.1, 0.2, 0.05], "num_train_timesteps": 3},
    "zero snr": {**STABLE_DIFFUSION, "rescale_betas_zero_snr": True},
}
PROCESS = VariancePreserving.from_config(STABLE_DIFFUSION)
ZERO_SNR = VariancePreserving.from_config(CONFIGS["zero snr"])
SHAPE = (2, 3, 5, 7, 11)


def clip(seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def a_level(kind: str, noise: float) -> Level:
    """A level of the process that a kind of model belongs to."""
    signal = 1 - noise if kind == "flow" else math.sqrt(1 - noise**2)
    return Level(7, signal, noise)


# --- diffusion with discrete timesteps, against diffusers


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_levels_are_those_of_diffusers(config):
    ours = VariancePreserving.from_config(config)
    theirs = DDIMScheduler.from_config(config).alphas_cumprod
    assert ours.alphas_bar.dtype == torch.float64
    assert len(ours) == len(theirs)
    torch.testing.assert_close(ours.alphas_bar.float(), theirs, rtol=2e-5, atol=1e-7)
    for t in (0, 1, len(ours) - 1):
        level = ours.level(t)
        assert level.t == t
        assert level.signal**2 == pytest.approx(float(ours.alphas_bar[t]), rel=1e-12)
        assert level.signal**2 + level.noise**2 == pytest.approx(1, rel=1e-12)


def test_betas_of_a_model_saved_to_disk(tmp_path):
    DDPMScheduler(beta_schedule="linear", beta_start=0.001, beta_end=0.017).save_pretrained(
        tmp_path
    )
    config = DDPMScheduler.load_config(tmp_path)
    assert VariancePreserving.from_config(config) == VariancePreserving.from_config(
        {"beta_schedule": "linear", "beta_start": 0.001, "beta_end": 0.017}
    )


def test_processes_are_equal_by_value():
    one, same, other = (
        VariancePreserving.from_config(CONFIGS[k]) for k in ("cosine", "cosine", "trained")
    )
    assert one == same
    assert one != other
    assert RectifiedFlow(3.0) == RectifiedFlow(3.0) != RectifiedFlow(5.0)
    assert RectifiedFlow() != one != RectifiedFlow()


def test_an_unknown_schedule_is_named():
    with pytest.raises(ValueError, match="noise schedule is 'sigmoid'"):
        VariancePreserving.from_config({"beta_schedule": "sigmoid"})


def test_noising_equals_diffusers():
    z_0, noise = clip(dtype=torch.float32), clip(1, dtype=torch.float32)
    theirs = DDIMScheduler.from_config(STABLE_DIFFUSION)
    for t in (17, 947):
        expected = theirs.add_noise(z_0, noise, torch.tensor([t]))
        ours = noised(z_0, noise, PROCESS.level(t))
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "theirs"), [("epsilon", "epsilon"), ("v", "v_prediction"), ("denoised", "sample")]
)
def test_a_step_equals_diffusers(kind, theirs):
    config = {**STABLE_DIFFUSION, "clip_sample": False, "prediction_type": theirs}
    scheduler = DDIMScheduler.from_config(config)
    scheduler.set_timesteps(20)
    z, output = clip(dtype=torch.float32), clip(1, dtype=torch.float32)
    t_from, t_to = scheduler.timesteps[4].item(), scheduler.timesteps[5].item()
    expected = scheduler.step(output, t_from, z)
    said = split(output, z, PROCESS.level(t_from), kind)
    torch.testing.assert_close(said.z_0, expected.pred_original_sample, rtol=1e-5, atol=1e-5)
    ours = move(said, PROCESS.level(t_to))
    torch.testing.assert_close(ours, expected.prev_sample, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("t", [0, 17, 947])
def test_the_target_for_v_equals_diffusers(t):
    z_0, noise = clip(dtype=torch.float32), clip(1, dtype=torch.float32)
    theirs = DDPMScheduler.from_config({**STABLE_DIFFUSION, "prediction_type": "v_prediction"})
    expected = theirs.get_velocity(z_0, noise, torch.tensor([t]))
    ours = target(z_0, noise, PROCESS.level(t), "v")
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-6)


def test_the_grid_runs_from_clean_to_noise():
    times = [level.t for level in PROCESS.grid(50)]
    assert (times[0], times[-1], len(times)) == (0, 999, 51)
    assert times == sorted(set(times))
    assert PROCESS.grid(50)[13] == PROCESS.level(int(times[13]))
    for steps in (0, 1000):
        with pytest.raises(ValueError, match="between 1 and 999"):
            PROCESS.grid(steps)


@pytest.mark.parametrize("t", [-1, 1000])
def test_a_timestep_beyond_the_schedule_is_told(t):
    with pytest.raises(ValueError, match=f"no timestep {t}; choose between 0 and 999"):
        PROCESS.level(t)


# --- a flow along straight lines, against diffusers


@pytest.mark.parametrize("shift", [1.0, 3.0, 7.0])
def test_sigmas_of_a_flow_are_those_of_diffusers(shift):
    """Their grid descends and leaves the noisiest at 1; their table has 1000 places."""
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    process = RectifiedFlow(shift)
    table = [process.at(i / 1000) for i in range(1000, 0, -1)]
    noise = torch.tensor([level.noise for level in table])
    torch.testing.assert_close(noise, scheduler.sigmas[:1000], rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(1000 * noise, scheduler.timesteps, rtol=1e-5, atol=1e-4)
    assert all(level.signal + level.noise == pytest.approx(1, abs=1e-15) for level in table)
    assert all(level.t == 1000 * level.noise for level in table)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_the_grid_of_a_flow_is_diffusers_own_for_these_sigmas(shift):
    steps = 13
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(sigmas=[i / steps for i in range(steps, 0, -1)])
    grid = RectifiedFlow(shift).grid(steps)
    assert [grid[0].noise, grid[-1].noise, len(grid)] == [0, 1, steps + 1]
    noise = torch.tensor([level.noise for level in reversed(grid)])
    torch.testing.assert_close(noise, scheduler.sigmas, rtol=1e-5, atol=1e-7)
    times = torch.tensor([level.t for level in reversed(grid)][:-1])
    torch.testing.assert_close(times, scheduler.timesteps, rtol=1e-5, atol=1e-4)


def test_a_step_of_a_flow_equals_diffusers():
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(sigmas=[i / 5 for i in range(5, 0, -1)])
    down = RectifiedFlow(3.0).grid(5)[::-1]
    z = clip(dtype=torch.float32)
    ours = theirs = z
    for i, (here, there) in enumerate(pairwise(down)):
        output = clip(i + 2, dtype=torch.float32)
        theirs = scheduler.step(output, scheduler.timesteps[i], theirs).prev_sample
        ours = move(split(output, ours, here, "flow"), there)
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_noising_along_a_flow_equals_diffusers():
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    z_0, noise = clip(dtype=torch.float32), clip(1, dtype=torch.float32)
    for place in (0, 211, 997):
        t = scheduler.timesteps[place : place + 1]
        level = RectifiedFlow(3.0).at((1000 - place) / 1000)
        expected = scheduler.scale_noise(z_0, t, noise)
        torch.testing.assert_close(noised(z_0, noise, level), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shift", [0.0, -1.0, math.nan, math.inf])
def test_a_shift_is_a_number_above_0(shift):
    with pytest.raises(ValueError, match="must be a number above 0"):
        RectifiedFlow(shift)


def test_a_grid_has_a_step():
    with pytest.raises(ValueError, match="0 steps leads nowhere"):
        RectifiedFlow().grid(0)


# --- all

CLOCKS = {
    "diffusion": PROCESS,
    "flow": RectifiedFlow(3.0),
    "a table": Tabled(tuple(Level(i / 997, 1.0, i / 997) for i in range(1, 998))),
}


@pytest.mark.parametrize("process", CLOCKS.values(), ids=CLOCKS)
def test_a_share_is_a_place_on_the_clock(process: Process):
    assert isinstance(process, Process)
    noise = [process.at(share).noise for share in (0.0, 0.2, 0.5, 1.0)]
    assert noise == sorted(set(noise))
    assert process.at(0.0) == process.grid(3)[0] and process.at(1.0) == process.grid(3)[-1]
    for share in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match=r"must lie within 0\.\.1"):
            process.at(share)


@pytest.mark.parametrize("process", CLOCKS.values(), ids=CLOCKS)
def test_levels_are_drawn_evenly_between_two_shares(process: Process):
    """Also at the ends, and by a generator alone."""

    def drawn(seed: int, count: int = 2000) -> list[Level]:
        generator = torch.Generator().manual_seed(seed)
        return [process.drawn(0.25, 0.75, generator) for _ in range(count)]

    levels = drawn(3)
    assert levels[:5] == drawn(3, 5) != drawn(4, 5)
    low, middle, high = (process.at(share).noise for share in (0.25, 0.5, 0.75))
    noise = [level.noise for level in levels]
    assert low <= min(noise) and max(noise) <= high
    assert sum(n < middle for n in noise) == pytest.approx(1000, abs=100)
    assert min(noise) < process.at(0.26).noise and max(noise) > process.at(0.74).noise
    one = process.drawn(0.5, 0.5, torch.Generator())
    assert one == process.at(0.5)


@pytest.mark.parametrize("steps", [0, 3])
def test_a_table_has_no_more_steps_than_levels(steps):
    levels = tuple(Level(noise, 1.0, noise) for noise in (0.1, 0.5, 2.0))
    assert Tabled(levels).grid(2) == levels
    with pytest.raises(ValueError, match="choose between 1 and 2"):
        Tabled(levels).grid(steps)


# --- what a model says


@pytest.mark.parametrize("noise", [0.011, 0.5, 0.83, 0.997])
@pytest.mark.parametrize("kind", KINDS)
def test_split_and_target_are_inverse(kind, noise):
    """Both ways: from the two unknowns to an output and back, and from an output and back."""
    level = a_level(kind, noise)
    z_0, eps = clip(), clip(1)
    z_t = noised(z_0, eps, level)
    found = split(target(z_0, eps, level, kind), z_t, level, kind)
    torch.testing.assert_close(found, Prediction(z_0, eps), rtol=1e-10, atol=1e-10)

    output = clip(2)
    said = split(output, z_t, level, kind)
    torch.testing.assert_close(noised(*said, level), z_t, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(target(*said, level, kind), output, rtol=1e-10, atol=1e-10)


def test_outputs_by_hand():
    """z_0 = 2 and eps = 5 at s = 0.6, n = 0.8, and for the flow at s = 0.4, n = 0.6."""
    z_0, eps = torch.tensor([2.0]).double(), torch.tensor([5.0]).double()
    expected = {"epsilon": 5.0, "v": 0.6 * 5 - 0.8 * 2, "flow": 3.0, "denoised": 2.0}
    for kind, output in expected.items():
        level = Level(1, 0.4, 0.6) if kind == "flow" else Level(1, 0.6, 0.8)
        assert target(z_0, eps, level, kind).item() == pytest.approx(output)
        z_t = torch.tensor([level.signal * 2 + level.noise * 5]).double()
        said = split(torch.tensor([output]).double(), z_t, level, kind)
        assert (said.z_0.item(), said.eps.item()) == (pytest.approx(2), pytest.approx(5))


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_there_and_back(kind):
    here, there = a_level(kind, 0.37), a_level(kind, 0.89)
    z, output = clip(), clip(1)
    said = split(output, z, here, kind)
    moved = move(said, there)
    back = move(split(target(*said, there, kind), moved, there, kind), here)
    torch.testing.assert_close(back, z, rtol=1e-10, atol=1e-10)


def test_a_step_of_a_flow_is_eulers():
    here, there = a_level("flow", 0.37), a_level("flow", 0.89)
    z, output = clip(), clip(1)
    moved = move(split(output, z, here, "flow"), there)
    torch.testing.assert_close(moved, z + (0.89 - 0.37) * output, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", ["v", "flow", "denoised"])
def test_nothing_is_divided_by_the_signal_but_for_epsilon(kind):
    level = Level(999, 0.0, 1.0)
    z_0, eps = clip(), clip(1)
    said = split(target(z_0, eps, level, kind), noised(z_0, eps, level), level, kind)
    torch.testing.assert_close(said, Prediction(z_0, eps), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", ["epsilon", "v", "flow"])
def test_nothing_is_divided_by_the_noise_but_for_denoised(kind):
    level = Level(0, 1.0, 0.0)
    z_0, eps = clip(), clip(1)
    said = split(target(z_0, eps, level, kind), noised(z_0, eps, level), level, kind)
    torch.testing.assert_close(said, Prediction(z_0, eps), rtol=1e-12, atol=1e-12)


def test_what_an_output_leaves_open_is_told():
    z = clip()
    with pytest.raises(ValueError, match=r"no signal is left.* zero terminal SNR.*prediction_type"):
        split(z, z, Level(999, 0.0, 1.0), "epsilon")
    with pytest.raises(ValueError, match="no noise at this level"):
        split(z, z, Level(0, 1.0, 0.0), "denoised")
    with pytest.raises(ValueError, match=r"predicts 'sample'; .* epsilon, v, flow, denoised"):
        split(z, z, Level(1, 0.6, 0.8), "sample")
    with pytest.raises(ValueError, match="no target for 'sample'; choose epsilon, v, flow, deno"):
        target(z, z, Level(1, 0.6, 0.8), "sample")


def test_parts_of_a_batch():
    said = Prediction(clip(), clip(1))
    first, second = said.parts(1)
    assert torch.equal(first.z_0, said.z_0[:1]) and torch.equal(first.eps, said.eps[:1])
    assert torch.equal(second.z_0, said.z_0[1:]) and torch.equal(second.eps, said.eps[1:])


# --- whole paths in the Gaussian world

MEAN = 1.7
WORLDS = [
    (PROCESS, "epsilon"),
    (PROCESS, "v"),
    (RectifiedFlow(1.0), "flow"),
    (RectifiedFlow(3.0), "flow"),
    (RectifiedFlow(3.0), "denoised"),
]
WORLD_NAMES = ["epsilon", "v", "flow", "shifted flow", "flow, denoised"]


def ask(process: Process, kind: str):
    return partial(gaussian_model(process, kind), cond=prompt(MEAN))


def start() -> torch.Tensor:
    return torch.linspace(-3, 3, 13, dtype=torch.float64).view(1, 1, 1, 1, 13)


@pytest.mark.parametrize(("process", "kind"), WORLDS, ids=WORLD_NAMES)
def test_sampling_follows_the_exact_flow_of_a_gaussian(process, kind):
    grid = process.grid(997)
    found = ddim_sample(start(), ask(process, kind), grid)
    exact = carried(start(), grid[-1], grid[0], MEAN)
    torch.testing.assert_close(found, exact, rtol=0, atol=1e-2)


@pytest.mark.parametrize(("process", "kind"), WORLDS, ids=WORLD_NAMES)
def test_inversion_follows_the_exact_flow_of_a_gaussian(process, kind):
    grid = process.grid(997)
    held = "flow" if isinstance(process, RectifiedFlow) else "epsilon"
    found = ddim_invert(start(), ask(process, kind), grid, kind=held).latents[-1]
    exact = carried(start(), grid[0], grid[-1], MEAN)
    torch.testing.assert_close(found, exact, rtol=0, atol=2e-2)


def test_the_error_of_sampling_shrinks_with_the_step():
    """As of a method of first order: ten times the steps, a tenth of the error."""
    errors = []
    for steps in (50, 500):
        grid = RectifiedFlow(3.0).grid(steps)
        found = ddim_sample(start(), ask(RectifiedFlow(3.0), "flow"), grid)
        errors.append((found - carried(start(), grid[-1], grid[0], MEAN)).abs().max().item())
    assert errors[1] == pytest.approx(errors[0] / 10, rel=0.2)


def test_inverting_a_flow_is_eulers_method():
    """Each step adds the velocity at the level it goes to, asked for at the latents it is at."""
    process, z = RectifiedFlow(3.0), start()
    grid = process.grid(11)
    path = ddim_invert(z, ask(process, "flow"), grid, kind="flow")
    for i, (here, there) in enumerate(pairwise(grid)):
        velocity = exact_output(z, there, MEAN, "flow")
        z = z + (there.noise - here.noise) * velocity
        torch.testing.assert_close(path.latents[i + 1], z, rtol=1e-12, atol=1e-12)


def test_a_flow_comes_back_along_the_way_it_went():
    process = RectifiedFlow(3.0)
    grid = process.grid(499)
    path = ddim_invert(start(), ask(process, "flow"), grid, kind="flow")
    back = ddim_sample(path.latents[-1], ask(process, "flow"), grid)
    torch.testing.assert_close(back, start(), rtol=0, atol=3e-2)


def test_a_v_model_with_zero_terminal_snr_samples_and_inverts():
    """At the last level no signal is left, and nothing is divided by it."""
    grid = ZERO_SNR.grid(333)
    assert grid[-1].signal == 0
    path = ddim_invert(start(), ask(ZERO_SNR, "v"), grid)
    noise, clean = path.latents[-1], ddim_sample(start(), ask(ZERO_SNR, "v"), grid)
    torch.testing.assert_close(noise, carried(start(), grid[0], grid[-1], MEAN), rtol=0, atol=0.05)
    torch.testing.assert_close(clean, carried(start(), grid[-1], grid[0], MEAN), rtol=0, atol=0.05)


def test_a_noise_model_with_zero_terminal_snr_is_refused():
    with pytest.raises(ValueError, match="zero terminal SNR"):
        ddim_sample(start(), ask(ZERO_SNR, "epsilon"), ZERO_SNR.grid(7))


@pytest.mark.parametrize("shift", [1.0, 5.0, 12.0])
def test_a_flow_is_told_from_noise_by_its_levels(shift):
    flow = RectifiedFlow(shift)
    assert is_flow(flow) and is_flow(Tabled(flow.grid(7)))
    noise = VariancePreserving.from_config({"beta_schedule": "scaled_linear"})
    assert not is_flow(noise) and not is_flow(Tabled(noise.grid(7)))
