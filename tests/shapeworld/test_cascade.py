"""The tiny cascade's keyframe stage edits for real: towards the truth, and only where it may."""

import pytest
import torch
from einops import rearrange
from rescore.pipelines.distillation.delta_denoising import DeltaDenoising
from rescore.pipelines.distillation.score_distillation import Settings, distil
from rescore.pipelines.distillation.self_similarity import (
    SpatialSelfSimilarity,
    TemporalSelfSimilarity,
)
from rescore.pipelines.distillation.terms import Weighted
from rescore.pipelines.models.denoiser import Prompts
from rescore.shapeworld.cascade import BETWEEN, FRAMES, KEYFRAMES, SMALL, shrunk
from rescore.shapeworld.edits import edited, suite
from rescore.shapeworld.models import load_shapeworld
from torch.nn.functional import mse_loss

DDS = Weighted(DeltaDenoising())
TERMS = {
    "V-DDS": (DDS,),
    "+ S-SSM": (DDS, Weighted(SpatialSelfSimilarity("decoder"), 1.0)),
    "+ T-SSM": (
        DDS,
        Weighted(SpatialSelfSimilarity("decoder"), 1.0),
        Weighted(TemporalSelfSimilarity("decoder"), 100.0),
    ),
}


@pytest.fixture(scope="module")
def model():
    return load_shapeworld("shapeworld-cascade")


@pytest.mark.parametrize("terms", TERMS)
def test_an_edit_of_colour_comes_nearer_to_the_truth_where_the_object_is(model, terms):
    (edit,) = suite("colour", 1)
    clips = edited(edit)
    source, truth = (
        shrunk(rearrange(side.clip, "f h w c -> 1 c f h w")) * 2 - 1
        for side in (clips.source, clips.target)
    )
    assert source.shape == (1, 3, KEYFRAMES, SMALL, SMALL)
    mask = clips.paint.float()
    texts = (clips.source_prompt, clips.target_prompt, "")
    prompts = Prompts(*(model.encode_prompt(text).embedding for text in texts))
    settings = Settings(steps=30, step_size=0.4, cfg=5.0, seed=1)
    z = distil(source, TERMS[terms], model.denoiser, prompts, settings, mask=mask).z
    inside = torch.nn.functional.avg_pool2d(mask[:, None], 4)[None, :, 0][:, None] > 0.5
    inside = inside.expand_as(source)
    before, after = (mse_loss(clip[inside], truth[inside]) for clip in (source, z))
    print(terms, float(before), float(after))
    assert after < 0.5 * before
    outside = torch.nn.functional.avg_pool2d(mask[:, None], 4)[None, :, 0][:, None] == 0
    if terms == "V-DDS":
        assert torch.equal(z[outside.expand_as(z)], source[outside.expand_as(z)])


def test_keyframes_and_frames_between_fill_a_clip():
    assert FRAMES == KEYFRAMES + BETWEEN * (KEYFRAMES - 1) == 29
