"""Clips through a real autoencoder in chunks, at any size."""

import pytest
import torch
from rescore.pipelines.models.codec import decode_video, encode_video


@pytest.fixture(scope="module")
def codec():
    """Encode and decode frames of a tiny real AutoencoderKL with 4 pixels per latent pixel."""
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    vae = AutoencoderKL(
        block_out_channels=(4, 4, 4), norm_num_groups=2, latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
    ).eval()  # fmt: skip

    class Codec:
        largest = 0

        def encode(self, pixels):
            self.largest = max(self.largest, len(pixels))
            posterior = vae.encode(pixels).latent_dist
            return posterior.mean, posterior.std

        def decode(self, latents):
            self.largest = max(self.largest, len(latents))
            return vae.decode(latents).sample

    return Codec()


def clip(frames=7, height=13, width=18):
    return torch.rand(1, 3, frames, height, width, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("chunk", [1, 3, 100])
@pytest.mark.parametrize("sample", [False, True], ids=["mean", "sample"])
def test_chunks_do_not_change_the_result(codec, chunk, sample):
    def encode(frames_per_chunk):
        generator = torch.Generator().manual_seed(2) if sample else None
        return encode_video(
            clip(), codec.encode, 4, frames_per_chunk=frames_per_chunk, generator=generator
        )

    torch.testing.assert_close(encode(chunk), encode(7), rtol=0, atol=1e-5)
    whole = decode_video(encode(7), codec.decode, frames_per_chunk=7)
    torch.testing.assert_close(
        decode_video(encode(7), codec.decode, frames_per_chunk=chunk), whole, rtol=0, atol=1e-5
    )


def test_no_more_frames_at_once_than_allowed(codec):
    codec.largest = 0
    decode_video(encode_video(clip(11), codec.encode, 4, frames_per_chunk=3), codec.decode,
                 frames_per_chunk=3)  # fmt: skip
    assert codec.largest == 3


@pytest.mark.parametrize(("height", "width"), [(13, 18), (16, 20), (1, 1), (17, 3)])
def test_any_size_comes_back(codec, height, width):
    source = clip(2, height, width)
    latents = encode_video(source, codec.encode, 4)
    assert latents.shape[-2:] == (-(-height // 4), -(-width // 4))
    assert decode_video(latents, codec.decode, size=(height, width)).shape == source.shape


def test_whole_sizes_are_not_padded(codec):
    source = clip(3, 16, 20)
    mean, _ = codec.encode(source[0].transpose(0, 1) * 2 - 1)
    latents = encode_video(source, codec.encode, 4)
    torch.testing.assert_close(latents[0].transpose(0, 1), mean, rtol=0, atol=1e-5)


def test_a_sample_spreads_around_the_mean(codec):
    mean, other = (
        encode_video(clip(), codec.encode, 4, generator=g)
        for g in (None, torch.Generator().manual_seed(3))
    )
    _, std = codec.encode(torch.nn.functional.pad(clip()[0].transpose(0, 1) * 2 - 1,
                                                  (0, 2, 0, 3), mode="replicate"))  # fmt: skip
    spread = ((other - mean) / std.transpose(0, 1)).std()
    assert 0.9 < spread < 1.1


def test_decoding_clamps_and_needs_no_graph(codec):
    pixels = decode_video(100 * torch.randn(1, 4, 2, 3, 5, requires_grad=True), codec.decode)
    assert pixels.min() >= 0 and pixels.max() <= 1
    assert not pixels.requires_grad


def test_progress_counts_frames(codec):
    seen = []
    encode_video(clip(7), codec.encode, 4, frames_per_chunk=3,
                 on_chunk=lambda *done: seen.append(done))  # fmt: skip
    assert seen == [(3, 7), (6, 7), (7, 7)]


def test_mistakes_are_told(codec):
    with pytest.raises(ValueError, match="no frames"):
        encode_video(clip(0), codec.encode, 4)
    broken = clip(9)
    broken[0, 0, 4, 2, 2] = float("nan")
    with pytest.raises(ValueError, match="frames 3 to 5"):
        encode_video(broken, codec.encode, 4, frames_per_chunk=3)
    with pytest.raises(ValueError, match="less than the 99 x 8"):
        decode_video(torch.zeros(1, 4, 1, 2, 2), codec.decode, size=(8, 99))
    with pytest.raises(FloatingPointError, match="bfloat16"):
        decode_video(torch.full((1, 4, 1, 2, 2), float("inf")), codec.decode)
    with pytest.raises(ValueError, match="no frames"):
        decode_video(torch.zeros(1, 4, 0, 2, 2), codec.decode)
