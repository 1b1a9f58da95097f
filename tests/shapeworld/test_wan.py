"""The tiny Wan that ships: its files, its autoencoder, and what it makes of prompts."""

import torch
from einops import rearrange
from rescore.shapeworld import wan
from rescore.shapeworld.edits import prompts
from rescore.shapeworld.oracle import read
from rescore.shapeworld.render import render
from rescore.shapeworld.scene import caption
from rescore.shapeworld.score import psnr
from rescore.shapeworld.train.captions import shipped_captions
from safetensors import safe_open


def clips_of(scenes) -> torch.Tensor:
    return rearrange(torch.stack([render(s).clip for s in scenes]), "b f h w c -> b c f h w")


def frames_of(clips: torch.Tensor) -> torch.Tensor:
    return rearrange(clips / 2 + 0.5, "b c f h w -> b f h w c")


def test_the_whole_model_has_at_most_8_megabytes_and_3_to_6_million_weights():
    files = [file for file in wan.FOLDER.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= 8_000_000
    weights = sum(p.numel() for p in wan.load_transformer().parameters())
    assert 3_000_000 <= weights <= 6_000_000


def test_the_files_have_the_names_that_hosts_look_for():
    """One head for 128 channels, no text width in the weights: the metadata tells that."""
    with safe_open(wan.FOLDER / wan.TRANSFORMER, "pt") as file:
        assert {"head.modulation", "blocks.11.ffn.0.weight"} <= set(file.keys())
        assert file.metadata()["config"] == '{"transformer": {"text_dim": 64}}'
    with safe_open(wan.FOLDER / wan.VAE, "pt") as file:
        assert {"decoder.middle.0.residual.0.gamma", "encoder.conv1.weight"} <= set(file.keys())


def test_clips_come_back_from_the_autoencoder_with_30_decibels():
    """Through diffusers' own encode and decode; 9 frames are 3 latents, 17 are 5."""
    vae = wan.load_vae()
    for frames, latent in ((9, 3), (17, 5)):
        clips = clips_of(prompts(6, frames=frames))
        with torch.no_grad():
            z = vae.encode(clips * 2 - 1).latent_dist.mean
            decoded = frames_of(vae.decode(z).sample)
        assert z.shape == (6, 16, latent, 8, 8)
        everywhere = torch.ones(frames, 64, 64, dtype=torch.bool)
        values = [
            psnr(clip, render(scene).clip, everywhere)
            for clip, scene in zip(decoded, prompts(6, frames=frames), strict=True)
        ]
        assert min(values) > 32 and sum(values) / 6 > 36


def test_long_clips_come_back_to_their_last_frame():
    """A scene has 29 frames; played there, back and there again it has 85."""
    vae, everywhere = wan.load_vae(), torch.ones(29, 64, 64, dtype=torch.bool)
    clips = clips_of(prompts(3, frames=29))
    there_and_back = torch.cat([clips, clips.flip(2)[:, :, 1:], clips[:, :, 1:]], dim=2)
    with torch.no_grad():
        z = vae.encode(there_and_back * 2 - 1).latent_dist.mean
        decoded = frames_of(vae.decode(z).sample)
    for clip, scene in zip(decoded, prompts(3, frames=29), strict=True):
        truth = render(scene).clip
        assert psnr(clip[:29], truth, everywhere) > 32
        assert psnr(clip[-29:], truth, everywhere) > 25


def test_latents_have_the_statistics_that_a_host_takes_for_granted():
    vae = wan.load_vae()
    with torch.no_grad():
        latents = vae.encode(clips_of(prompts(24, frames=9)) * 2 - 1).latent_dist
    z = wan.standard(vae, latents.mean)
    deviation, middle = torch.std_mean(z, dim=(0, 2, 3, 4))
    torch.testing.assert_close(middle, torch.zeros(16), rtol=0, atol=0.25)
    torch.testing.assert_close(deviation, torch.ones(16), rtol=0.2, atol=0)
    torch.testing.assert_close(wan.own(vae, z), latents.mean)
    # The posterior has one deviation, a tenth of that of the latents.
    spread = latents.std / torch.tensor(vae.config.latents_std).view(-1, 1, 1, 1)
    torch.testing.assert_close(spread, torch.full_like(spread, 0.1), rtol=0.1, atol=0)


def test_prompts_are_read_off_the_clips_made_from_them():
    vae, transformer, captions = wan.load_vae(), wan.load_transformer(), shipped_captions()
    scenes = prompts(5, frames=9)
    with torch.no_grad():
        text, nothing = captions([caption(s) for s in scenes]), captions([""])
        noise = torch.randn(5, 16, 3, 8, 8, generator=torch.Generator().manual_seed(0))
        z = wan.sample(transformer, text, nothing, noise, steps=16)
        clips = frames_of(vae.decode(wan.own(vae, z)).sample)
    for clip, scene in zip(clips, scenes, strict=True):
        seen = read(clip)
        assert (seen.colour, seen.shape, seen.motion, seen.background) == (
            scene.colour, scene.shape, scene.motion, scene.background.pattern,
        )  # fmt: skip


def test_an_incomplete_pack_is_told(tmp_path):
    import pytest

    with pytest.raises(FileNotFoundError, match=r"shapeworld_wan\.safetensors is missing.*again"):
        wan.load_transformer(tmp_path)
