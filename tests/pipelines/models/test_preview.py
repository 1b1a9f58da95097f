"""The fitted preview: exact where colours are linear in the latents, tame where they are not."""

import torch
from rescore.pipelines.models.preview import fit_preview


def test_a_linear_decoder_is_recovered():
    generator = torch.Generator().manual_seed(0)
    latent = torch.randn(5, 7, 11, generator=generator)
    mix = torch.tensor([[0.1, 0, 0, 0.05, 0], [0, 0.08, 0, 0, 0], [0, 0, -0.1, 0, 0.02]])
    colours = 0.5 + torch.einsum("kc,chw->khw", mix, latent)
    # Every latent pixel decodes to 2 x 3 pixels of one colour.
    pixels = colours.repeat_interleave(2, 1).repeat_interleave(3, 2)
    preview = fit_preview(latent, pixels)
    other = torch.randn(5, 3, 2, generator=generator)
    expected = (0.5 + torch.einsum("kc,chw->hwk", mix, other)).clamp(0, 1)
    torch.testing.assert_close(preview(other), expected, rtol=0, atol=1e-3)


def test_a_clip_of_one_colour_gives_finite_pictures():
    preview = fit_preview(torch.full((4, 3, 5), 0.7), torch.full((3, 24, 40), 0.25))
    picture = preview(torch.randn(4, 3, 5))
    assert picture.shape == (3, 5, 3)
    assert torch.isfinite(picture).all()
    same = preview(torch.full((4, 3, 5), 0.7))
    torch.testing.assert_close(same, torch.full((3, 5, 3), 0.25), rtol=0, atol=1e-3)
