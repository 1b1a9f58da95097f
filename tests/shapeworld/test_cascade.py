"""The tiny cascade for real: edits come nearer to the truth, and stages beat plain enlarging."""

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
from rescore.shapeworld.finished import WEIGHTS
from rescore.shapeworld.models import load_shapeworld
from rescore.shapeworld.render import render
from rescore.shapeworld.scene import caption as scene_caption
from rescore.shapeworld.tokenizer import load_tokenizer
from rescore.shapeworld.train.captions import Captions
from rescore.shapeworld.train.cascade import (
    Told,
    gain_loss,
    recipe,
    rendered,
    say_what_is_told,
)
from rescore.shapeworld.train.data import Source, demanding_scene
from torch.nn.functional import interpolate as interpolated
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


def test_a_box_as_the_papers_mask_repaints_the_object_and_nothing_outside_it(model):
    """A box is wider than the object: what it holds of the background may change, no more."""
    (edit,) = suite("colour", 1)
    clips = edited(edit)
    source, truth = (
        shrunk(rearrange(side.clip, "f h w c -> 1 c f h w")) * 2 - 1
        for side in (clips.source, clips.target)
    )
    box = torch.zeros(clips.paint.shape)
    for frame, painted in zip(box, clips.paint, strict=True):
        rows, columns = (torch.cat([at.min()[None], at.max()[None]]) for at in painted.nonzero().T)
        frame[rows[0] : rows[1] + 1, columns[0] : columns[1] + 1] = 1
    texts = (clips.source_prompt, clips.target_prompt, "")
    embeddings = Prompts(*(model.encode_prompt(text).embedding for text in texts))
    settings = Settings(steps=30, step_size=0.1, cfg=5.0, seed=1)
    terms = [Weighted(DeltaDenoising(), masks=(box,))]
    z = distil(source, terms, model.denoiser, embeddings, settings).z
    covered = torch.nn.functional.avg_pool2d(box[:, None], 4)[:, 0].expand_as(source)
    assert torch.equal(z[covered == 0], source[covered == 0])
    inside = covered > 0.5
    assert mse_loss(z[inside], truth[inside]) < 0.5 * mse_loss(source[inside], truth[inside])


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
    """So it begins with the plain answer: frames blended or enlarged linearly."""
    torch.manual_seed(3)
    unet = build_unet(stage)
    say_what_is_told(unet)
    sizes = (2, unet.config.in_channels, 5, 14, 22)
    told = torch.rand(sizes if stage != "image-sr" else (*sizes[:2], *sizes[3:])) * 2 - 1
    labels = torch.full((2,), 100) if stage.endswith("sr") else None
    said = unet(told, torch.tensor([999, 70]), torch.randn(2, 7, 64), class_labels=labels)
    frames = getattr(said, "sample", said)[:, :3]
    torch.testing.assert_close(frames, told[:, 3:6], rtol=0, atol=0.03)


@pytest.mark.parametrize(("share", "gain"), [(0.5, 0.25), (1.0, 1.0), (0.0, 0.0)])
def test_the_loss_of_a_told_stage_is_its_error_against_that_of_the_plain_answer(share, gain):
    """A prediction at a share of the way from the truth to the plain answer."""
    z_0, error = torch.rand(3, 3, 5, 4, 7), torch.rand(3, 3, 5, 4, 7)
    loss = gain_loss(
        lambda z_t, t: z_0 + share * error, z_0, z_0 + error, torch.Generator().manual_seed(1)
    )
    assert loss.exp().item() == pytest.approx(gain, abs=1e-3)


@pytest.mark.parametrize("stage", ["interpolation", "image-sr", "video-sr"])
def test_a_training_begins_at_the_plain_answer(stage):
    clips = torch.rand(3, 3, FRAMES, 64, 64).mul(255).byte()
    told = Told(clips, torch.randn(2, 5, 64), torch.tensor([1, 0, 1]))
    loss = recipe(stage, told).loss(torch.Generator().manual_seed(4))
    assert abs(loss.item()) < 0.05


def psnr(clip, truth):
    return -10 * torch.log10(mse_loss(clip, truth) / 4).item()


@pytest.fixture(scope="module")
def unseen(model):
    """Clips that no training has seen, their keyframes' sizes, and the embeddings of their texts.

    A tiny stage must do better on them than what needs no model.
    """
    found = []
    for scene in prompts(2, frames=FRAMES):
        truth = rearrange(render(scene).clip, "f h w c -> 1 c f h w") * 2 - 1
        texts = [model.encode_prompt(text).embedding for text in (scene_caption(scene), "")]
        found.append((truth, shrunk(truth), texts))
    return found


def test_frames_between_keyframes_are_better_than_blended_where_things_move(unseen):
    gains = []
    for _, small, texts in unseen:
        made = interpolate(
            small[:, :, ::4], load_stage("interpolation"), *texts, steps=3, cfg=1,
            generator=torch.Generator().manual_seed(0),
        )  # fmt: skip
        plain = interpolated(
            small[:, :, ::4], small.shape[2:], mode="trilinear", align_corners=True
        )
        moves = ((plain - small).abs().amax(dim=1, keepdim=True) > 0.05).expand_as(small)
        gains.append(psnr(made[moves], small[moves]) - psnr(plain[moves], small[moves]))
        assert psnr(made, small) > psnr(plain, small) - 0.5
    assert min(gains) > 0


def test_the_first_frame_is_enlarged_better_than_linearly_and_than_bicubically(unseen):
    gains = []
    for truth, small, texts in unseen:
        made = big_first_frame(
            small, load_stage("image-sr"), *texts, factor=4, how=Enlarging(2, 1, 0),
            generator=torch.Generator().manual_seed(0),
        )  # fmt: skip
        bicubic = interpolated(small[:, :, 0], (64, 64), mode="bicubic")[:, :, None]
        linear = upsampled(small[:, :, :1], 64, 64)
        plain = max(psnr(clip, truth[:, :, :1]) for clip in (bicubic, linear))
        gains.append(psnr(made, truth[:, :, :1]) - plain)
    assert min(gains) > 0 and sum(gains) > 2 * len(gains)


def test_a_clip_is_enlarged_better_than_linearly_over_several_windows(unseen):
    for truth, small, texts in unseen:
        frames = slice(0, 15)
        made = enlarge_after(
            small[:, :, frames], truth[:, :, :1], load_stage("video-sr"), *texts,
            how=Enlarging(2, 1, 0), generator=torch.Generator().manual_seed(0),
        )  # fmt: skip
        linear = upsampled(small[:, :, frames], 64, 64)
        assert psnr(made, truth[:, :, frames]) > psnr(linear, truth[:, :, frames]) + 1
