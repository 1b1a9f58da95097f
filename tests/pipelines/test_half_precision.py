"""Losses that go back through a float16 model: their gradients are those of float32.

The clips here are small, and a mean over few numbers has large gradients. So errors are made as
small as the gradients are at 16 frames of 64 x 64 latents.
"""

import copy

import pytest
import torch
from einops import rearrange, repeat
from rescore.attention.unet.layers import UNetLayers
from rescore.pipelines.inversion.decoupled_guidance import GuidanceSettings
from rescore.pipelines.inversion.drift import Drift, DriftGuidance
from rescore.pipelines.inversion.null_text import NullTextSettings, optimise_null_text
from rescore.pipelines.inversion.trajectory import Trajectory
from rescore.pipelines.models.denoiser import Denoiser, pull_back
from rescore.pipelines.models.process import VariancePreserving
from rescore.pipelines.models.unet.inflation import inflate
from rescore.pipelines.tuning import one_shot_tuning
from rescore.pipelines.tuning.one_shot_tuning import Settings, tune
from tiny_animatediff import TEXT_WIDTH, unet
from tiny_models import SCHEDULE, tiny_unet
from torch.nn.functional import cosine_similarity, mse_loss

PROCESS = VariancePreserving.from_config(SCHEDULE)
FRAMES, HEIGHT, WIDTH, WORDS = 3, 4, 6, 7
REAL_SIZE = 4 * 16 * 64 * 64
SMALLER = REAL_SIZE / (4 * FRAMES * HEIGHT * WIDTH)


def drawn(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


Z = drawn(1, 4, FRAMES, HEIGHT, WIDTH, seed=0)
COND, UNCOND = drawn(2, 1, WORDS, TEXT_WIDTH, seed=1)


def denoiser(dtype: torch.dtype) -> Denoiser:
    """The tiny AnimateDiff with weights that float16 holds, computing in `dtype`."""
    model = copy.deepcopy(unet()).half().to(dtype)

    def output(z, t, cond):
        texts = repeat(cond, "b l d -> b f l d", f=z.shape[2]) if cond.ndim == 3 else cond
        texts = rearrange(texts, "b f l d -> (b f) l d")
        return model(z.to(dtype), round(t), texts.to(dtype)).sample.float()

    return Denoiser("tiny", PROCESS, "epsilon", output, layers=UNetLayers(model))


def cosine(one: torch.Tensor, other: torch.Tensor) -> float:
    return cosine_similarity(one.double().flatten(), other.double().flatten(), dim=0).item()


def both(work) -> float:
    return cosine(*(work(denoiser(dtype)) for dtype in (torch.float32, torch.float16)))


def test_null_text(monkeypatch):
    """The first move of plain gradient descent is the gradient."""
    monkeypatch.setattr(torch.optim, "Adam", lambda given, lr: torch.optim.SGD(given, lr=1.0))
    levels = PROCESS.level(0), PROCESS.level(600)
    error = 0.05 / SMALLER * drawn(*Z.shape, seed=2)

    def gradient(model: Denoiser) -> torch.Tensor:
        def run(target: torch.Tensor, moves: int):
            path = Trajectory(torch.stack([target, Z]), levels)
            settings = NullTextSettings(8.5, moves, early_stop=0.0, early_stop_growth=0.0)
            return optimise_null_text(path, model, COND, UNCOND, settings)

        # The same error for both: beside where each lands.
        lands = run(Z, 0).z
        return run(lands + error, 1).embeddings[0] - UNCOND

    assert both(gradient) > 0.99


@pytest.mark.parametrize("weight", [0.5, 5e-4])
@pytest.mark.parametrize("part", [(1, 1, 0, 0), (0, 0, 1, 1)], ids=["motion", "look"])
def test_decoupled_guidance(part, weight):
    """It is scaled by the number of latent pixels, so it is as small as at any size.

    As at any size it does not underflow by itself, but a small weight would make it. Of a drift of
    0.003 float16 leaves a cosine of 0.92: there the prediction itself is rounded by as much.
    """
    settings = GuidanceSettings(*(weight * one for one in part))
    guidance = DriftGuidance(settings, (drawn(1, 8, 12, seed=3) > 0).float())
    z = Z + 0.1 * drawn(*Z.shape, seed=4)
    level = PROCESS.level(600)
    assert both(lambda model: Drift(guidance, COND, model)(z, Z, level)[1]) > 0.99


@pytest.mark.parametrize("precision", ["fp16", "as loaded"])
def test_one_shot_tuning(monkeypatch, precision):
    """The first move of plain gradient descent is the gradient, here of all trained weights.

    A hundred times smaller than the size of the clip makes it, so that it is lost if not scaled.
    """
    monkeypatch.setattr(torch.optim, "AdamW", lambda given, **_: torch.optim.SGD(given, lr=1.0))
    monkeypatch.setattr(
        one_shot_tuning.functional, "mse_loss", lambda *pair: mse_loss(*pair) / (100 * SMALLER)
    )
    image = tiny_unet("2D").requires_grad_(False).half()

    def gradient(dtype: torch.dtype, precision: str) -> torch.Tensor:
        model = inflate(copy.deepcopy(image).to(dtype), "tune-a-video")
        before = model.tuned_state()
        settings = Settings(1, precision=precision, clip_norm=1e9)
        after = tune(model, Z, COND, PROCESS, settings).weights
        return torch.cat([(after[name] - before[name]).flatten() for name in before])

    half = torch.float32 if precision == "fp16" else torch.float16
    assert cosine(gradient(torch.float32, "as loaded"), gradient(half, precision)) > 0.99


def test_a_power_of_two_rounds_nothing():
    """In float32 the gradient is autograd's own to the last bit, however small."""
    leaf = drawn(3, 5, seed=5).requires_grad_()
    outputs = [leaf.sin(), leaf.exp()]
    gradients = [1e-12 * drawn(3, 5, seed=seed) for seed in (6, 7)]
    found = pull_back(gradients, outputs, leaf, keep=True)
    assert torch.equal(found, torch.autograd.grad(outputs, leaf, gradients)[0])
    assert torch.equal(pull_back([0 * leaf.detach()], [leaf.cos()], leaf), torch.zeros_like(leaf))


@pytest.mark.parametrize("size", [1e-45, 1e-42, 1e-39, 1e-38, 1e37])
def test_no_gradient_is_too_small_or_too_large_to_scale(size):
    leaf = drawn(3, 5, seed=5).requires_grad_()
    given = torch.full((3, 5), size)
    found = pull_back([given], [4 * leaf], leaf)
    torch.testing.assert_close(found / 4, given, rtol=1e-6, atol=0)
