"""The tiny cascade's keyframe stage edits for real: towards the truth, and only where it may."""

import pytest
import torch
from einops import rearrange
from rescore.pipelines.cascade.interpolation import interpolate
from rescore.pipelines.cascade.super_resolution import (
    Enlarging,
    big_first_frame,
    enlarge_after,
    upsampled,
)
from rescore.pipelines.distillation.delta_denoising import DeltaDenoising
from rescore.pipelines.distillation.score_distillation import Settings, distil
from rescore.pipelines.distillation.self_similarity import (
    SpatialSelfSimilarity,
    TemporalSelfSimilarity,
)
from rescore.pipelines.distillation.terms import Weighted
from rescore.pipelines.models.denoiser import Prompts
from rescore.shapeworld.cascade import (
    BETWEEN,
    FRAMES,
    KEYFRAMES,
    SMALL,
    build_unet,
    load_stage,
    shrunk,
)
from rescore.shapeworld.edits import edited, prompts, suite
from rescore.shapeworld.models import WEIGHTS, load_shapeworld
from rescore.shapeworld.render import render
from rescore.shapeworld.scene import caption as scene_caption
from rescore.shapeworld.tokenizer import load_tokenizer
from rescore.shapeworld.train.captions import Captions
from rescore.shapeworld.train.cascade import rendered, say_what_is_told
from rescore.shapeworld.train.data import Source, demanding_scene
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
    embeddings = Prompts(*(model.encode_prompt(text).embedding for text in texts))
    settings = Settings(steps=30, step_size=0.4, cfg=5.0, seed=1)
    z = distil(source, TERMS[terms], model.denoiser, embeddings, settings, mask=mask).z
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


def test_a_file_of_other_clips_is_refused(tmp_path, model):
    source = Source(demanding_scene, {3: 2}, first_seed=1_000_003)
    captions = Captions(load_tokenizer(WEIGHTS / "shapeworld-sd" / "tokenizer"), model.text_encoder)
    kept = rendered(source, captions, tmp_path / "clips", small=True)
    assert kept.clips.shape == (2, 3, 3, SMALL, SMALL)
    for other, wanted in ((source.of(5), "5 of 3"), (Source(demanding_scene, {7: 2}), "2 of 7")):
        with pytest.raises(ValueError, match=f"2 clips of 3 frames, but {wanted} are asked for"):
            rendered(other, captions, tmp_path / "clips", small=True)


@pytest.mark.parametrize("stage", ["interpolation", "image-sr", "video-sr"])
def test_a_fresh_stage_says_what_it_is_told(stage):
    """Under much noise v is -z_0, so this is the plain answer: blended or enlarged linearly."""
    torch.manual_seed(3)
    unet = build_unet(stage)
    say_what_is_told(unet)
    sizes = (2, unet.config.in_channels, 5, 14, 22)
    told = torch.rand(sizes if stage != "image-sr" else (*sizes[:2], *sizes[3:])) * 2 - 1
    labels = torch.full((2,), 100) if stage.endswith("sr") else None
    said = unet(told, torch.tensor([999, 700]), torch.randn(2, 7, 64), class_labels=labels)
    v = getattr(said, "sample", said)[:, :3]
    torch.testing.assert_close(-v, told[:, 3:6], rtol=0, atol=0.03)


@pytest.mark.parametrize(
    ("stage", "steps", "least"), [("interpolation", 2, 28), ("video-sr", 1, 17)]
)
def test_a_stage_draws_what_the_clip_shows(stage, steps, least, model):
    """PSNR to the truth, of a clip that no training has seen, in dB."""
    (scene,) = prompts(1, frames=FRAMES)
    truth = rearrange(render(scene).clip, "f h w c -> 1 c f h w") * 2 - 1
    small, made = shrunk(truth), load_stage(stage)
    texts = [model.encode_prompt(text).embedding for text in (scene_caption(scene), "")]
    generator = torch.Generator().manual_seed(0)
    if stage == "interpolation":
        drawn = interpolate(small[:, :, ::4], made, *texts, steps=steps, cfg=1, generator=generator)
        truth = small
    else:
        truth = truth[:, :, :8]
        drawn = enlarge_after(
            small[:, :, :8], truth[:, :, :1], made, *texts, how=Enlarging(steps, 1, 0),
            generator=generator,
        )  # fmt: skip
    assert -10 * torch.log10(mse_loss(drawn, truth) / 4) > least


def test_the_first_frame_is_enlarged_as_well_as_linearly(model):
    (scene,) = prompts(1, frames=FRAMES)
    truth = rearrange(render(scene).clip[:1], "f h w c -> 1 c f h w") * 2 - 1
    texts = [model.encode_prompt(text).embedding for text in (scene_caption(scene), "")]
    drawn = big_first_frame(
        shrunk(truth), load_stage("image-sr"), *texts, factor=4, how=Enlarging(1, 1, 0),
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    linear = upsampled(shrunk(truth), 64, 64)
    assert mse_loss(drawn, truth) < 1.1 * mse_loss(linear, truth)
