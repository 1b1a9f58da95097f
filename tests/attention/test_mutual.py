"""Self-attention with a look at the source: against dense arithmetic, and inside a real UNet."""

import pytest
import torch
from rescore.attention.layers import Entry, attend
from rescore.attention.mutual import foreground_tokens, mutual, mutual_attention, source_layout
from rescore.attention.unet.layers import UNetLayers
from rescore.attention.unet.sites import find_sites
from tiny_models import tiny_unet

B, H, N, M, L, D = 2, 3, 5, 7, 11, 13


def parts(seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    sizes = (N, M, M, L, L)
    return [torch.randn(B, H, n, D, generator=generator, dtype=torch.float64) for n in sizes]


def foreground(seed: int = 1):
    return torch.rand(B, M, generator=torch.Generator().manual_seed(seed)) < 0.4


def dense(q, k_source, v_source, k_target, v_target, hidden):
    """Row by row, with the hidden keys taken out rather than masked."""
    result = torch.empty_like(q)
    for b in range(B):
        k = torch.cat([k_source[b][:, ~hidden[b]], k_target[b]], dim=1)
        v = torch.cat([v_source[b][:, ~hidden[b]], v_target[b]], dim=1)
        result[b] = (q[b] @ k.mT / D**0.5).softmax(-1) @ v
    return result


def test_it_equals_attention_to_what_is_left():
    torch.testing.assert_close(
        mutual_attention(*parts(), foreground()), dense(*parts(), foreground())
    )


def test_hidden_tokens_do_not_matter():
    q, k_source, v_source, k_target, v_target = parts()
    hidden = foreground()
    other = torch.where(hidden[:, None, :, None], 100.0, v_source)
    first = mutual_attention(q, k_source, v_source, k_target, v_target, hidden)
    assert torch.equal(first, mutual_attention(q, k_source, other, k_target, v_target, hidden))


def test_a_source_of_nothing_but_foreground_is_not_read():
    q, k_source, v_source, k_target, v_target = parts()
    hidden = torch.ones(B, M, dtype=torch.bool)
    torch.testing.assert_close(
        mutual_attention(q, k_source, v_source, k_target, v_target, hidden),
        attend(q, k_target, v_target),
    )


def test_a_source_like_the_target_changes_nothing():
    q, _, _, k, v = parts()
    nothing = torch.zeros(1, L, dtype=torch.bool)
    torch.testing.assert_close(mutual_attention(q, k, v, k, v, nothing), attend(q, k, v))


def test_masks_of_numbers_are_cut_at_one_half():
    numbers = foreground() * 0.6 + 0.2
    assert torch.equal(
        mutual_attention(*parts(), numbers), mutual_attention(*parts(), foreground())
    )


def test_half_precision_stays_finite():
    result = mutual_attention(*(part.bfloat16() for part in parts()), foreground())
    assert result.dtype == torch.bfloat16
    torch.testing.assert_close(result.double(), dense(*parts(), foreground()), atol=0.05, rtol=0.05)


FRAMES = 3
SOURCE, EDIT = 0, 1


@pytest.fixture(scope="module")
def unet():
    return tiny_unet("2D")


def inputs(same: bool, seed: int = 3):
    """Two clips of frames, `[(clip frame) c h w]`, and their texts."""
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(2, FRAMES, 4, 6, 10, generator=generator)
    text = torch.randn(2, FRAMES, 5, 12, generator=generator)
    if same:
        z, text = z[:1].expand(2, -1, -1, -1, -1), text[:1].expand(2, -1, -1, -1)
    return z.flatten(0, 1), torch.tensor(500), text.flatten(0, 1)


def run(unet, change, same=False, calls=((SOURCE, EDIT),)):
    """What the model predicts for both clips, the rows of each call in turn."""
    sites = find_sites(unet, kind="spatial")
    z, t, text = inputs(same)
    slices = zip(calls, z.chunk(len(calls)), text.chunk(len(calls)), strict=True)
    parts = []
    for rows, part, texts in slices:
        with torch.no_grad(), UNetLayers(unet).installed([Entry(sites, change)], rows):
            parts.append(unet(part, t, texts).sample)
    return torch.cat(parts).unflatten(0, (2, FRAMES))


def plain(unet, same=False):
    z, t, text = inputs(same)
    with torch.no_grad():
        return unet(z, t, text).sample.unflatten(0, (2, FRAMES))


def none_hidden(site, tokens):
    return torch.zeros(FRAMES, tokens, dtype=torch.bool)


CHANGES = {
    "layout": lambda: source_layout({EDIT: SOURCE}, lambda tokens: True),
    "mutual": lambda: mutual({EDIT: SOURCE}, none_hidden),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_only_the_edit_is_changed(unet, change):
    result, before = run(unet, change()), plain(unet)
    torch.testing.assert_close(result[SOURCE], before[SOURCE])
    assert (result[EDIT] - before[EDIT]).abs().max() > 1e-3


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_an_edit_that_is_the_source_stays_it(unet, change):
    result = run(unet, change(), same=True)
    torch.testing.assert_close(result[EDIT], plain(unet, same=True)[EDIT], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_slices_of_the_batch_give_the_same(unet, change):
    torch.testing.assert_close(run(unet, change(), calls=((SOURCE,), (EDIT,))), run(unet, change()))


def test_nothing_is_kept_where_the_batch_is_whole(unet):
    change = CHANGES["mutual"]()
    run(unet, change)
    assert change._kept == {}


def test_an_edit_before_its_source_is_refused(unet):
    change = mutual({SOURCE: EDIT}, none_hidden)
    with pytest.raises(ValueError, match="Counterparts come first"):
        run(unet, change, calls=((SOURCE,), (EDIT,)))


def test_fine_layers_keep_their_layout(unet):
    """With a limit below every layer nothing happens, up to the batching of kernels."""
    result = run(unet, source_layout({EDIT: SOURCE}, lambda tokens: tokens <= 1))
    torch.testing.assert_close(result, plain(unet))


def test_what_is_hidden_of_the_source_does_not_reach_the_edit(unet):
    """With one layer changed and all of the source hidden, the edit is as without a source."""

    def all_hidden(site, tokens):
        return torch.ones(FRAMES, tokens, dtype=torch.bool)

    result = run(unet, mutual({EDIT: SOURCE}, all_hidden))
    torch.testing.assert_close(result, plain(unet), atol=1e-5, rtol=1e-5)


def test_tokens_of_a_mask():
    covered = torch.tensor([[0.5, 0.49, 1, 0], [0, 0.1, 0.2, 0.2], [0, 0, 0, 0], [1, 1, 1, 1]])
    expected = [[1, 0, 1, 0], [0, 0, 1, 1], [0, 0, 0, 0], [1, 1, 1, 1]]
    assert torch.equal(foreground_tokens(covered), torch.tensor(expected, dtype=torch.bool))
