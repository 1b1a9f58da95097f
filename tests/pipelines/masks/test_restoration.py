"""What the autoencoder alone has changed is taken out again."""

import pytest
import torch
from rescore.pipelines.masks.restoration import restored

SHAPE = (1, 3, 5, 7, 11)


def clips() -> tuple[torch.Tensor, torch.Tensor]:
    """A source, and what an autoencoder makes of it."""
    random = torch.Generator().manual_seed(0)
    source = torch.rand(SHAPE, generator=random)
    return source, (source + 0.03 * torch.randn(SHAPE, generator=random)).clamp(0, 1)


def test_what_was_not_edited_is_the_source_to_the_bit():
    source, reconstruction = clips()
    assert torch.equal(restored(reconstruction, source, reconstruction), source)
    edited = reconstruction.clone()
    edited[:, 1, 2, 3:5, 4:9] = 1 - edited[:, 1, 2, 3:5, 4:9]
    result = restored(edited, source, reconstruction)
    same = (edited == reconstruction).all(dim=1, keepdim=True).expand(SHAPE)
    assert torch.equal(result[same], source[same])


def test_what_was_edited_stays_and_between_them_it_is_even():
    source, reconstruction = clips()
    for apart, kept in ((0.2, 0.0), (0.1, 0.0), (0.05, 0.5), (0.02, 0.8)):
        edited = reconstruction.clone()
        edited[:, 2, :, :3] += apart  # one colour decides for all, in less than half the picture
        result = restored(edited, source, reconstruction)[..., :3, :]
        expected = (edited + kept * (source - reconstruction)).clamp(0, 1)[..., :3, :]
        assert (result - expected).abs().max() < 1e-6


def test_colours_that_move_from_window_to_window_come_back():
    """Two windows of a long clip, one a little redder, the other a little greener."""
    source, reconstruction = clips()
    edited = reconstruction.clone()
    edited[:, 0, :2] += 0.02
    edited[:, 1, 2:] += 0.03
    edited[:, 2, :, :3, :5] += 0.5  # the edit
    result = restored(edited, source, reconstruction)
    # Of a drift d, d^2 / 0.1 is left: 0.004 and 0.009. It counts as an edit that small.
    for frames, colour, left in ((slice(0, 2), 0, 0.004), (slice(2, 5), 1, 0.009)):
        kept = 1 - left / 0.1
        expected = reconstruction[:, colour, frames] + left
        expected = expected + kept * (source - reconstruction)[:, colour, frames]
        found = result[:, colour, frames, 3:]
        torch.testing.assert_close(found, expected[..., 3:, :].clamp(0, 1), rtol=0, atol=1e-6)
    # The edit itself loses the drift, too, and nothing else.
    blue = result[:, 2, :, :3, :5]
    torch.testing.assert_close(blue, edited[:, 2, :, :3, :5].clamp(0, 1), rtol=0, atol=1e-6)


def test_a_look_of_the_whole_picture_is_an_edit():
    source, reconstruction = (clip / 2 for clip in clips())
    edited = reconstruction + 0.15
    assert torch.equal(restored(edited, source, reconstruction), edited)


def test_what_does_not_fit_is_told():
    source, reconstruction = clips()
    with pytest.raises(ValueError, match="The clips differ: 5 frames of 11 x 7 and 4 frames"):
        restored(reconstruction, source, reconstruction[:, :, :4])
    with pytest.raises(ValueError, match="The threshold is 0; it must be more than 0"):
        restored(reconstruction, source, reconstruction, threshold=0)
