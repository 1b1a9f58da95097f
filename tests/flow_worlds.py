"""Worlds for the rules of flow models: one known in closed form, and a tiny Wan.

A rule is written as its authors do, with the velocities of a flow model, v = eps - z_0.
"""

import torch
from gaussian_world import gaussian_model, prompt
from rescore.pipelines.distillation.score_distillation import distil
from rescore.pipelines.distillation.terms import Weighted
from rescore.pipelines.models.denoiser import Denoiser, Prompts
from rescore.pipelines.models.process import RectifiedFlow
from tiny_wan import CHANNELS, TEXT_WIDTH, tiny_transformer

FLOW = RectifiedFlow(3.0)
GAUSSIAN = Prompts(prompt(0.3), prompt(1.9), prompt(-0.7))


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


def make_world(name):
    """A model, its prompts, and a clip."""
    make, prompts, shape, dtype = WORLDS[name]
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
