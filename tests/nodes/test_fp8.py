"""Weights in 8 bits: about half the memory, nearly the same edit, gradients too."""

import pytest
import torch
from rescore.pipelines.models.codec import encode_video
from rescore.pipelines.models.process import noised
from rescore.pipelines.models.storage import store_in_fp8
from rescore.pipelines.models.unet.load import load_text_to_video
from rescore.shapeworld.edits import edited
from rescore.shapeworld.finished import WEIGHTS
from rescore.shapeworld.showcase import SHOWCASE
from torch import nn
from torch.nn import functional

TEXTS = {
    "source_prompt": "a red circle moving right on a plain background",
    "target_prompt": "a blue circle moving right on a plain background",
}


def stored(model) -> int:
    """Bytes of the network's weights."""
    network = model.modules()["network"]
    return sum(p.numel() * p.element_size() for p in network.parameters())


def test_a_trained_model_edits_alike_in_half_the_memory():
    """The predictions for both prompts, and their difference, which is the edit."""
    said, sizes = {}, {}
    clip = edited(SHOWCASE["red_circle"])
    for precision in ("bf16", "fp8"):
        model = load_text_to_video(WEIGHTS / "shapeworld-t2v", dtype=torch.bfloat16)
        if precision == "fp8":
            store_in_fp8(model.network)
        pixels = clip.source.clip.permute(3, 0, 1, 2)[None]
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            z = model.latents_in(encode_video(pixels, model.encode_frames, model.vae_factor))
            level = model.process.at(0.5)
            z_t = noised(z, torch.randn(z.shape, generator=generator), level)
            source, target = (
                model.denoiser(z_t, level, model.encode_prompt(text).embedding).eps
                for text in (clip.source_prompt, clip.target_prompt)
            )
        said[precision], sizes[precision] = (source, target - source), stored(model)
    assert sizes["fp8"] < 0.6 * sizes["bf16"]
    for (exact, rough), least in zip(zip(*said.values(), strict=True), (0.99, 0.9), strict=True):
        alike = functional.cosine_similarity(exact.flatten(), rough.flatten(), dim=0)
        assert least < float(alike) < 1


def test_a_stored_weight_is_within_a_sixteenth():
    """e4m3 has 3 bits of mantissa; channels of other sizes do not spoil each other."""
    layer = nn.Linear(7, 5, dtype=torch.bfloat16).requires_grad_(False)
    weight = torch.randn(5, 7) * torch.tensor([1e-4, 1e-2, 1, 30, 0])[:, None]
    layer.weight.copy_(weight)
    before = layer.weight.clone()
    network = nn.Sequential(layer)
    store_in_fp8(network)
    assert layer.parametrizations.weight.original.dtype == torch.float8_e4m3fn
    apart = (layer.weight.float() - before.float()).abs()
    largest = before.float().abs().amax(dim=1, keepdim=True)
    assert bool((apart <= before.float().abs() / 14 + largest / 448 / 256).all())
    assert layer.weight.dtype == torch.bfloat16 and not layer.weight[4].any()


@pytest.mark.parametrize("folder", ["t2v", "wan"])
def test_terms_that_read_attention_have_their_gradient(run, clip, folder):
    model = run("ReScoreLoadVideoModel", folder=folder, precision="fp8")[0]
    pair = run("ReScoreEncodePromptPair", model=model, **TEXTS)[0]
    latent = run("ReScoreVideoVAEEncode", model=model, images=clip(5, 16, 16))[0]
    terms = run("ReScoreDeltaDenoising")[0]
    terms = run("ReScoreSpatialSelfSimilarity", terms=terms)[0]
    for checkpointing in (True, False):
        edited, _, losses = run(
            "ReScoreScoreDistillation", model=model, prompts=pair, latent=latent, terms=terms,
            steps=2, checkpointing=checkpointing,
        )  # fmt: skip
        assert bool(torch.isfinite(edited["samples"]).all()) and losses["loss"][1] > 0


def test_a_model_in_8_bits_has_a_name_of_its_own(run):
    names = {
        run("ReScoreLoadVideoModel", folder="t2v", precision=precision)[0].fingerprint
        for precision in ("bf16", "fp8")
    }
    assert len(names) == 2


def test_an_image_model_in_8_bits_edits_and_takes_a_motion_module(run, clip):
    """The motion model has the same 8 bits, and predicts what it does of whole weights, nearly."""
    predicted, sizes = {}, {}
    for precision in ("bf16", "fp8"):
        image = run("ReScoreLoadImageModel", model="sd", precision=precision)[0]
        model = run("ReScoreLoadAnimateDiffModel", image_model=image, motion_module="motion")[0]
        level = model.process.at(0.5)
        z = torch.randn(1, 4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
        text = model.encode_prompt(TEXTS["source_prompt"]).embedding
        with torch.no_grad():
            predicted[precision] = model.denoiser(z, level, text).eps
        sizes[precision] = stored(model)
        if precision == "fp8":
            pair = run("ReScoreEncodePromptPair", model=image, **TEXTS)[0]
            latent = run("ReScoreVideoVAEEncode", model=image, images=clip(3, 16, 16))[0]
            made, _, _ = run(
                "ReScoreScoreDistillation", model=image, prompts=pair, latent=latent,
                terms=run("ReScoreDeltaDenoising")[0], steps=2,
            )  # fmt: skip
            assert not torch.equal(made["samples"], latent["samples"])
    assert sizes["fp8"] < 0.75 * sizes["bf16"]
    alike = functional.cosine_similarity(
        predicted["bf16"].flatten(), predicted["fp8"].flatten(), dim=0
    )
    assert 0.99 < float(alike) < 1


def test_a_model_in_8_bits_is_not_inflated(run):
    image = run("ReScoreLoadImageModel", model="sd", precision="fp8")[0]
    with pytest.raises(ValueError, match="stored in 8 bits, which cannot be tuned"):
        run("ReScoreInflateImageModel", model=image)
