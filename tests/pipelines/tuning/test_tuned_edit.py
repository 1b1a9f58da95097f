"""Inverting without a prompt and sampling with one, where the right answer is known."""

from functools import partial

import torch
from gaussian_world import gaussian_model, prompt
from rescore.pipelines.inversion.ddim_inversion import ddim_invert
from rescore.pipelines.inversion.sampling import ddim_sample
from rescore.pipelines.models.denoiser import Prompts
from rescore.pipelines.models.process import VariancePreserving
from rescore.pipelines.tuning.tuned_edit import invert_and_edit

SCHEDULE = VariancePreserving.from_config({"beta_schedule": "scaled_linear"})
Z = torch.randn(1, 2, 3, 5, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def edit(target: float, **options) -> tuple[torch.Tensor, list[int]]:
    model = gaussian_model(SCHEDULE)
    prompts = Prompts(source=prompt(9.0), target=prompt(target), negative=prompt(0.0))
    return invert_and_edit(Z, model, prompts, **options), model.output.rows


def test_a_target_like_the_empty_prompt_finds_the_clip_back():
    edited, _ = edit(0.0, steps=200, cfg=3.0)
    torch.testing.assert_close(edited, Z, rtol=0, atol=0.05)


def test_the_target_moves_the_clip_towards_its_mean():
    edited, _ = edit(2.0, steps=200, cfg=1.0)
    torch.testing.assert_close(edited, Z + 2.0, rtol=0, atol=0.1)


def test_inverted_with_the_source_prompt_the_same_target_finds_the_clip_back():
    edited, _ = edit(9.0, steps=200, cfg=1.0, describe=True)
    torch.testing.assert_close(edited, Z, rtol=0, atol=0.3)
    without, _ = edit(9.0, steps=200, cfg=1.0)
    assert (without - Z).abs().min() > 8


def test_it_is_inversion_and_guided_sampling_on_one_grid():
    edited, rows = edit(2.0, steps=7, cfg=4.0)
    twin, grid = gaussian_model(SCHEDULE), SCHEDULE.grid(7)
    up = ddim_invert(Z, partial(twin, cond=prompt(0.0)), grid)
    guided = partial(twin.guided, cond=prompt(2.0), uncond=prompt(0.0), cfg=4.0)
    torch.testing.assert_close(edited, ddim_sample(up.latents[-1], guided, grid))
    assert rows == [1] * 7 + [2] * 7


def test_steps_are_counted_over_both_halves():
    seen = []
    edit(1.0, steps=3, on_step=seen.append)
    assert seen == [1, 2, 3, 4, 5, 6]
