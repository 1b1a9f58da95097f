"""Interpolation and super-resolution: what a stage is told, and what becomes of its answer.

A stage here says, in closed form, that the frames are what it was told beside them.
"""

from types import SimpleNamespace

import pytest
import torch
from rescore.pipelines.cascade.interpolation import interpolate, told_between
from rescore.pipelines.cascade.keyframes import cut, picked
from rescore.pipelines.cascade.sampling import sample_stage
from rescore.pipelines.cascade.super_resolution import Enlarging, enlarge, spans, upsampled
from rescore.pipelines.models.cascade.load import load_stage
from rescore.pipelines.models.cascade.stage import Stage
from rescore.pipelines.models.process import VariancePreserving
from tiny_cascade import TEXT_WIDTH, write_stage
from torch import nn

COND, UNCOND = torch.zeros(1, 7, TEXT_WIDTH), torch.ones(1, 7, TEXT_WIDTH)
PROCESS = VariancePreserving.from_config({"beta_schedule": "squaredcos_cap_v2"})


class Told(nn.Module):
    """Predicts v, under which the frames are the first channels it was told."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(1, 1, 1)
        self.config = SimpleNamespace(block_out_channels=(32, 64), encoder_hid_dim=TEXT_WIDTH)
        self.labels, self.told = [], []

    def forward(self, sample, times, cond, labels=None, class_labels=None):
        z_t, z_0 = sample[:, :3], sample[:, 3:6]
        self.labels.append(labels if class_labels is None else class_labels)
        self.told.append(sample[:, 3:])
        level = PROCESS.level(int(times[0]))
        v = (level.signal * z_t - z_0) / level.noise
        said = torch.cat([v, torch.full_like(v, 9.0)], dim=1)  # the variance must not matter
        return said if class_labels is None else SimpleNamespace(sample=said)


def stage(role: str) -> Stage:
    return Stage(f"tiny-{role}", role, Told(), PROCESS, "v", noising=PROCESS)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def test_eight_keyframes_become_twenty_nine_frames():
    keyframes, made = torch.rand(1, 3, 8, 6, 10) * 2 - 1, stage("interpolation")
    steps = []
    clip = interpolate(
        keyframes, made, COND, UNCOND, steps=2, cfg=4, generator=generator(), on_step=steps.append
    )
    assert clip.shape == (1, 3, 29, 6, 10)
    assert len(steps) == 7 * 2
    # This stage says that frames are the ends, blended: keyframes lie at every fourth frame.
    torch.testing.assert_close(clip[:, :, ::4], keyframes, rtol=0, atol=0.05)
    middle = (keyframes[:, :, :-1] + keyframes[:, :, 1:]) / 2
    torch.testing.assert_close(clip[:, :, 2::4], middle, rtol=0, atol=0.05)


def test_a_stage_is_told_both_ends_and_which_frames_are_known():
    ends = torch.stack([torch.zeros(3, 2, 2), torch.ones(3, 2, 2)], dim=1)[None]
    told = told_between(ends)
    assert told[0, 0, :, 0, 0].tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert told[0, 3, :, 1, 1].tolist() == [1, 0, 0, 0, 1]


def test_every_pair_starts_from_the_same_noise(tmp_path):
    made = load_stage(write_stage(tmp_path / "stage", "interpolation"))
    keyframes = torch.rand(1, 3, 1, 8, 12).expand(-1, -1, 4, -1, -1)
    cond, uncond = torch.randn(2, 1, 7, TEXT_WIDTH)
    clip = interpolate(keyframes, made, cond, uncond, steps=2, cfg=4, generator=generator())
    torch.testing.assert_close(clip[:, :, :4], clip[:, :, 4:8])
    torch.testing.assert_close(clip[:, :, :4], clip[:, :, 8:12])


def test_one_keyframe_has_nothing_to_be_interpolated_with():
    with pytest.raises(ValueError, match="There is 1 keyframe, and frames are made between two"):
        interpolate(
            torch.rand(1, 3, 1, 6, 10), stage("interpolation"), COND, UNCOND, steps=2, cfg=4,
            generator=generator(),
        )  # fmt: skip


@pytest.mark.parametrize(
    ("frames", "found"),
    [
        (29, [(0, 8), (7, 15), (14, 22), (21, 29)]),
        (11, [(0, 8), (7, 11)]),
        (5, [(0, 5)]),
        (1, [(0, 1)]),
    ],
)
def test_windows_go_on_from_the_frame_before(frames, found):
    assert [(span.start, span.stop) for span in spans(frames)] == found


def test_a_clip_is_enlarged_from_its_first_frame_on():
    clip = torch.rand(1, 3, 11, 2, 6) * 2 - 1
    image, video = stage("image-sr"), stage("video-sr")
    how = {"image": Enlarging(2, 4, 150), "video": Enlarging(2, 7, 0)}
    large = enlarge(clip, image, video, COND, UNCOND, factor=4, generator=generator(), **how)
    assert large.shape == (1, 3, 11, 8, 24)
    # With hardly any noise added, this stage says that frames are the small ones, upsampled.
    low = upsampled(clip, 8, 24)
    torch.testing.assert_close(large[:, :, 1:], low[:, :, 1:], rtol=0, atol=0.05)
    assert {int(labels[0]) for labels in image.unet.labels} == {150}
    assert {int(labels[0]) for labels in video.unet.labels} == {0}
    # What the first window is told of its first frame is the picture made by the image stage, and
    # the second window goes on from the last frame of the first.
    first, second = video.unet.told[0], video.unet.told[2]
    assert (first.shape[2], second.shape[2]) == (8, 4)
    torch.testing.assert_close(large[:, :, 7:8], second[:1, :, :1], rtol=0, atol=0.05)


def test_a_factor_that_does_not_fit_is_told():
    clip = torch.rand(1, 3, 5, 3, 5)
    with pytest.raises(ValueError, match=r"3 times as large, frames are 15 x 9.*multiples of 2"):
        enlarge(
            clip, stage("image-sr"), stage("video-sr"), COND, UNCOND, factor=3,
            generator=generator(),
        )  # fmt: skip


@pytest.mark.parametrize("role", ["image-sr", "video-sr"])
def test_real_stages_of_super_resolution_run(tmp_path, role):
    made = load_stage(write_stage(tmp_path / "stage", role))
    frames = 1 if role == "image-sr" else 3
    z = torch.randn(1, 3, frames, 8, 12)
    cond, uncond = torch.randn(2, 1, 7, TEXT_WIDTH)
    said = sample_stage(made, z, cond, uncond, 4, 2, beside=z, label=150)
    assert said.shape == z.shape
    assert said.abs().max() <= 1


def test_keyframes_are_means_of_the_pixels_they_stand_for():
    clip = torch.rand(1, 3, 15, 16, 24)
    small = picked(clip, 8, 4, 6)
    torch.testing.assert_close(small, torch.nn.functional.avg_pool3d(clip[:, :, ::2], (1, 4, 4)))
    with pytest.raises(ValueError, match="The clip has 15 frames, and 16 keyframes were asked"):
        picked(clip, 16, 4, 6)


@pytest.mark.parametrize(
    ("size", "wanted", "left"),
    [
        ((320, 576), (40, 64), (320, 512)),
        ((90, 60), (40, 64), (38, 60)),
        ((40, 64), (5, 8), (40, 64)),
    ],
)
def test_a_clip_of_another_aspect_is_cut_about_its_middle(size, wanted, left):
    clip = torch.zeros(1, 3, 1, *size)
    clip[..., size[0] // 2, size[1] // 2] = 1
    part = cut(clip, *wanted)
    assert part.shape[-2:] == left
    assert part[..., left[0] // 2, left[1] // 2].sum() == 3
