"""A weight of a term means the same at every size and length of a clip."""

from copy import deepcopy

import pytest
import torch
from rescore.pipelines.distillation.consistency import GlobalConsistency
from rescore.pipelines.distillation.prediction import predict
from rescore.pipelines.distillation.self_similarity import (
    SpatialSelfSimilarity,
    TemporalSelfSimilarity,
)
from rescore.pipelines.distillation.terms import Draw, Needs, Predictions
from rescore.pipelines.models.process import Level, noised
from small_runs import LEVEL, backbone_of, prompts
from tiny_unets import unet

TERMS = (SpatialSelfSimilarity(), TemporalSelfSimilarity(), GlobalConsistency())


def rms(x: torch.Tensor) -> float:
    return x.square().mean().sqrt().item()


@pytest.mark.parametrize("term", TERMS, ids=lambda term: term.name)
def test_a_clip_shown_many_times_is_moved_as_it_is_once(term):
    """2 x 2 x 3 times as many latents: each key's gradient is what it is in the clip itself.

    Without a model between, so it holds to rounding, for layers of every resolution.
    """
    frames, height, width = 5, 6, 14
    sizes = {"fine": height * width, "coarse": height * width // 4}
    generator = torch.Generator().manual_seed(0)

    def drawn() -> dict[str, torch.Tensor]:
        return {
            name: torch.randn(1, frames, places, 11, generator=generator, dtype=torch.float64)
            for name, places in sizes.items()
        }

    target, source = drawn(), drawn()
    draw = Draw(Level(0.0, 1.0, 0.0), *3 * (torch.zeros(1, 4, 1, 1, 1),))  # not looked at
    z = torch.zeros(1, 4, frames, height, width)
    once = term(draw, Predictions(None, None, target, source), z, z).on_keys
    many = [{n: k.repeat(1, 2, 6, 1) for n, k in keys.items()} for keys in (target, source)]
    z = torch.zeros(1, 4, 2 * frames, 2 * height, 3 * width)
    again = term(draw, Predictions(None, None, *many), z, z).on_keys
    for name in sizes:
        torch.testing.assert_close(
            again[name], once[name].repeat(1, 2, 6, 1), rtol=1e-5, atol=1e-12
        )
        assert once[name].abs().max() > 1e-4


@pytest.mark.parametrize(("borders", "room"), [("zeros", 0.2), ("circular", 1e-4)])
def test_beside_delta_denoising_a_term_counts_alike_at_every_size(borders, room):
    """Through a model: the size of each gradient relative to that of delta denoising.

    The larger clip is the smaller one four times on each picture, each picture twice: frame by
    frame the model sees the same but for what lies at borders, and without borders just the same.
    """
    images = deepcopy(unet("image"))
    for module in images.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.padding_mode = borders
    model = backbone_of("image", images).denoiser
    sites = model.layers.find("decoder", "spatial")
    generator = torch.Generator().manual_seed(0)
    source, change, noise = torch.randn(3, 1, 4, 3, 16, 24, generator=generator)
    # Something that changes a frame as a whole, too, for what compares frames.
    change += torch.randn(1, 4, 3, 1, 1, generator=generator)

    def relative(z_source, z, eps) -> list[float]:
        draw = Draw(LEVEL, eps, noised(z, eps, LEVEL), noised(z_source, eps, LEVEL))
        seen = predict(Needs(True, True), draw, model, prompts(), 9.0, keys=sites)
        said = seen.predictions
        dds = rms(said.target.eps - said.source.eps)
        return [rms(seen.pull_back(term(draw, said, z, z_source).on_keys)) / dds for term in TERMS]

    clips = source, source + 0.3 * change, noise
    larger = (z.repeat_interleave(2, dim=2).repeat(1, 1, 1, 2, 2) for z in clips)
    for term, one, other in zip(TERMS, relative(*clips), relative(*larger), strict=True):
        assert other == pytest.approx(one, rel=room), term.name
