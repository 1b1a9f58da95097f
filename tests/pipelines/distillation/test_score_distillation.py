"""The loop in a world where its outcome is known in closed form, and its promises."""

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch
from gaussian_world import SPREAD, exact_eps, gaussian_model, prompt, variance
from rescore.pipelines.distillation.delta_denoising import DeltaDenoising, delta_denoising_gradient
from rescore.pipelines.distillation.score_distillation import Settings, distil
from rescore.pipelines.distillation.terms import Needs, Result, Weighted
from rescore.pipelines.models.denoiser import Prompts
from rescore.pipelines.models.process import RectifiedFlow, VariancePreserving, noised
from small_runs import Pull

SCHEDULE = VariancePreserving.from_config(
    {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
)
SOURCE, TARGET, NEGATIVE = 0.3, 1.9, -0.7
PROMPTS = Prompts(prompt(SOURCE), prompt(TARGET), prompt(NEGATIVE))
DDS = (Weighted(DeltaDenoising()),)


def clip(seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return SOURCE + SPREAD * torch.randn(1, 2, 3, 5, 7, generator=generator, dtype=torch.float64)


def run(z_source, settings, terms=DDS, process=SCHEDULE, kind="epsilon", **options):
    model = gaussian_model(process, kind)
    return distil(z_source, terms, model, PROMPTS, settings, **options), model.output


@pytest.mark.parametrize("cfg", [0.0, 1.0, 7.5])
@pytest.mark.parametrize("share", [0.05, 0.5, 0.95])
@pytest.mark.parametrize(
    ("process", "kind"),
    [(SCHEDULE, "epsilon"), (SCHEDULE, "v"), (SCHEDULE, "denoised"), (RectifiedFlow(3.0), "flow")],
    ids=["epsilon", "v", "denoised", "flow"],
)
def test_every_step_is_the_exact_one(cfg, share, process, kind):
    """At a fixed level the noise cancels, and z - z_source follows a linear recurrence.

    One step is d <- d - eta n / V (s d - s cfg D), V the variance of z_t and D the distance of the
    two prompts' means; so d_n = cfg D (1 - (1 - eta s n / V)^n), whatever the model predicts.
    """
    eta, n = 0.05, 23
    z = clip()
    settings = Settings(n, eta, cfg, seed=5, t_min=share, t_max=share)
    state, _ = run(z, settings, process=process, kind=kind)
    level = process.at(share)
    rate = eta * level.signal * level.noise / variance(level)
    expected = cfg * (TARGET - SOURCE) * (1 - (1 - rate) ** n)
    torch.testing.assert_close(state.z - z, torch.full_like(z, expected), rtol=1e-9, atol=1e-9)


def test_it_converges_to_the_target_where_the_source_lay():
    """With cfg 1 the limit moves every latent by exactly the distance of the means."""
    z = clip()
    state, _ = run(z, Settings(3000, 0.2, 1.0))
    torch.testing.assert_close(state.z, z + TARGET - SOURCE, rtol=0, atol=1e-6)


def test_equal_prompts_change_nothing():
    z = clip()
    same = Prompts(prompt(SOURCE), prompt(SOURCE), prompt(NEGATIVE))
    state = distil(z, DDS, gaussian_model(SCHEDULE), same, Settings(11, 0.4, 9.0))
    assert torch.equal(state.z, z)


@pytest.mark.parametrize(("cfg", "rows"), [(9.0, 4), (1.0, 2), (0.0, 2)])
def test_one_call_a_step_with_no_row_too_many(cfg, rows):
    _, model = run(clip(), Settings(7, 0.1, cfg))
    assert model.rows == [rows] * 7


def test_terms_share_predictions_and_add_up():
    z = clip()
    twice, model = run(z, Settings(7, 0.1), (*DDS, Weighted(DeltaDenoising("again"), 0.5)))
    once, _ = run(z, Settings(7, 0.15))
    torch.testing.assert_close(twice.z, once.z)
    assert model.rows == [4] * 7


def test_a_term_that_needs_no_prediction_costs_no_call():
    state, model = run(clip(), Settings(200, 0.5), (Weighted(Pull(4.0, 1.0)),))
    assert model.rows == []
    torch.testing.assert_close(state.z, torch.full_like(state.z, 4.0))


def test_terms_act_when_they_are_scheduled():
    terms = (
        Weighted(Pull(1.0, 1.0, "early"), end=0.5),
        Weighted(Pull(2.0, 1.0, "late"), start=0.5),
    )
    state, _ = run(clip(), Settings(10, 0.5), terms)
    assert [list(values) for values in state.values] == [["early"]] * 5 + [["late"]] * 5


@pytest.mark.parametrize("optimiser", ["sgd", "adam"])
def test_120_steps_equal_70_and_50(optimiser):
    settings = Settings(120, 0.05, 7.5, seed=3, optimiser=optimiser)
    whole, _ = run(clip(), settings)
    first, _ = run(clip(), replace(settings, steps=70))
    then, _ = run(clip(), replace(settings, steps=50, seed=99), state=first)
    assert torch.equal(whole.z, then.z)
    assert torch.equal(whole.random, then.random)
    assert whole.values == then.values
    assert then.step == 120


def test_a_state_is_left_as_it_was():
    first, _ = run(clip(), Settings(5, 0.05, optimiser="adam"))
    before = first.z.clone(), {k: v.clone() for k, v in first.moments.items()}
    run(clip(), Settings(5, 0.05, optimiser="adam"), state=first)
    assert torch.equal(first.z, before[0])
    assert all(torch.equal(first.moments[k], v) for k, v in before[1].items())


@pytest.mark.parametrize("optimiser", ["sgd", "adam"])
@pytest.mark.parametrize("masks", [1, 3], ids=["one mask", "one per frame"])
def test_latents_outside_the_mask_are_the_source_bit_for_bit(optimiser, masks):
    mask = torch.zeros(masks, 50, 70, dtype=torch.float64)
    mask[:, 10:30, 20:45] = 1  # rows 1 and 2, columns 2 to 4 of the 5 x 7 grid, the last by half
    z = clip()
    state, _ = run(z, Settings(13, 0.1, optimiser=optimiser), mask=mask)
    changed = state.z != z
    inside = torch.zeros_like(changed)
    inside[..., 1:3, 2:5] = True
    assert torch.equal(changed, inside)


def test_a_mask_on_a_term_leaves_the_others_free():
    mask = torch.zeros(1, 5, 7, dtype=torch.float64)
    mask[0, 2, 3] = 1
    terms = (replace(DDS[0], masks=(mask,)), Weighted(Pull(0.0, 1.0), 0.1))
    state, _ = run(clip(), Settings(3, 0.1), terms)
    only, _ = run(clip(), Settings(3, 0.1), terms[1:])
    outside = (mask == 0).expand_as(state.z)
    assert torch.equal(state.z[outside], only.z[outside])
    assert not torch.equal(state.z[~outside], only.z[~outside])


def test_the_seed_decides_and_the_global_generator_does_not():
    torch.manual_seed(1)
    one, _ = run(clip(), Settings(5, 0.1, seed=8))
    torch.manual_seed(2)
    same, _ = run(clip(), Settings(5, 0.1, seed=8))
    other, _ = run(clip(), Settings(5, 0.1, seed=9))
    assert torch.equal(one.z, same.z)
    assert not torch.equal(one.z, other.z)


def test_zero_steps_give_the_source_back():
    z = clip()
    state, model = run(z, Settings(0))
    assert torch.equal(state.z, z)
    assert model.rows == []


def test_it_runs_inside_inference_mode():
    with torch.inference_mode():
        z = clip()
        inside, _ = run(z, Settings(5, 0.1, optimiser="adam"))
        again, _ = run(z, Settings(5, 0.1, optimiser="adam"), state=inside)
    outside, _ = run(clip(), Settings(5, 0.1, optimiser="adam"))
    assert torch.equal(inside.z, outside.z)
    assert again.step == 10


def test_stopping_from_on_step():
    class Cancelled(Exception):
        pass

    seen = []

    def stop(progress):
        seen.append((progress.step, progress.steps))
        if progress.step == 3:
            raise Cancelled

    with pytest.raises(Cancelled):
        run(clip(), Settings(9, 0.1), on_step=stop)
    assert seen == [(1, 9), (2, 9), (3, 9)]


@dataclass(frozen=True)
class Breaks:
    name: str = "breaks"
    needs: ClassVar[Needs] = Needs()

    def __call__(self, draw, predictions, z, z_source):
        return Result(z.log(), 0.0)


@pytest.mark.parametrize(
    ("options", "error", "sentence"),
    [
        ({"terms": ()}, ValueError, "No term is connected"),
        ({"terms": (Weighted(Breaks()),)}, FloatingPointError, "'breaks' is not finite at step 1"),
        ({"z_source": torch.full((1, 2, 3, 5, 7), math.nan)}, ValueError, "latents hold NaN"),
        ({"mask": torch.zeros(2, 5, 7)}, ValueError, "mask has 2 frames and the clip has 3"),
        ({"mask": torch.full((1, 5, 7), 1.5)}, ValueError, "outside 0..1"),
    ],
)
def test_mistakes_are_told(options, error, sentence):
    options = {"z_source": clip(), "settings": Settings(2)} | options
    with pytest.raises(error, match=sentence):
        run(**options)


def test_a_state_of_another_clip_or_optimiser_is_refused():
    state, _ = run(clip(), Settings(2, optimiser="adam"))
    with pytest.raises(ValueError, match="Resume with the clip"):
        run(clip()[..., :5], Settings(2, optimiser="adam"), state=state)
    with pytest.raises(ValueError, match="another clip of the same size"):
        run(state.z, Settings(2, optimiser="adam"), state=state)
    with pytest.raises(ValueError, match="Choose 'adam' again"):
        run(clip(), Settings(2), state=state)


@pytest.mark.parametrize(
    ("setting", "value"),
    [("steps", -1), ("step_size", -0.1), ("step_size", math.nan), ("cfg", -1.0), ("t_min", 0.99),
     ("t_max", 1.5), ("optimiser", "lion")],
)  # fmt: skip
def test_settings_are_checked(setting, value):
    with pytest.raises(ValueError, match=setting if setting[:2] != "t_" else "Levels"):
        Settings(**{setting: value})


def test_the_gradient_is_the_plain_difference():
    target, source = torch.randn(2, 3, 5, 7, 11), torch.randn(2, 3, 5, 7, 11)
    assert torch.equal(delta_denoising_gradient(target, source), target - source)


def test_a_negative_prompt_for_the_source_alone_guides_the_source():
    """By hand: eps_t + (cfg - 1)(eps_t - eps_n) for the edit, and the same with the other one."""
    process = VariancePreserving.from_config({"beta_schedule": "scaled_linear"})
    model, prompts = gaussian_model(process), Prompts(prompt(0.3), prompt(1.9), prompt(-0.7))
    z_0 = torch.randn(1, 2, 3, 5, 7, generator=torch.Generator().manual_seed(0))
    settings = Settings(1, 0.1, 7.5, seed=2)
    terms = (Weighted(DeltaDenoising()),)
    found = distil(z_0, terms, model, prompts, settings, source_negative=prompt(2.5)).z
    generator = torch.Generator().manual_seed(2)
    level = process.drawn(settings.t_min, settings.t_max, generator)
    z_t = noised(z_0, torch.randn(z_0.shape, generator=generator), level)
    eps = [exact_eps(z_t, level, mean) for mean in (1.9, -0.7, 0.3, 2.5)]
    target, source = (n + 7.5 * (p - n) for p, n in (eps[:2], eps[2:]))
    torch.testing.assert_close(found, z_0 - 0.1 * (target - source), rtol=0, atol=1e-5)
    same = prompts._replace(target=prompts.source)
    still = distil(z_0, terms, model, same, settings, source_negative=prompts.negative)
    assert torch.equal(still.z, z_0)
