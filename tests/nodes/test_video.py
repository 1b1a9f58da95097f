"""A whole video through one node: its sound, its times, its size, and what a mask leaves black."""

from dataclasses import replace
from fractions import Fraction

import pytest
import torch
from rescore.headless.video import VideoComponents
from rescore.headless.video_read import VideoFromFile, read_video
from rescore.headless.video_write import encode_mp4

TIMES = tuple(Fraction(t, 100) for t in (0, 13, 20, 41, 70))  # of 5 frames, unevenly
TEXTS = {
    "source_prompt": "a red circle moving right on a plain background",
    "target_prompt": "a blue circle moving right on a plain background",
}


@pytest.fixture
def video(tmp_path, clip):
    """A file of 5 frames of 22 x 18 that come unevenly, with a sound."""
    wave = torch.sin(torch.arange(8000 * 7 // 8) * 0.3).reshape(1, 1, -1) * 0.5
    sound = {"waveform": wave, "sample_rate": 8000}
    parts = VideoComponents(clip(5, 18, 22), Fraction(40, 7), sound, TIMES)
    file = tmp_path / "clip.mp4"
    file.write_bytes(encode_mp4(parts))
    return VideoFromFile(file)


def test_an_edited_video_keeps_size_sound_and_times(run, load, video, tmp_path):
    made, images, losses = run(
        "ReScoreEditVideo", model=load("text-to-video"), video=video, **TEXTS, steps=3
    )
    source, parts = video.get_components(), made.get_components()
    assert parts.times == source.times and len(set(parts.times)) == 5
    assert parts.frame_rate == source.frame_rate
    assert torch.equal(parts.audio["waveform"], source.audio["waveform"])
    assert images.shape == source.images.shape and torch.equal(parts.images, images)
    assert not torch.equal(images, source.images)
    assert len(losses["loss"]) == 3
    # And in a file that is read again, as players read it.
    (tmp_path / "edit.mp4").write_bytes(encode_mp4(parts))
    again = read_video(tmp_path / "edit.mp4")
    for then, now in zip(source.times, again.times, strict=True):
        assert abs(then - now) < Fraction(1, 1000)


def test_on_a_flow_model_it_takes_the_loop_for_flows(run, load, video):
    """The same as the single nodes: falling levels, velocities, and what Edit Strength says."""
    model, source = load("wan"), video.get_components().images
    _, images, _ = run(
        "ReScoreEditVideo", model=model, video=video, **TEXTS, steps=3, strength=0.75,
        restore_source=False,
    )  # fmt: skip
    cfg, t_max, step_size, eta = run("ReScoreEditStrength", strength=0.75)
    edit = run(
        "ReScoreScoreDistillation",
        model=model,
        prompts=run("ReScoreEncodePromptPair", model=model, **TEXTS, negative_prompt="")[0],
        latent=(latent := run("ReScoreVideoVAEEncode", model=model, images=source)[0]),
        terms=run("ReScoreDeltaDenoising", weighting="velocity", eta=eta)[0],
        steps=3, cfg=cfg, t_min=0.0, t_max=t_max, step_size=step_size, order="descending",
    )[0]  # fmt: skip
    expected = run("ReScoreVideoVAEDecode", model=model, latent=edit)[0]
    assert not torch.equal(edit["samples"], latent["samples"])
    assert torch.equal(images, expected)


def test_where_the_mask_is_black_pixels_are_the_clips_to_the_bit(run, load, video):
    mask = torch.zeros(1, 18, 22)
    mask[:, :, 11:] = 1
    _, images, _ = run(
        "ReScoreEditVideo", model=load("text-to-video"), video=video, **TEXTS, steps=3, mask=mask
    )
    source = video.get_components().images
    assert torch.equal(images[:, :, :11], source[:, :, :11])
    assert not torch.equal(images[:, :, 11:], source[:, :, 11:])


def test_terms_that_are_wired_drive_the_edit(run, load, video):
    terms = run("ReScoreDeltaDenoising", weight=0.0)[0]
    model = load("text-to-video")
    given = {"model": model, "video": video, **TEXTS, "steps": 2, "restore_source": False}
    _, images, losses = run("ReScoreEditVideo", **given, terms=terms)
    assert losses["loss"] == [0, 0]
    (latent,) = run("ReScoreVideoVAEEncode", model=model, images=video.get_components().images)
    (alone,) = run("ReScoreVideoVAEDecode", model=model, latent=latent)
    assert torch.equal(images, alone)


def test_a_video_is_edited_by_inversion(run, load, video):
    model = load("animatediff")
    made, images = run(
        "ReScoreEditVideoByInversion", model=model, video=video, **TEXTS, steps=3, keep_layout=0.3
    )
    source = video.get_components()
    assert images.shape == source.images.shape
    assert made.get_components().times == source.times
    free = run(
        "ReScoreEditVideoByInversion", model=model, video=video, **TEXTS, steps=3, keep_layout=0.0
    )[1]
    assert not torch.equal(images, free)


@pytest.mark.parametrize("kind", ["text-to-video", "wan"])
def test_strength_0_edits_nothing(run, load, video, caplog, kind):
    _, images, _ = run("ReScoreEditVideo", model=load(kind), video=video, **TEXTS, strength=0.0,
        steps=2)  # fmt: skip
    assert torch.equal(images, video.get_components().images)
    assert "step_size is 0, as Edit Strength gives it for strength 0" in caplog.text


def test_strength_of_an_inversion_is_the_share_of_its_steps(run, load, video, caplog):
    """0 edits nothing, 1 is all, and the single nodes do the same along a part of the way."""
    model, source = load("animatediff"), video.get_components().images
    given = {"model": model, "video": video, **TEXTS, "steps": 4, "restore_source": False}
    _, nothing = run(
        "ReScoreEditVideoByInversion", **given | {"restore_source": True}, strength=0.0
    )
    assert torch.equal(nothing, source)
    assert "strength is 0: of 4 steps none is left" in caplog.text
    whole, half, quarter = (
        run("ReScoreEditVideoByInversion", **given, keep_layout=0.0, strength=strength)[1]
        for strength in (1.0, 0.5, 0.25)
    )
    (latent,) = run("ReScoreVideoVAEEncode", model=model, images=source)
    (alone,) = run("ReScoreVideoVAEDecode", model=model, latent=latent)
    apart = [float((images - alone).abs().mean()) for images in (quarter, half, whole)]
    assert 0 < apart[0] < apart[1] < apart[2]
    between = run("ReScoreEditVideoByInversion", **given, keep_layout=0.0, strength=0.74)[1]
    assert torch.equal(between, half)  # whole steps, as everywhere: 2.96 are 2


def test_frames_of_any_graph_become_a_video_of_the_clip(run, video):
    source = video.get_components()
    mask = torch.zeros(5, 18, 22)
    mask[2] = 1
    made, images = run("ReScoreEditedVideo", source=video, images=1 - source.images, mask=mask)
    assert torch.equal(images[2], 1 - source.images[2])
    assert torch.equal(images[[0, 1, 3, 4]], source.images[[0, 1, 3, 4]])
    assert made.get_components().times == source.times


def test_a_mask_of_another_size_is_scaled(run, video):
    source = video.get_components()
    mask = torch.zeros(1, 9, 11)
    mask[:, :, :5] = 1
    _, images = run("ReScoreEditedVideo", source=video, images=1 - source.images, mask=mask)
    assert torch.equal(images[:, :, 12:], source.images[:, :, 12:])
    assert torch.equal(images[:, :, :8], 1 - source.images[:, :, :8])


def test_frames_of_another_clip_are_told(run, video, clip):
    with pytest.raises(ValueError, match=r"has 3 frames and the clip 5.*Video Slice"):
        run("ReScoreEditedVideo", source=video, images=clip(3, 18, 22))


def test_an_edit_of_another_size_keeps_the_sound_and_a_mask_needs_the_clips_size(run, video, clip):
    """As after scaling the frames to what a model knows."""
    scaled = clip(5, 34, 46)
    made, images = run("ReScoreEditedVideo", source=video, images=scaled)
    assert torch.equal(images, scaled)
    assert made.get_components().times == TIMES
    with pytest.raises(ValueError, match=r"is 46 x 34 and the clip 22 x 18.*Upscale Image"):
        run("ReScoreEditedVideo", source=video, images=scaled, mask=torch.ones(1, 34, 46))


def test_a_mask_of_another_length_is_told(run, video):
    images = video.get_components().images
    with pytest.raises(ValueError, match="The mask has 3 frames and the clip has 5"):
        run("ReScoreEditedVideo", source=video, images=images, mask=torch.ones(3, 18, 22))


def test_a_file_that_is_no_video_is_told(run, load, tmp_path):
    file = tmp_path / "words.mp4"
    file.write_text("no video")
    with pytest.raises(ValueError, match="is not a video"):
        run("ReScoreEditVideo", model=load("text-to-video"), video=VideoFromFile(file), **TEXTS)


def test_an_even_clip_stays_even(run, video):
    parts = replace(video.get_components(), times=None)

    class Made:
        def get_components(self):
            return parts

    made, _ = run("ReScoreEditedVideo", source=Made(), images=parts.images)
    assert made.get_components().times is None


def test_a_clip_that_lies_on_its_side_is_edited_upright(run, video, clip):
    """As telephones film: the file says that its frames are to be turned by a quarter."""
    data = bytearray(video.path.read_bytes())
    matrix = data.index(b"tkhd") + 44
    turned = (0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30)
    data[matrix : matrix + 36] = b"".join(n.to_bytes(4, "big", signed=True) for n in turned)
    lying = video.get_components().images
    video.path.write_bytes(data)
    upright = video.get_components().images
    assert torch.equal(upright, torch.rot90(lying, -1, (1, 2)))
    mask = torch.zeros(1, 22, 18)
    mask[:, 11:] = 1
    made, images = run("ReScoreEditedVideo", source=video, images=1 - upright, mask=mask)
    assert images.shape == (5, 22, 18, 3)
    assert torch.equal(images[:, :11], upright[:, :11])
    again = read_of(made.get_components(), video.path.with_name("edit.mp4"))
    assert again.shape == (5, 22, 18, 3)  # the new file needs no turn


def test_red_stays_red(run, video, clip):
    """Colours go out by the matrix that the file names (BT.709), and come back the same."""
    parts = replace(video.get_components(), images=torch.zeros(5, 32, 32, 3))
    parts.images[:, :16] = torch.tensor([0.8, 0.1, 0.1])
    parts.images[:, 16:] = torch.tensor([0.1, 0.2, 0.7])

    class Made:
        def get_components(self):
            return parts

    made, _ = run("ReScoreEditedVideo", source=Made(), images=parts.images)
    again = read_of(made.get_components(), video.path.with_name("red.mp4"))
    assert float((again - parts.images)[:, [4, 28]].abs().max()) < 2.5 / 255


def read_of(parts: VideoComponents, file) -> torch.Tensor:
    """The frames of a clip that was written to a file."""
    file.write_bytes(encode_mp4(parts))
    return read_video(file).images
