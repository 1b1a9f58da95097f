"""Crop to Region and Paste Region, as the host runs them."""

import pytest
import torch
from rescore.benchmarks.memory import Storages

FRAMES, HEIGHT, WIDTH = 3, 59, 83


@pytest.fixture
def edit(run, load):
    """`edit(images, mask)`: the clip after a step, decoded."""
    model = load("text-to-video")
    prompts, _ = run(
        "ReScoreEncodePromptPair", model=model, source_prompt="a dog", target_prompt="a cat"
    )

    def edit(images, mask):
        latent = run("ReScoreVideoVAEEncode", model=model, images=images)[0]
        latent = run(
            "ReScoreScoreDistillation", model=model, prompts=prompts, latent=latent, mask=mask,
            terms=run("ReScoreDeltaDenoising")[0], steps=1,
        )[0]  # fmt: skip
        return run("ReScoreVideoVAEDecode", model=model, latent=latent)[0]

    return edit


def test_only_the_region_is_edited(run, edit, clip):
    """A real edit of a small part of a clip whose sides no model takes."""
    source, mask = clip(FRAMES, HEIGHT, WIDTH), torch.zeros(1, HEIGHT, WIDTH)
    mask[:, 17:30, 40:61] = 1
    images, small, region = run(
        "ReScoreCropToRegion", images=source, mask=mask, width=48, height=32
    )
    assert images.shape == (FRAMES, 32, 48, 3) and small.shape == (FRAMES, 32, 48)
    (whole,) = run("ReScorePasteRegion", images=edit(images, small), source=source, region=region)
    changed = (whole != source).any(dim=-1)
    assert whole.shape == source.shape and bool(changed.any())
    assert not bool(changed[:, mask[0] == 0].any())


def test_a_small_region_takes_a_tenth_of_the_memory(run, edit, clip):
    """Cut out, edited and put back, beside the edit of the whole clip under the same mask."""
    source, mask = clip(FRAMES, 152, 200), torch.zeros(1, 152, 200)
    mask[:, 50:70, 110:141] = 1

    def of_the_region():
        images, small, region = run(
            "ReScoreCropToRegion", images=source, mask=mask, width=40, height=32
        )
        run("ReScorePasteRegion", images=edit(images, small), source=source, region=region)

    of_the_region()  # loads what is loaded once
    peaks = []
    for work in (of_the_region, lambda: edit(source, mask)):
        with Storages() as seen:
            work()
        peaks.append(seen.peak)
    assert peaks[0] < peaks[1] / 10
