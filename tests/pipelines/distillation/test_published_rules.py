"""Published methods are settings of one loop: each is held against its own rule.

The rules are written as their authors do, with the velocities of a flow model, v = eps - z_0, in a
world where these are known in closed form and with a tiny Wan.
"""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from flow_worlds import FLOW, GAUSSIAN, WORLDS, by_hand, make_world, run, velocity
from gaussian_world import gaussian_model
from rescore.pipelines.distillation.adaptive_sliding import AdaptiveSliding
from rescore.pipelines.distillation.delta_denoising import DeltaDenoising
from rescore.pipelines.distillation.direction import DirectionCorrection, corrected
from rescore.pipelines.distillation.draws import draw_of, shares_of_draws
from rescore.pipelines.distillation.score_distillation import Settings, distil
from rescore.pipelines.distillation.source_pull import SourcePull
from rescore.pipelines.distillation.terms import Predictions, Weighted
from rescore.pipelines.flow.fields import Flow
from rescore.pipelines.flow.smoothing import FlowSmoothing
from rescore.pipelines.models.process import Prediction, VariancePreserving, noised

VELOCITY = DeltaDenoising(weighting="velocity")
FLOWEDIT = replace(VELOCITY, eta=1.0)


@pytest.fixture(params=list(WORLDS))
def world(request):
    return make_world(request.param)


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


def dfvedit(cfg, source_cfg):
    """DFVEdit's code: d sigma (v_e - v_s), both clips noised alike and neither moved."""

    def rule(model, prompts, z, z_0, noise, level, dt, share):
        t = level.noise
        x_s, x_e = ((1 - t) * clip + t * noise for clip in (z_0, z))
        v_e = velocity(model, x_e, level, prompts.target, prompts.negative, cfg)
        v_s = velocity(model, x_s, level, prompts.source, prompts.negative, source_cfg)
        return z - dt * (v_e - v_s)

    return rule


def flowalign(w, zeta=0.0):
    """FlowAlign: v_e = v(x_e, source) + w [v(x_e, target) - v(x_e, source)], v_s unguided.

    Beside FlowEdit's step, zeta of the way from one predicted clip to the other, D = x - t v.
    """

    def rule(model, prompts, z, z_0, noise, level, dt, share):
        t = level.noise
        x_s = (1 - t) * z_0 + t * noise
        x_e = z + x_s - z_0
        v_e = velocity(model, x_e, level, prompts.target, prompts.source, w)
        v_s = velocity(model, x_s, level, prompts.source, prompts.source, 1.0)
        return z - dt * (v_e - v_s) + zeta * ((x_s - t * v_s) - (x_e - t * v_e))

    return rule


DESCENDING = Settings(5, 1.0, 5.0, t_min=0.0, t_max=1.0, order="descending")
RULES = {
    "FlowEdit": (FLOWEDIT, replace(DESCENDING, cfg=5.5, source_cfg=1.5), flowedit(5.5, 1.5)),
    "FlowEdit from two thirds": (
        FLOWEDIT,
        replace(DESCENDING, cfg=13.5, source_cfg=3.5, t_max=0.66),
        flowedit(13.5, 3.5),
    ),
    "DFVEdit": (
        replace(VELOCITY, weighting="bare velocity"),
        replace(DESCENDING, cfg=15.0, source_cfg=5.0),
        dfvedit(15.0, 5.0),
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
    "FlowAlign without its pull": (
        FLOWEDIT,
        replace(DESCENDING, cfg=13.5, guidance="source as negative"),
        flowalign(13.5),
    ),
    "FlowAlign": (
        (Weighted(FLOWEDIT), Weighted(SourcePull(), 0.3)),
        replace(DESCENDING, cfg=13.5, guidance="source as negative"),
        flowalign(13.5, zeta=0.3),
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


def flowdirector(cfg, source_cfg, enlarged):
    """FlowDirector: FlowEdit, but of v_e - v_s what lies along v_s is dropped or enlarged."""

    def rule(model, prompts, z, z_0, noise, level, dt, share):
        t = level.noise
        x_s = (1 - t) * z_0 + t * noise
        x_e = z + x_s - z_0
        v_e = velocity(model, x_e, level, prompts.target, prompts.negative, cfg)
        v_s = velocity(model, x_s, level, prompts.source, prompts.negative, source_cfg)
        moved = z.clone()
        for place in itertools.product(*map(range, z.shape[2:])):
            here = (0, slice(None), *place)
            way = v_s[here] / v_s[here].norm()
            along = (v_e[here] - v_s[here]) @ way
            across = v_e[here] - v_s[here] - along * way
            kept = 0.0 if along > 0 else enlarged * float(along)
            moved[here] -= dt * (across + kept * way)
        return moved

    return rule


def test_the_correction_of_directions_is_flowdirectors(world):
    settings = replace(DESCENDING, steps=3, cfg=4.0, source_cfg=2.0)
    term = (Weighted(FLOWEDIT, corrections=(DirectionCorrection(1.25),)),)
    moved = by_hand(world, 3, flowdirector(4.0, 2.0, 1.25)) - world[2]
    found = run(world, term, settings).z - world[2]
    scale = float(moved.abs().max())
    assert scale > 1e-3
    torch.testing.assert_close(found, moved, rtol=0, atol=2e-5 * max(scale, 1.0))
    plain = run(world, FLOWEDIT, settings).z - world[2]
    assert not torch.allclose(found, plain, atol=0.01 * scale)


def test_a_correction_by_hand():
    """Two channels, three places: the same way, back, and a source that stands still."""
    gradient = torch.tensor([[3.0, -3.0, 2.0], [4.0, 4.0, 5.0]]).view(1, 2, 1, 1, 3)
    velocity = torch.tensor([[2.0, 2.0, 0.0], [0.0, 0.0, 0.0]]).view(1, 2, 1, 1, 3)
    expected = torch.tensor([[0.0, -6.0, 2.0], [4.0, 4.0, 5.0]]).view(1, 2, 1, 1, 3)
    torch.testing.assert_close(corrected(gradient, velocity, 2.0), expected)
    assert torch.equal(corrected(gradient[..., 1:], velocity[..., 1:], 1.0), gradient[..., 1:])


def test_pull_and_correction_go_with_masks_smoothing_windows_and_assd(world):
    """Where a mask is black nothing moves, whatever hangs on the wire; elsewhere all of it acts."""
    z_0 = world[2]
    mask = torch.ones(1, *z_0.shape[3:])
    mask[..., :2] = 0
    flow = Flow(
        *(torch.zeros(z_0.shape[2] - 1, 2, *z_0.shape[3:]) for _ in range(2)),
        *(torch.ones(z_0.shape[2] - 1, *z_0.shape[3:], dtype=torch.bool) for _ in range(2)),
    )
    shaped = {"masks": (mask,), "refinements": (FlowSmoothing(flow, 0.5),)}
    settings = replace(DESCENDING, steps=2)
    seen = []
    for term in (FLOWEDIT, AdaptiveSliding((0.1, 0.8, 0.1))):
        for corrections in ((), (DirectionCorrection(),)):
            for pull in (0.0, 0.2):
                terms = (
                    Weighted(term, corrections=corrections, **shaped),
                    Weighted(SourcePull(), pull, **shaped),
                )
                z = run(world, terms, settings).z
                assert torch.equal(z[..., :2], z_0[..., :2])
                assert all(not torch.allclose(z, other, atol=1e-4) for other in seen)
                seen.append(z)


def test_a_step_that_goes_nowhere_does_not_pull():
    z_0 = make_world("gaussian")[2]
    draw = draw_of(z_0 + 1, z_0, FLOW.at(0.5), torch.zeros_like(z_0), step=0.0)
    said = Predictions(*(Prediction(z, z) for z in (z_0 + 1, z_0)))
    result = SourcePull()(draw, said, z_0 + 1, z_0)
    assert torch.equal(result.gradient, torch.zeros_like(z_0)) and result.value == 1


EVERY = [
    {"order": order, "guidance": guidance, "noise_memory": memory, "draws": draws, "draw_count": 2}
    for order in ("random", "descending")
    for guidance in ("usual", "source as negative")
    for memory, draws in ((0.0, "one"), (0.7, "weighted"), (0.0, "best against worst"))
]


@pytest.mark.parametrize(
    ("weighting", "eta"), [("eps", 0.0), ("velocity", 1.0), ("x0", 0.5), ("bare velocity", 0.0)]
)
def test_equal_prompts_move_nothing(world, weighting, eta):
    """Exactly, for every combination of settings with equal guidance of both clips."""
    model, prompts, z_0 = world
    same = prompts._replace(target=prompts.source)
    moves = Weighted(
        DeltaDenoising(weighting=weighting, eta=eta), corrections=(DirectionCorrection(),)
    )
    term = (moves, Weighted(SourcePull(), 0.3))
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
        (lambda w: DirectionCorrection(-1.0), "enlarged is -1.0"),
        (lambda w: Settings(order="descending", t_min=0.5, t_max=0.5), "Set t_min lower"),
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
