"""Masks that the model knows: maps of words and of gradients, on real models at tiny size."""

from dataclasses import replace

import pytest
import torch
from einops import rearrange
from rescore.attention.unet.sites import find_sites
from rescore.attention.word_maps import take_attention_to
from rescore.pipelines.distillation.inspection import inspect_gradient
from rescore.pipelines.distillation.score_distillation import Settings
from rescore.pipelines.masks.edit_masks import Looks, gradient_map, word_map
from rescore.pipelines.windows import Windows
from small_runs import DDS, KIND, SCHEDULE, backbone, clip, prompts
from tiny_unets import HEIGHT, WIDTH, WORDS, inputs, unet

ONE = Looks(0.4, 0.4, timesteps=1)


def words(kind, positions, looks=ONE, z=None, **options):
    z, text = clip() if z is None else z, inputs(1, 1, 1)[1]
    return word_map(z, positions, text, backbone(kind).denoiser, looks, **options)


def test_attention_to_tokens_is_their_share_averaged_over_heads():
    """Scores of 0 and log 3 (the root of d = 4 is 2) give shares of 1/4 and 3/4."""
    q = torch.tensor([[[[2.0, 0, 0, 0]], [[0, 0, 0, 0]]]])  # one place, two heads
    k = torch.zeros(1, 2, 2, 4)
    k[:, :, 1, 0] = torch.log(torch.tensor(3.0))
    torch.testing.assert_close(take_attention_to([1])(q, k, k), torch.tensor([[0.625]]))
    torch.testing.assert_close(take_attention_to([0, 1])(q, k, k), torch.ones(1, 1))


@pytest.mark.parametrize("kind", KIND)
def test_a_word_map_is_that_of_the_finest_layers(kind):
    """Against the maps computed from what each layer is given, seen from outside."""
    model, seen, hooks = unet(kind), {}, []
    for site in find_sites(model, kind="cross"):
        layer = model.get_submodule(site.name)

        def look(layer, args, kwargs, name=site.name):
            q, k = layer.to_q(args[0]), layer.to_k(kwargs["encoder_hidden_states"])
            q, k = (rearrange(x, "s n (h d) -> s h n d", h=layer.heads) for x in (q, k))
            maps = (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1)
            seen[name] = maps[..., [2, 5]].sum(-1).mean(1)

        hooks.append(layer.register_forward_pre_hook(look, with_kwargs=True))
    z = clip()
    try:
        draw = next(ONE.at(z, SCHEDULE))
        with torch.no_grad():
            backbone(kind).denoiser(draw.z_t, draw.level, inputs(1, 1, 1)[1])
    finally:
        for hook in hooks:
            hook.remove()
    fine = [m for m in seen.values() if m.shape[1] == HEIGHT * WIDTH]
    assert 0 < len(fine) < len(seen)
    expected = sum(m / m.mean() for m in fine) / len(fine)
    found = words(kind, [2, 5])
    assert found.shape == (3, HEIGHT, WIDTH)
    torch.testing.assert_close(found.flatten(1), expected, rtol=1e-4, atol=1e-4)
    coarse = words(kind, [2, 5], max_tokens=HEIGHT * WIDTH - 1)
    assert not torch.allclose(coarse, found, atol=1e-3)


def test_all_words_together_are_seen_everywhere():
    torch.testing.assert_close(
        words("video", range(WORDS)), torch.ones(3, HEIGHT, WIDTH), rtol=1e-5, atol=1e-5
    )


def test_draws_are_averaged_and_told():
    told = []
    looks = Looks(0.2, 0.6, timesteps=3, draws=2, seed=7)
    assert [draw.level.t for draw in looks.at(clip(), SCHEDULE)] == [200, 200, 400, 400, 599, 599]
    words("image", [1], looks, on_draw=told.append)
    assert told == [1, 2, 3, 4, 5, 6]


def test_frames_of_an_image_model_do_not_mind_windows():
    z = clip(frames=5)
    whole = words("image", [3], z=z)
    parts = words("image", [3], z=z, windows=Windows(2, 1))
    torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-5)


def test_layers_that_are_not_there_are_told():
    with pytest.raises(ValueError, match=r"matches no text cross-attention layer"):
        words("video", [1], sites="blocks.*")
    with pytest.raises(ValueError, match=r"have 6, 24, 96 tokens a frame, and max_tokens is 5"):
        words("video", [1], max_tokens=5)


def gradients(kind, looks, cfg=1.0, **options):
    model = backbone(kind).denoiser
    return gradient_map(clip(), (DDS,), model, prompts(), cfg, looks, **options)


@pytest.mark.parametrize("kind", KIND)
def test_one_draw_is_what_inspection_shows(kind):
    settings = Settings(1, 1.0, 7.5, 3, 0.4, 0.4)
    energy, _, _ = inspect_gradient(clip(), (DDS,), backbone(kind).denoiser, prompts(), settings)
    torch.testing.assert_close(gradients(kind, replace(ONE, seed=3), cfg=7.5), energy)


def test_a_gradient_map_is_the_mean_over_draws():
    """Without guidance the energy does not depend on its scale, only on what is drawn."""
    both = gradients("image", replace(ONE, draws=2))
    first = gradients("image", ONE)
    second = 2 * both - first
    assert float(second.max()) == pytest.approx(1, abs=1e-4)
    assert not torch.allclose(first, second, atol=1e-2)


def test_settings_are_checked():
    with pytest.raises(ValueError, match=r"from 0\.6 to 0\.2"):
        Looks(0.6, 0.2)
    with pytest.raises(ValueError, match="0 timesteps with 1 draws"):
        Looks(timesteps=0)
    model = backbone("image").denoiser
    with pytest.raises(ValueError, match="No term is connected"):
        gradient_map(clip(), (), model, prompts(), 1.0, ONE)
