"""Published methods are settings of one loop: each is held against its own rule.

The rules are written as their authors do, with the velocities of a flow model, v = eps - z_0, in a
world where these are known in closed form and with a tiny Wan.
"""

import math
from dataclasses import replace

import pytest
import torch
from gaussian_world import gaussian_model, prompt
from rescore.pipelines.distillation.delta_denoising import DeltaDenoising
from rescore.pipelines.distillation.draws import shares_of_draws
from rescore.pipelines.distillation.score_distillation import Settings, distil
from rescore.pipelines.distillation.terms import Weighted
from rescore.pipelines.models.denoiser import Denoiser, Prompts
from rescore.pipelines.models.process import RectifiedFlow, VariancePreserving, noised
from tiny_wan import CHANNELS, TEXT_WIDTH, tiny_transformer

FLOW = RectifiedFlow(3.0)
GAUSSIAN = Prompts(prompt(0.3), prompt(1.9), prompt(-0.7))
VELOCITY = DeltaDenoising(weighting="velocity")
FLOWEDIT = replace(VELOCITY, eta=1.0)


def tiny_wan() -> Denoiser:
    transformer = tiny_transformer(seed=1)

    def output(z, t, cond):
        with torch.no_grad():
            times = torch.full((len(z),), t)
            return transformer(z, times, cond, return_dict=False)[0]

    return Denoiser("tiny", FLOW, "flow", output)


def words() -> Prompts:
    generator = torch.Generator().manual_seed(7)
    return Prompts(*(torch.randn(1, 3, TEXT_WIDTH, generator=generator) for _ in range(3)))


WORLDS = {
    "gaussian": (lambda: gaussian_model(FLOW, "flow"), GAUSSIAN, (1, 2, 3, 5, 7), torch.float64),
    "network": (tiny_wan, words(), (1, CHANNELS, 2, 4, 6), torch.float32),
}


@pytest.fixture(params=list(WORLDS))
def world(request):
    """A model, its prompts, and a clip."""
    make, prompts, shape, dtype = WORLDS[request.param]
    generator = torch.Generator().manual_seed(3)
    return make(), prompts, 0.3 + 0.5 * torch.randn(shape, generator=generator, dtype=dtype)


def velocity(model, z, level, cond, uncond, cfg):
    """The guided velocity, straight from the model's output."""
    with_prompt, without = (
        model.output(z, level.t, text.expand(len(z), *text.shape[1:])) for text in (cond, uncond)
    )
    return without + cfg * (with_prompt - without)


def levels(steps, t_max=1.0, t_min=0.0):
    return [FLOW.at(t_max - (t_max - t_min) * k / steps) for k in range(steps + 1)]


def by_hand(world, steps, rule, seed=0, t_max=1.0):
    """z after a descending run, by `rule(z, z_0, n, level, dt, share)`."""
    model, prompts, z_0 = world
    generator, z = torch.Generator().manual_seed(seed), z_0.clone()
    grid = levels(steps, t_max)
    for k in range(steps):
        noise = torch.randn(z.shape, generator=generator, dtype=z.dtype)
        z = rule(
            model, prompts, z, z_0, noise, grid[k], grid[k].noise - grid[k + 1].noise, k / steps
        )
    return z


def run(world, term, settings, **options):
    model, prompts, z_0 = world
    terms = (Weighted(term),) if not isinstance(term, tuple) else term
    return distil(z_0, terms, model, prompts, settings, **options)


def flowedit(cfg, source_cfg):
    """FlowEdit, Alg. 1: z_src noised; z_tar = z + z_src - x_src; z moves by dt (v_tar - v_src).

    With dt < 0 towards the clip, as sampling goes; here dt is how far the noise falls.
    """

    def rule(model, prompts, z, z_0, noise, level, dt, share):
        t = level.noise
        z_src = (1 - t) * z_0 + t * noise
        z_tar = z + z_src - z_0
        v_tar = velocity(model, z_tar, level, prompts.target, prompts.negative, cfg)
        v_src = velocity(model, z_src, level, prompts.source, prompts.negative, source_cfg)
        return z - dt * (v_tar - v_src)

    return rule


def drfs(cfg, source_cfg, eta):
    """DRFS: dt [(v_e - v_s) + (1 - eta_k)(z - z_0)], the edit moved by eta_k t (z - z_0)."""

    def rule(model, prompts, z, z_0, noise, level, dt, share):
        t, now = level.noise, eta(share)
        x_s = (1 - t) * z_0 + t * noise
        x_e = (1 - t) * z + t * noise + now * t * (z - z_0)
        v_e = velocity(model, x_e, level, prompts.target, prompts.negative, cfg)
        v_s = velocity(model, x_s, level, prompts.source, prompts.negative, source_cfg)
        return z - dt * ((v_e - v_s) + (1 - now) * (z - z_0))

    return rule


def flowalign(w):
    """FlowAlign: v_e = v(x_e, source) + w [v(x_e, target) - v(x_e, source)], v_s unguided."""

    def rule(model, prompts, z, z_0, noise, level, dt, share):
        t = level.noise
        x_s = (1 - t) * z_0 + t * noise
        x_e = z + x_s - z_0
        v_e = velocity(model, x_e, level, prompts.target, prompts.source, w)
        v_s = velocity(model, x_s, level, prompts.source, prompts.source, 1.0)
        return z - dt * (v_e - v_s)

    return rule


DESCENDING = Settings(5, 1.0, 5.0, t_min=0.0, t_max=1.0, order="descending")
RULES = {
    "FlowEdit": (FLOWEDIT, replace(DESCENDING, cfg=5.5, source_cfg=1.5), flowedit(5.5, 1.5)),
    "FlowEdit from two thirds": (
        FLOWEDIT,
        replace(DESCENDING, cfg=13.5, source_cfg=3.5, t_max=0.66),
        flowedit(13.5, 3.5),
    ),
    "DFVEdit with the pull": (
        VELOCITY,
        replace(DESCENDING, cfg=15.0, source_cfg=5.0),
        drfs(15.0, 5.0, lambda share: 0.0),
    ),
    "DRFS": (
        replace(FLOWEDIT, rising=True),
        replace(DESCENDING, cfg=16.5, source_cfg=6.0),
        drfs(16.5, 6.0, lambda share: share),
    ),
    "FlowAlign": (
        FLOWEDIT,
        replace(DESCENDING, cfg=13.5, guidance="source as negative"),
        flowalign(13.5),
    ),
}


@pytest.mark.parametrize("method", list(RULES))
def test_each_method_moves_as_its_paper_says(world, method):
    term, settings, rule = RULES[method]
    expected = by_hand(world, settings.steps, rule, t_max=settings.t_max)
    moved = expected - world[2]
    found = run(world, term, settings).z - world[2]
    scale = float(moved.abs().max())
    assert scale > 1e-3
    torch.testing.assert_close(found, moved, rtol=0, atol=2e-5 * max(scale, 1.0))


@pytest.mark.parametrize(
    ("process", "kind"),
    [
        (VariancePreserving.from_config({"beta_schedule": "scaled_linear"}), "epsilon"),
        (VariancePreserving.from_config({"beta_schedule": "scaled_linear"}), "v"),
        (FLOW, "flow"),
    ],
    ids=["epsilon", "v", "flow"],
)
def test_with_weight_eps_and_eta_0_it_is_the_difference_of_predicted_noises(process, kind):
    """As before there were other weights: to 1e-5, in single precision, over a whole run."""
    model = gaussian_model(process, kind)
    z_0 = 0.3 + 0.5 * torch.randn(1, 2, 3, 5, 7, generator=torch.Generator().manual_seed(0))
    settings = Settings(11, 0.1, 7.5, seed=2)
    found = distil(z_0, (Weighted(DeltaDenoising()),), model, GAUSSIAN, settings)
    generator, z = torch.Generator().manual_seed(2), z_0.clone()
    for _ in range(11):
        level = process.drawn(0.05, 0.95, generator)
        noise = torch.randn(z.shape, generator=generator)
        eps = [
            model.guided(noised(x, noise, level), level, text, GAUSSIAN.negative, 7.5).eps
            for x, text in ((z, GAUSSIAN.target), (z_0, GAUSSIAN.source))
        ]
        z = z - 0.1 * (eps[0] - eps[1])
    torch.testing.assert_close(found.z, z, rtol=0, atol=1e-5)


def test_the_weights_differ_by_signal_and_noise():
    level = FLOW.at(0.4)
    settings = Settings(1, 1.0, 5.0, t_min=0.4, t_max=0.4)
    model, z_0 = gaussian_model(FLOW, "flow"), torch.full((1, 2, 3, 5, 7), 0.4, dtype=torch.float64)
    moved = {
        weighting: distil(z_0, (Weighted(DeltaDenoising(weighting=weighting)),), model, GAUSSIAN,
                          settings).z - z_0
        for weighting in ("eps", "velocity", "x0")
    }  # fmt: skip
    torch.testing.assert_close(moved["velocity"] * level.noise, moved["x0"])
    torch.testing.assert_close(moved["eps"] * level.noise, moved["x0"] * level.signal)


EVERY = [
    {"order": order, "guidance": guidance, "noise_memory": memory, "draws": draws, "draw_count": 2}
    for order in ("random", "descending")
    for guidance in ("usual", "source as negative")
    for memory, draws in ((0.0, "one"), (0.7, "weighted"), (0.0, "best against worst"))
]


@pytest.mark.parametrize(("weighting", "eta"), [("eps", 0.0), ("velocity", 1.0), ("x0", 0.5)])
def test_equal_prompts_move_nothing(world, weighting, eta):
    """Exactly, for every combination of settings."""
    model, prompts, z_0 = world
    same = prompts._replace(target=prompts.source)
    term = (Weighted(DeltaDenoising(weighting=weighting, eta=eta)),)
    for more in EVERY:
        settings = Settings(2, 0.7, 6.0, **more)
        assert torch.equal(distil(z_0, term, model, same, settings).z, z_0), more


@pytest.mark.parametrize("draws", ["weighted", "best against worst"])
def test_several_draws_are_one_weighted_sum(world, draws):
    """A step of three draws, against three steps of one each from the same place."""
    settings = replace(DESCENDING, steps=1, t_max=0.6, draws=draws, draw_count=3, cfg=3.0)
    found = run(world, FLOWEDIT, settings).z
    _, _, z_0 = world
    level, generator = FLOW.at(0.6), torch.Generator().manual_seed(0)
    gradients = []
    for _ in range(3):
        noise = torch.randn(z_0.shape, generator=generator, dtype=z_0.dtype)
        z = flowedit(3.0, 3.0)(*world[:2], z_0, z_0, noise, level, level.noise, 0.0)
        gradients.append((z_0 - z) / level.noise)
    if draws == "weighted":
        ahead = [(z_0 - level.noise * g).flatten() for g in gradients]
        cosines = [float(a @ z_0.flatten() / (a.norm() * z_0.norm())) for a in ahead]
        total = sum(math.exp(c) for c in cosines)
        mixed = sum(math.exp(c) / total * g for c, g in zip(cosines, gradients, strict=True))
    else:
        best = sum(gradients) / 3
        mixed = best + 2.75 * (best - gradients[0])
    torch.testing.assert_close(found, z_0 - level.noise * mixed, rtol=1e-4, atol=1e-4)
    assert math.isclose(sum(shares_of_draws(draws, gradients, z_0)), 1.0, abs_tol=1e-9)


def test_remembered_noise_keeps_its_variance():
    """With memory 1 the first noise stays; with a, noises k steps apart correlate by sqrt(a)^k."""
    from rescore.pipelines.distillation.draws import drawn_noise

    generator, z = torch.Generator().manual_seed(0), torch.zeros(1, 1, 11, 101, 103)
    noises = [drawn_noise(z, 0.64, None, generator)]
    for _ in range(2):
        noises.append(drawn_noise(z, 0.64, noises[-1], generator))
    assert all(abs(float(n.var()) - 1) < 0.02 for n in noises)
    assert abs(float((noises[0] * noises[1]).mean()) - 0.8) < 0.02
    assert abs(float((noises[0] * noises[2]).mean()) - 0.64) < 0.02
    assert torch.equal(drawn_noise(z, 1.0, noises[0], generator), noises[0])


@pytest.mark.parametrize("order", ["random", "descending"])
def test_a_run_that_was_stopped_goes_on_bit_for_bit(world, order):
    """Eta that rises, noise that is remembered, draws of the first steps: all of it resumes."""
    settings = Settings(
        7, 0.5, 4.0, seed=5, order=order, noise_memory=0.5, draws="weighted", draw_count=2,
        draw_steps=4,
    )  # fmt: skip
    term = replace(FLOWEDIT, rising=True)
    whole = run(world, term, settings)
    first = run(world, term, replace(settings, stop_after=3))
    assert (first.step, first.plan) == (3, settings)
    second = run(world, term, replace(settings, stop_after=2), state=first)
    then = run(world, term, settings, state=second)
    assert torch.equal(whole.z, then.z) and torch.equal(whole.random, then.random)
    assert whole.values == then.values and (then.step, then.plan) == (7, None)
    with pytest.raises(ValueError, match="stopped after 3 of 7 steps"):
        run(world, term, replace(settings, cfg=5.0), state=first)


def test_descending_steps_add_up_to_the_step_size():
    from rescore.pipelines.distillation.draws import level_and_step

    settings = Settings(13, 0.7, t_min=0.0, t_max=1.0, order="descending")
    steps = [level_and_step(k, 13, FLOW, settings, torch.Generator()) for k in range(13)]
    assert math.isclose(sum(length for _, length in steps), 0.7)
    noises = [level.noise for level, _ in steps]
    assert noises == sorted(noises, reverse=True) and noises[0] == 1.0


@pytest.mark.parametrize(
    ("work", "sentence"),
    [
        (lambda w: DeltaDenoising(weighting="sigma"), "weighting is 'sigma'; choose one of eps"),
        (lambda w: DeltaDenoising(eta=1.5), "eta is 1.5"),
        (lambda w: Settings(order="up"), "order is 'up'; choose random or descending"),
        (lambda w: Settings(guidance="none"), "guidance is 'none'"),
        (lambda w: Settings(draws="two"), "draws is 'two'"),
        (lambda w: Settings(draw_count=1), "draw_count is 1"),
        (lambda w: Settings(noise_memory=1.5), "noise_memory is 1.5"),
        (lambda w: Settings(source_cfg=-2.0), "source_cfg is -2.0"),
        (lambda w: Settings(stop_after=-1), "stop_after is -1"),
        (
            lambda w: run(w, (Weighted(VELOCITY), Weighted(FLOWEDIT)), Settings(1)),
            "have different eta",
        ),
        (lambda w: run(w, VELOCITY, Settings(1, t_min=0.0, t_max=0.0)), "there is no noise"),
    ],
)
def test_mistakes_are_told(work, sentence):
    make, prompts, shape, dtype = WORLDS["gaussian"]
    with pytest.raises(ValueError, match=sentence):
        work((make(), prompts, torch.zeros(shape, dtype=dtype)))
