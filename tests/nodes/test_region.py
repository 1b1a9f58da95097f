"""Crop to Region and Paste Region, as the host runs them."""

import torch

FRAMES, HEIGHT, WIDTH = 3, 59, 83


def test_only_the_region_is_edited(run, load, clip):
    """A real edit of a small part of a clip whose sides no model takes."""
    model, source = load("text-to-video"), clip(FRAMES, HEIGHT, WIDTH)
    mask = torch.zeros(1, HEIGHT, WIDTH)
    mask[:, 17:30, 40:61] = 1
    images, small, region = run(
        "ReScoreCropToRegion", images=source, mask=mask, width=48, height=32
    )
    assert images.shape == (FRAMES, 32, 48, 3) and small.shape == (FRAMES, 32, 48)
    prompts, _ = run(
        "ReScoreEncodePromptPair", model=model, source_prompt="a dog", target_prompt="a cat"
    )
    latent = run("ReScoreVideoVAEEncode", model=model, images=images)[0]
    terms = run("ReScoreDeltaDenoising")[0]
    latent = run(
        "ReScoreScoreDistillation", model=model, prompts=prompts, terms=terms, latent=latent,
        steps=1, mask=small,
    )[0]  # fmt: skip
    edited = run("ReScoreVideoVAEDecode", model=model, latent=latent)[0]
    (whole,) = run("ReScorePasteRegion", images=edited, source=source, region=region)
    changed = (whole != source).any(dim=-1)
    assert whole.shape == source.shape and bool(changed.any())
    assert not bool(changed[:, mask[0] == 0].any())
