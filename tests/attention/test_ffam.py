"""Fine-coarse, sparse-causal and full attention over frames, against attention spelled out."""

import logging
import math

import pytest
import torch
from diffusers.models.attention_processor import Attention
from einops import rearrange
from rescore.attention import ffam
from rescore.attention.ffam import fine_coarse_tokens
from rescore.attention.space_time import frame_tokens, space_time_tokens
from rescore.attention.sparse_causal import sparse_causal_tokens
from rescore.attention.unet.video_block import attend_over

B, F, H, W, D, HEADS = 2, 5, 7, 3, 6, 2


def features(frames: int = F, height: int = H, width: int = W) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    shape = (B, frames, height * width, D)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


@pytest.fixture
def layer() -> Attention:
    torch.manual_seed(0)
    return Attention(query_dim=D, heads=HEADS, dim_head=D // HEADS).double().requires_grad_(False)


def windows_by_hand(frame: torch.Tensor, height: int, width: int, ratio: int) -> torch.Tensor:
    """Means over windows of one frame's tokens `[n, d]`, one window after the other."""
    grid = frame.view(height, width, -1)
    return torch.stack(
        [
            grid[y : y + ratio, x : x + ratio].flatten(0, 1).mean(dim=0)
            for y in range(0, height, ratio)
            for x in range(0, width, ratio)
        ]
    )


def dense(layer: Attention, tokens: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
    """The layer's attention written out: tokens `[n, d]` over context `[m, d]`."""
    q, k, v = layer.to_q(tokens), layer.to_k(context), layer.to_v(context)
    read = []
    for part in range(HEADS):
        columns = slice(part * D // HEADS, (part + 1) * D // HEADS)
        scores = q[:, columns] @ k[:, columns].T / math.sqrt(D // HEADS)
        weights = scores.exp() / scores.exp().sum(dim=1, keepdim=True)
        read.append(weights @ v[:, columns])
    return layer.to_out[0](torch.cat(read, dim=1))


@pytest.mark.parametrize("ratio", range(1, 10))
@pytest.mark.parametrize(("height", "width"), [(7, 3), (5, 5), (1, 7), (4, 8)])
def test_tokens_are_the_frames_own_and_the_means_of_the_others(height, width, ratio):
    z = features(3, height, width)
    tokens = fine_coarse_tokens(z, height, width, ratio)
    for b in range(B):
        for f in range(3):
            others = [windows_by_hand(z[b, j], height, width, ratio) for j in range(3) if j != f]
            torch.testing.assert_close(tokens[b, f], torch.cat([z[b, f], *others]))


@pytest.mark.parametrize("frames", [1, 2, 5])
@pytest.mark.parametrize("ratio", [1, 2, 3, 4, 8])
def test_number_of_tokens(frames: int, ratio: int):
    tokens = fine_coarse_tokens(features(frames), H, W, ratio)
    m = H * W + (frames - 1) * math.ceil(H / ratio) * math.ceil(W / ratio)
    assert tokens.shape == (B, frames, m, D)


def test_the_papers_count_where_the_ratio_divides_the_map():
    """Eq. 10: (n - 1 + r^2) / r^2 * l tokens for n frames of l tokens."""
    frames, side = 8, 16
    z = torch.zeros(1, frames, side * side, 1)
    for ratio in (2, 4):
        m = fine_coarse_tokens(z, side, side, ratio).shape[2]
        assert m * ratio**2 == (frames - 1 + ratio**2) * side * side


@pytest.mark.parametrize("ratio", [1, 2, 3, 4, 8])
def test_fine_coarse_attention_is_dense_attention_over_those_tokens(layer, ratio):
    z = features()
    read = attend_over(layer, z, fine_coarse_tokens(z, H, W, ratio))
    for b in range(B):
        for f in range(F):
            others = [windows_by_hand(z[b, j], H, W, ratio) for j in range(F) if j != f]
            expected = dense(layer, z[b, f], torch.cat([z[b, f], *others]))
            torch.testing.assert_close(read[b, f], expected, rtol=1e-12, atol=1e-12)


def test_ratio_one_is_full_attention(layer):
    z = features()
    one = attend_over(layer, z, fine_coarse_tokens(z, H, W, 1))
    full = attend_over(layer, z, space_time_tokens(z))
    torch.testing.assert_close(one, full, rtol=1e-12, atol=1e-12)


def test_one_frame_is_the_image_models_attention(layer):
    z = features(1)
    expected = layer(z[:, 0])
    contexts = sparse_causal_tokens(z), space_time_tokens(z), fine_coarse_tokens(z, H, W, 2)
    for context in contexts:
        read = attend_over(layer, z, context)[:, 0]
        torch.testing.assert_close(read, expected, rtol=1e-12, atol=1e-12)


def test_frames_that_read_themselves_alone_are_the_layer_itself(layer):
    z = features()
    expected = layer(rearrange(z, "b f n d -> (b f) n d"))
    assert torch.equal(attend_over(layer, z, frame_tokens(z)).flatten(0, 1), expected)


def test_full_attention_reads_the_whole_clip(layer):
    z = features()
    read = attend_over(layer, z, space_time_tokens(z))
    for f in range(F):
        expected = dense(layer, z[1, f], z[1].flatten(0, 1))
        torch.testing.assert_close(read[1, f], expected, rtol=1e-12, atol=1e-12)


def test_sparse_causal_tokens_are_the_first_frames_and_the_last_ones(layer):
    z = features()
    tokens = sparse_causal_tokens(z)
    assert tokens.shape == (B, F, 2 * H * W, D)
    for f in range(F):
        assert torch.equal(tokens[:, f], torch.cat([z[:, 0], z[:, max(f - 1, 0)]], dim=1))
    read = attend_over(layer, z, tokens)
    torch.testing.assert_close(read[0, 3], dense(layer, z[0, 3], tokens[0, 3]))


def test_clips_do_not_see_each_other(layer):
    z = features()
    other = z.clone()
    other[1] += 1
    for tokens in (sparse_causal_tokens, space_time_tokens, frame_tokens):
        read = [attend_over(layer, each, tokens(each))[0] for each in (z, other)]
        assert torch.equal(*read)
    assert torch.equal(fine_coarse_tokens(z, H, W, 2)[0], fine_coarse_tokens(other, H, W, 2)[0])


def test_gradients_reach_every_frame():
    z = features(3, 3, 2).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: fine_coarse_tokens(z, 3, 2, 2), z)


def test_a_ratio_beyond_the_map_gives_one_token_per_frame_and_says_so_once(caplog):
    ffam._log_fallback.cache_clear()
    with caplog.at_level(logging.WARNING):
        tokens = fine_coarse_tokens(features(), H, W, 8)
        fine_coarse_tokens(features(), H, W, 8)
        fine_coarse_tokens(features(), H, W, 7)
    z = features()
    torch.testing.assert_close(tokens[:, 0, H * W :], z[:, 1:].mean(dim=2))
    assert [record.message for record in caplog.records] == [
        "The ratio 8 exceeds a layer's map of 7 x 3 tokens: there, every other frame is one "
        "coarse token."
    ]


@pytest.mark.parametrize(
    ("height", "width", "ratio", "message"),
    [(4, 5, 2, "21 tokens are no map of 4 x 5"), (7, 3, 0, "ratio is 0; it must be 1")],
)
def test_wrong_maps_and_ratios_are_named(height, width, ratio, message):
    with pytest.raises(ValueError, match=message):
        fine_coarse_tokens(features(), height, width, ratio)
