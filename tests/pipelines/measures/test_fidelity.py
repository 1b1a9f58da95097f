"""PSNR, SSIM and the regions they look at."""

import math

import pytest
import torch
from rescore.pipelines.measures.fidelity import psnr, ssim
from rescore.pipelines.measures.region import region
from torchmetrics.functional.image import (
    peak_signal_noise_ratio,
    structural_similarity_index_measure,
)

FRAMES, HEIGHT, WIDTH = 3, 17, 23


@pytest.fixture
def pair():
    generator = torch.Generator().manual_seed(0)
    source = torch.rand(1, 3, FRAMES, HEIGHT, WIDTH, generator=generator)
    noise = 0.3 * torch.rand(source.shape, generator=generator)
    return source, (source + noise).clamp(max=1)


@pytest.fixture
def everywhere():
    return region(None, FRAMES, HEIGHT, WIDTH)


def by_frame(clip):
    return clip[0].movedim(1, 0)


def half(columns: int):
    """A mask, white over the left columns."""
    mask = torch.zeros(1, HEIGHT, WIDTH)
    mask[..., :columns] = 1
    return mask


def test_psnr_by_hand():
    source = torch.zeros(1, 3, 2, 5, 7)
    edited = source.clone()
    edited[:, :, 0] = 0.1
    found = psnr(source, edited, region(None, 2, 5, 7))
    assert found.values == (pytest.approx(20), math.inf)
    # The error is averaged before the logarithm: half of 0.01.
    assert found.value == pytest.approx(-10 * math.log10(0.005))
    assert (found.name, found.unit, found.better) == ("PSNR", "dB", "higher")


def test_equal_clips(pair, everywhere):
    source, _ = pair
    assert psnr(source, source, everywhere).value == math.inf
    assert ssim(source, source, everywhere).value == 1


def test_as_torchmetrics(pair, everywhere):
    source, edited = (clip.double() for clip in pair)
    whole = peak_signal_noise_ratio(edited, source, data_range=1.0)
    assert psnr(source, edited, everywhere).value == pytest.approx(float(whole))
    _, full = structural_similarity_index_measure(
        by_frame(edited), by_frame(source), data_range=1.0, return_full_image=True
    )
    # There windows also lie across the picture's edge, which they reflect.
    similarity = full[..., 5:-5, 5:-5].mean(dim=(1, 2, 3))
    found = ssim(source, edited, everywhere)
    assert found.values == pytest.approx(similarity.tolist(), abs=1e-9)
    assert found.value == pytest.approx(float(similarity.mean()), abs=1e-9)


@pytest.mark.parametrize("measure", [psnr, ssim])
def test_an_edit_inside_the_mask_is_not_seen_outside(pair, measure):
    source, _ = pair
    edited = source.clone()
    edited[..., :6] = 1 - edited[..., :6]
    mask = half(6)
    outside, inside = (region(mask, FRAMES, HEIGHT, WIDTH, side) for side in ("outside", "inside"))
    perfect = {psnr: math.inf, ssim: 1}[measure]
    assert measure(source, edited, outside).value == pytest.approx(perfect, abs=1e-12)
    assert measure(source, edited, outside).name.endswith(" outside")
    if measure is psnr:
        assert measure(source, edited, inside).value < 20
    # A window is too wide for the strip inside.
    else:
        with pytest.raises(ValueError, match=r"No window of 11 x 11 .* inside the mask"):
            measure(source, edited, inside)


def test_windows_at_the_masks_edge_do_not_look_across(pair):
    """SSIM outside equals that of the clips cut along the mask."""
    source, edited = pair
    found = ssim(source, edited, region(half(7), FRAMES, HEIGHT, WIDTH))
    cut = ssim(source[..., 7:], edited[..., 7:], region(None, FRAMES, HEIGHT, WIDTH - 7))
    assert found.values == pytest.approx(cut.values, abs=1e-12)


def test_a_frame_without_the_region_counts_for_nothing(pair):
    source, edited = pair
    masks = torch.zeros(FRAMES, HEIGHT, WIDTH)
    masks[1] = 1
    where = region(masks, FRAMES, HEIGHT, WIDTH)
    for measure in (psnr, ssim):
        found = measure(source, edited, where)
        assert [math.isnan(value) for value in found.values] == [False, True, False]
        assert math.isfinite(found.value)


def test_the_mask_is_brought_to_the_clip():
    small = torch.zeros(1, 2, 2)
    small[0, 0] = 1
    assert torch.equal(
        region(small, 1, 8, 6, "inside").where[0], torch.arange(8)[:, None].expand(8, 6) < 4
    )


def test_the_threshold_decides_about_soft_pixels():
    mask = torch.tensor([[[0.0, 0.3, 0.5, 0.9]]])
    for threshold, outside in ((0.5, [1, 1, 1, 0]), (0.01, [1, 0, 0, 0])):
        found = region(mask, 1, 1, 4, threshold=threshold).where
        assert found.int().tolist() == [[outside]]


def test_everywhere_leaves_the_mask_alone():
    found = region(half(3), FRAMES, HEIGHT, WIDTH, "everywhere")
    assert bool(found.where.all())
    assert found.title("PSNR") == "PSNR"


@pytest.mark.parametrize(
    ("mask", "side", "message"),
    [
        (torch.ones(1, 5, 5), "outside", "white everywhere, so no pixel lies outside"),
        (torch.zeros(1, 5, 5), "inside", "black everywhere, so no pixel lies inside"),
        (torch.zeros(2, 5, 5), "outside", "2 frames and the clip has 3"),
        (torch.full((1, 5, 5), torch.nan), "outside", "values outside 0..1"),
        (torch.full((1, 5, 5), 2.0), "outside", "values outside 0..1"),
        (torch.zeros(1, 0, 5), "outside", "empty"),
    ],
)
def test_masks_that_cannot_be_used(mask, side, message):
    with pytest.raises(ValueError, match=message):
        region(mask, FRAMES, HEIGHT, WIDTH, side)


@pytest.mark.parametrize(
    ("source", "edited", "message"),
    [
        (torch.zeros(1, 3, 3, 17, 23), torch.zeros(1, 3, 2, 17, 23), "3 frames .* the edit 2"),
        (torch.zeros(1, 3, 3, 17, 23), torch.zeros(1, 3, 3, 17, 19), "23 x 17 .* 19 x 17"),
        (torch.zeros(1, 3, 3, 17, 23), torch.full((1, 3, 3, 17, 23), torch.nan), "edited .* NaN"),
        (torch.full((1, 3, 3, 17, 23), 255.0), torch.zeros(1, 3, 3, 17, 23), "from 255 to 255"),
        (torch.zeros(1, 3, 0, 17, 23), torch.zeros(1, 3, 0, 17, 23), "0 frame"),
    ],
)
def test_clips_that_cannot_be_compared(source, edited, message, everywhere):
    for measure in (psnr, ssim):
        with pytest.raises(ValueError, match=message):
            measure(source, edited, everywhere)


def test_ssim_needs_room_for_its_window():
    clip = torch.zeros(1, 3, 1, 7, 31)
    with pytest.raises(ValueError, match="31 x 7 pixels"):
        ssim(clip, clip, region(None, 1, 7, 31))
