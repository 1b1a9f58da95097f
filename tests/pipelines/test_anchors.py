"""Windows on a model whose first latent frame is unlike the others: each begins with the clip's."""

from dataclasses import replace

import pytest
import torch
from flow_worlds import FLOW, GAUSSIAN
from gaussian_world import gaussian_model
from rescore.attention.dit.processor import WanLayers
from rescore.attention.mutual import SourceBackground, SourceLayout
from rescore.pipelines.distillation.delta_denoising import DeltaDenoising
from rescore.pipelines.distillation.prediction import Seen, without_first
from rescore.pipelines.distillation.score_distillation import Settings, distil
from rescore.pipelines.distillation.self_similarity import SpatialSelfSimilarity
from rescore.pipelines.distillation.terms import Predictions, Weighted
from rescore.pipelines.models.denoiser import Denoiser, Prompts
from rescore.pipelines.models.grid import ClipGrid
from rescore.pipelines.models.process import Level, Prediction
from rescore.pipelines.windows import Windows, called_for, windowed
from tiny_wan import CHANNELS, TEXT_WIDTH, tiny_transformer

LEVEL = Level(5, 0.6, 0.8)
SETTINGS = Settings(2, 0.5, 3.0, t_min=0.1)
DDS = (Weighted(DeltaDenoising()),)


def first_is_special() -> Denoiser:
    """The Gaussian world, in which whatever frame comes first is taken for a picture alone."""
    exact = gaussian_model(FLOW, "flow")

    def output(z, t, cond):
        said = exact.output(z, t, cond)
        return torch.cat([3 * said[:, :, :1], said[:, :, 1:]], dim=2)

    return Denoiser("causal", FLOW, "flow", output)


def clip(frames: int = 11):
    generator = torch.Generator().manual_seed(3)
    return torch.randn(1, 2, frames, 3, 5, generator=generator, dtype=torch.float64)


def test_anchored_windows_are_the_whole_clip_to_such_a_model():
    z = clip()
    whole = distil(z, DDS, first_is_special(), GAUSSIAN, SETTINGS).z
    for length, overlap in ((5, 2), (4, 0), (7, 6)):
        windows = Windows(length, overlap, anchored=True)
        found = distil(z, DDS, first_is_special(), GAUSSIAN, SETTINGS, windows=windows).z
        torch.testing.assert_close(found, whole, rtol=0, atol=1e-12)
    plain = distil(z, DDS, first_is_special(), GAUSSIAN, SETTINGS, windows=Windows(5, 2)).z
    assert not torch.allclose(plain, whole, atol=1e-2)


def test_sampling_in_anchored_windows_is_that_of_the_whole_clip():
    z, model = clip(), first_is_special()
    whole = model(z, LEVEL, GAUSSIAN.target)
    found = windowed(model, Windows(4, 1, anchored=True))(z, LEVEL, GAUSSIAN.target)
    for one, other in zip(found, whole, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


def test_the_first_window_and_a_short_clip_have_no_anchor():
    windows = Windows(5, 2, anchored=True)
    assert called_for(windows, slice(0, 5)) == slice(0, 5)
    assert called_for(windows, slice(6, 9)) == [0, 6, 7, 8]
    assert called_for(Windows(5, 2), slice(6, 9)) == slice(6, 9)


def test_what_the_model_says_of_an_anchor_is_dropped():
    """Keys and their gradients by hand: the anchor's keys are no term's, and it is not moved."""
    parts = [torch.randn(1, 2, 4, 3, 5) for _ in range(4)]
    keys = {"a": torch.randn(1, 4, 7, 3)}

    def pull_back(on_keys):
        assert on_keys["a"].shape == (1, 4, 7, 3) and not on_keys["a"][:, 0].any()
        return on_keys["a"].sum() + torch.arange(4.0).view(1, 1, 4, 1, 1).expand(1, 2, 4, 3, 5)

    pair = Prediction(*parts[:2]), Prediction(*parts[2:])
    seen = without_first(Seen(Predictions(*pair, keys, keys), pull_back))
    assert torch.equal(seen.predictions.source.eps, parts[3][:, :, 1:])
    assert torch.equal(seen.predictions.keys_target["a"], keys["a"][:, 1:])
    gradient = seen.pull_back({"a": torch.ones(1, 3, 7, 3)})
    assert torch.equal(gradient[0, 0, :, 0, 0], 63 + torch.arange(1.0, 4.0))


def tiny_wan() -> Denoiser:
    transformer = tiny_transformer(seed=1)

    def output(z, t, cond):
        return transformer(z, torch.full((len(z),), t), cond, return_dict=False)[0]

    return Denoiser("tiny", FLOW, "flow", output, layers=WanLayers(transformer))


def wan_clip(frames: int):
    generator = torch.Generator().manual_seed(2)
    prompts = Prompts(*(torch.randn(1, 3, TEXT_WIDTH, generator=generator) for _ in range(3)))
    return torch.randn(1, CHANNELS, frames, 4, 6, generator=generator), prompts


def test_keys_and_controls_go_through_anchored_windows_of_a_wan():
    z, prompts = wan_clip(5)
    terms = (*DDS, Weighted(SpatialSelfSimilarity("blocks.0.*")))
    mask = torch.zeros(5, 4, 6)
    mask[:, :2] = 1
    controls = (SourceLayout(1.0), SourceBackground(0.0, mask, "blocks.1.*"))
    made = [
        distil(
            z, terms, tiny_wan(), prompts, replace(SETTINGS, steps=1), controls=controls,
            windows=Windows(3, 1, anchored), grid=ClipGrid.of(z),
        ).z
        for anchored in (False, True)
    ]  # fmt: skip
    # The first window has no anchor, and frames 0 and 1 are in no other.
    assert torch.equal(made[0][:, :, :2], made[1][:, :, :2])
    assert not torch.allclose(made[0][:, :, 3:], made[1][:, :, 3:], atol=1e-4)
    assert all(bool(torch.isfinite(each).all()) for each in made)


@pytest.mark.parametrize(("most", "acts"), [(6, True), (5, True), (0, False)])
def test_sa_i_acts_on_a_transformer_at_any_size_unless_it_may_on_none(most, acts):
    """4 x 6 latents are 2 x 3 tokens a frame, and in a clip of three frames 18 in one attention."""
    z, prompts = wan_clip(3)
    plain = distil(z, DDS, tiny_wan(), prompts, SETTINGS).z
    held = distil(z, DDS, tiny_wan(), prompts, SETTINGS, controls=(SourceLayout(1.0, most),)).z
    assert torch.allclose(held, plain, atol=1e-5) != acts
