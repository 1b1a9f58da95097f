"""Training the tiny Wan: pictures, the autoencoder, flow matching, and the names it ships under."""

import json

import pytest
import torch
from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler, WanTransformer3DModel
from diffusers.loaders.single_file_utils import (
    convert_wan_transformer_to_diffusers,
    convert_wan_vae_to_diffusers,
)
from einops import rearrange
from rescore.shapeworld import wan
from rescore.shapeworld.render import render
from rescore.shapeworld.scene import caption
from rescore.shapeworld.train import whole_clip
from rescore.shapeworld.train.__main__ import make_parser, train
from rescore.shapeworld.train.captions import shipped_captions
from rescore.shapeworld.train.data import Source, demanding_scene
from rescore.shapeworld.train.native import save_single_file, transformer_name, vae_name
from rescore.shapeworld.train.optimisers import Muon
from rescore.shapeworld.train.rendering import render_rows, scene_rows
from rescore.shapeworld.train.wan_transformer import (
    Lessons,
    Told,
    flow_loss,
    make_lessons,
    transformer_recipe,
)
from rescore.shapeworld.train.wan_vae import (
    long_recipe,
    means,
    rendered,
    settle,
    vae_loss,
    vae_recipes,
)
from torch import nn


def small_vae() -> AutoencoderKLWan:
    """Weights of a size at which every layer shows, no channel like another."""
    torch.manual_seed(11)
    vae = wan.build_vae().eval()
    for parameter in vae.parameters():
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    return vae


@pytest.mark.parametrize("workers", [0, 1])
def test_many_clips_at_once_are_the_clips_of_the_renderer(workers):
    source = Source(demanding_scene, {3: 31}, first_seed=1_000_003)
    rows, captions = scene_rows(source, 3, workers=workers)
    scenes = source.scenes(3)
    assert captions == [caption(scene) for scene in scenes]
    assert len({s.shape for s in scenes}) == len({s.background.pattern for s in scenes}) == 4
    assert sum(s.second is not None for s in scenes) > 3
    expected = torch.stack([render(scene).clip for scene in scenes])
    clips = rearrange(render_rows(rows), "b c f h w -> b f h w c")
    torch.testing.assert_close(clips, expected.double(), rtol=0, atol=1e-6)
    faint = rearrange(render_rows(rows.float()), "b c f h w -> b f h w c") - expected
    assert (faint.abs() > 1e-5).float().mean() < 1e-4


def test_long_clips_are_played_there_and_back_and_lengths_take_turns():
    """A decoder that says nothing errs by the pixels themselves; its scenes have 29 frames."""
    vae = small_vae()
    nn.init.zeros_(vae.decoder.conv_out.weight)
    nn.init.zeros_(vae.decoder.conv_out.bias)
    clips = torch.randint(256, (1, 3, 29, 1, 1), generator=torch.Generator().manual_seed(19))
    clips = clips.byte().expand(-1, -1, -1, 8, 8)
    recipe = long_recipe(vae, clips)
    assert recipe.trained is vae.decoder
    truth = clips.float() / 127.5 - 1
    back = truth.flip(2)
    played = torch.cat([truth, back[:, :, 1:], truth[:, :, 1:], back[:, :, 1:]], dim=2)
    for step, frames in enumerate((57, 17, 9, 113, 17, 9, 57)):
        loss = recipe.loss(torch.Generator().manual_seed(step))
        shown = played[:, :, :frames]
        expected = shown.abs().mean() + 4 * shown.square().mean()
        torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("frames", [1, 5, 13])
def test_a_whole_clip_at_once_gives_what_diffusers_gives_in_pieces(frames):
    vae = small_vae()
    generator = torch.Generator().manual_seed(frames)
    clip = torch.rand(2, 3, frames, 24, 40, generator=generator) * 2 - 1
    z = torch.randn(2, 16, (frames + 3) // 4, 3, 5, generator=generator)
    with torch.no_grad():
        expected = vae.encode(clip).latent_dist.parameters
        torch.testing.assert_close(whole_clip.encode(vae, clip), expected, rtol=1e-4, atol=1e-4)
        decoded = whole_clip.decode(vae, z)
        assert decoded.std() > 0.1
        expected = vae.decode(z).sample
    torch.testing.assert_close(decoded.clamp(-1, 1), expected, rtol=1e-4, atol=1e-4)


def test_settled_latents_have_the_wanted_statistics_and_pictures_stay():
    vae = small_vae()
    clips = torch.rand(7, 3, 5, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        before = whole_clip.decode(vae, means(vae, clips))
    settle(vae, means(vae, clips))
    z = means(vae, clips)
    deviation, middle = torch.std_mean(z, dim=(0, 2, 3, 4))
    torch.testing.assert_close(middle.tolist(), vae.config.latents_mean, rtol=0, atol=1e-3)
    torch.testing.assert_close(deviation.tolist(), vae.config.latents_std, rtol=1e-3, atol=0)
    with torch.no_grad():
        torch.testing.assert_close(whole_clip.decode(vae, z), before, rtol=1e-3, atol=1e-4)
        spread = vae.encode(clips * 2 - 1).latent_dist.std
    assert (spread == spread[:1, :, :1, :1, :1]).all()


def test_the_autoencoders_loss_is_the_errors_and_the_unevenness_of_the_channels():
    """By hand, with an autoencoder that says nothing: every channel has one value."""
    vae = small_vae()
    nn.init.zeros_(vae.decoder.conv_out.weight)
    nn.init.zeros_(vae.decoder.conv_out.bias)
    pixels = torch.randint(256, (3, 3, 1, 16, 16), generator=torch.Generator().manual_seed(2))
    pixels = pixels.byte()
    loss = vae_loss(vae, pixels, torch.Generator().manual_seed(3))
    truth = pixels.float() / 127.5 - 1
    deviation, middle = torch.std_mean(means(vae, truth / 2 + 0.5), dim=(0, 2, 3, 4))
    uneven = (deviation.log() ** 2 + middle**2).mean()
    expected = truth.abs().mean() + 4 * truth.square().mean() + 0.05 * uneven
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)


def told(count: int = 1009) -> Told:
    generator = torch.Generator().manual_seed(4)
    latents = torch.randn(count, 16, 2, 2, 2, generator=generator).half()
    return Told(latents, 1 + torch.arange(count))


def test_the_velocity_leads_from_the_clip_to_the_noise_on_diffusers_clock():
    """A transformer that knows the clip by its text divides by sigma: then no error is left."""
    pool, met = told(), {}
    table = torch.zeros(1010, 24, 64)
    table[:, 0, 0] = torch.arange(1010)

    def knowing(z_t, t, text, return_dict):
        sigma = (t / 1000).view(-1, 1, 1, 1, 1)
        rows = text[:, 0, 0].long()
        met.update(t=t, rows=rows)
        velocity = (z_t - pool.latents[rows - 1].float()) / sigma
        velocity[rows == 0] = 0
        return (velocity,)

    loss = flow_loss(knowing, pool, table, torch.Generator().manual_seed(5))
    nothing = (met["rows"] == 0).float().mean().item()
    assert nothing == pytest.approx(0.1, abs=0.04)
    # What nothing was said of is met with 0: there the error is the square of noise - z_0, 2.
    assert loss.item() == pytest.approx(2 * nothing, rel=0.05)
    scheduler = FlowMatchEulerDiscreteScheduler.from_config(wan.SCHEDULE)
    count = len(met["t"])
    middles = [(place + 0.5) / count for place in range(count)]  # of the parts of an even clock
    scheduler.set_timesteps(sigmas=middles[::-1])
    torch.testing.assert_close(met["t"], scheduler.timesteps.flip(0), rtol=0, atol=5)


def test_sampling_is_eulers_method_on_diffusers_clock_with_guidance():
    """Against diffusers' scheduler, with a transformer that answers by its text alone."""

    def model(z, t, text, return_dict):
        share = (t / 1000).view(-1, 1, 1, 1, 1)
        return (0.3 * z * share + text[:, :1, :1, None, None],)

    generator = torch.Generator().manual_seed(6)
    text, nothing = (torch.randn(n, 7, 3, generator=generator) for n in (5, 1))
    noise = torch.randn(5, 2, 3, 2, 2, generator=generator)
    z = wan.sample(model, text, nothing, noise, steps=11, cfg=3.0)
    scheduler = FlowMatchEulerDiscreteScheduler.from_config(wan.SCHEDULE)
    sigmas = torch.linspace(1, 1 / 11, 11).tolist()
    scheduler.set_timesteps(sigmas=sigmas)
    expected = noise
    for t in scheduler.timesteps:
        one, other = (model(expected, t[None], said, False)[0] for said in (nothing, text))
        expected = scheduler.step(one + 3.0 * (other - one), t, expected).prev_sample
    torch.testing.assert_close(z, expected, rtol=1e-4, atol=1e-5)


def test_lengths_take_turns_the_shortest_every_second_step():
    pools = {frames: told(frames) for frames in (9, 13, 17)}
    recipe = transformer_recipe(Lessons(pools, torch.zeros(20, 24, 64)), steps=1)
    met = []

    def noted(count: int) -> torch.Tensor:
        met.append(count)
        return torch.zeros(())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "rescore.shapeworld.train.wan_transformer.flow_loss",
            lambda model, pool, table, generator: noted(len(pool.texts)),
        )
        for step in range(8):
            recipe.loss(torch.Generator().manual_seed(step))
    assert met == [9, 17, 9, 13] * 2


def test_lessons_hold_what_the_clips_show_and_the_first_text_says_nothing():
    captions, vae = shipped_captions(), wan.load_vae()
    source = Source(demanding_scene, {5: 3, 9: 2}, first_seed=1_000_003)
    lessons = make_lessons(vae, captions, source)
    for frames in (5, 9):
        scenes, pool = source.scenes(frames), lessons.pools[frames]
        clips = torch.stack([rearrange(render(s).clip, "f h w c -> c f h w") for s in scenes])
        with torch.no_grad():
            z = wan.standard(vae, vae.encode(clips * 2 - 1).latent_dist.mean)
            texts = captions([caption(scene) for scene in scenes])
            nothing = captions([""])
        torch.testing.assert_close(pool.latents.float(), z, rtol=0, atol=0.02)
        torch.testing.assert_close(lessons.table[pool.texts].float(), texts, rtol=0, atol=0.01)
    torch.testing.assert_close(lessons.table[:1].float(), nothing, rtol=0, atol=0.01)


def test_muon_steps_as_pytorchs_does():
    if not hasattr(torch.optim, "Muon"):
        pytest.skip("this PyTorch has no Muon")
    torch.manual_seed(13)
    network = nn.ModuleList([nn.Linear(*shape) for shape in ((7, 5), (5, 7), (7, 5))])
    matrices = [layer.weight for layer in network]
    other = [nn.Parameter(p.detach().clone()) for p in matrices]
    ours = Muon(network, 0.02)
    theirs = torch.optim.Muon(other, lr=0.02, weight_decay=0.01, adjust_lr_fn="match_rms_adamw")
    for _ in range(3):
        for mine, their in zip(matrices, other, strict=True):
            mine.grad = torch.randn_like(mine)
            their.grad = mine.grad.clone()
        ours.step()
        theirs.step()
    for mine, their in zip(matrices, other, strict=True):
        torch.testing.assert_close(mine, their, rtol=1e-2, atol=2e-3)


def test_muon_leaves_a_wans_ends_tables_and_norms_to_adamw():
    transformer, vae = wan.build_transformer(), wan.build_vae()
    inner = {id(p) for p in Muon(transformer, 0.1)._inner}
    named = {name for name, p in transformer.named_parameters() if id(p) in inner}
    assert {name.split(".")[0] for name in named} == {"blocks"}
    assert not any("norm" in name or "table" in name for name in named)
    assert len(named) == 12 * 10  # eight projections of attention and two of the feed-forward
    inner = {id(p) for p in Muon(vae, 0.1)._inner}
    assert not any("gamma" in name for name, p in vae.named_parameters() if id(p) in inner)


def test_native_names_are_those_that_diffusers_reads_back():
    transformer, vae = wan.build_transformer().state_dict(), wan.build_vae().state_dict()
    native = {transformer_name(name): w for name, w in transformer.items()}
    assert len(native) == len(transformer)
    back = convert_wan_transformer_to_diffusers(dict(native))
    assert back.keys() == transformer.keys()
    assert all(back[name] is transformer[name] for name in back)
    native = {vae_name(name): w for name, w in vae.items()}
    assert len(native) == len(vae)
    back = convert_wan_vae_to_diffusers(dict(native))
    assert back.keys() == vae.keys()
    assert all(back[name] is vae[name] for name in back)


def test_a_saved_model_is_read_back_whole(tmp_path):
    torch.manual_seed(17)
    transformer, vae = wan.build_transformer(), small_vae()
    save_single_file(transformer, tmp_path / wan.TRANSFORMER)
    save_single_file(vae, tmp_path / wan.VAE)
    for model, loaded in (
        (transformer, wan.load_transformer(tmp_path)),
        (vae, wan.load_vae(tmp_path)),
    ):
        assert type(loaded) in (WanTransformer3DModel, AutoencoderKLWan)
        weights = loaded.state_dict()
        for name, weight in model.state_dict().items():
            assert torch.equal(weights[name], weight.half().float()), name


def test_the_two_stages_train_one_autoencoder_on_pictures_then_on_both_lengths():
    clips = {5: torch.zeros(3, 3, 5, 64, 64).byte(), 9: torch.zeros(2, 3, 9, 64, 64).byte()}
    met = []

    def noted(vae, pixels, generator) -> torch.Tensor:
        met.append((vae, tuple(pixels.shape)))
        return torch.zeros(())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rescore.shapeworld.train.wan_vae.vae_loss", noted)
        stills, moving = vae_recipes(clips, steps=1)
        stills.loss(torch.Generator().manual_seed(0))
        for step in range(3):
            moving.loss(torch.Generator().manual_seed(step))
    assert stills.trained is moving.trained and {id(vae) for vae, _ in met} == {id(stills.trained)}
    assert [shape for _, shape in met] == [
        (3, 3, 1, 64, 64), (3, 3, 5, 64, 64), (2, 3, 9, 64, 64), (3, 3, 5, 64, 64),
    ]  # fmt: skip


def test_rendered_clips_are_the_nearest_of_256_steps():
    rows, _ = scene_rows(Source(demanding_scene, {5: 3}, first_seed=1_000_003), 5)
    clips = rendered(rows)
    assert clips.dtype == torch.uint8
    torch.testing.assert_close(
        clips / 255, render_rows(rows.float()), rtol=0, atol=0.5 / 255 + 1e-6
    )


@pytest.mark.slow
def test_two_steps_of_the_autoencoder_and_the_transformer_and_their_files(tmp_path):
    options = ["--runs", str(tmp_path / "runs"), "--weights", str(tmp_path / "weights")]
    for name in ("wan-vae", "shapeworld-wan"):
        arguments = make_parser().parse_args([name, *options, "--steps", "2", "--clips", "3"])
        train(arguments)
    folder = tmp_path / "weights" / "shapeworld-wan"
    curve = json.loads((folder / "loss_curve.json").read_text())
    assert {name: [step for step, _ in points] for name, points in curve.items()} == {
        "wan-vae-stills": [2], "wan-vae": [4], "wan-vae-long": [6], "shapeworld-wan": [8],
    }  # fmt: skip
    trained = torch.load(tmp_path / "runs" / "shapeworld-wan" / "checkpoint.pt", weights_only=True)
    loaded = wan.load_transformer(folder).state_dict()
    assert trained["trained"].keys() == loaded.keys()
    assert wan.load_vae(folder).config.base_dim == 8
    options[1] = str(tmp_path / "other")
    arguments = ["shapeworld-wan", *options, "--further", "1", "--clips", "3"]
    train(make_parser().parse_args(arguments))
    curve = json.loads((folder / "loss_curve.json").read_text())
    assert [step for step, _ in curve["shapeworld-wan"]] == [8, 9]
    before = wan.load_vae(folder).state_dict()
    arguments = ["wan-vae", *options, "--further", "1", "--clips", "3"]
    train(make_parser().parse_args(arguments))
    curve = json.loads((folder / "loss_curve.json").read_text())
    assert [step for step, _ in curve["wan-vae-long"]] == [6, 10]
    after = wan.load_vae(folder).state_dict()
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"decoder"}
