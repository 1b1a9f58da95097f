"""Training, two steps at a time: it resumes exactly, and its exports load as real models do."""

import json
import math

import pytest
import torch
from diffusers import DDIMScheduler
from rescore.shapeworld.finished import WEIGHTS
from rescore.shapeworld.models import (
    ANIMATEDIFF_SCHEDULE,
    SCHEDULE,
    build_image_unet,
    build_motion_adapter,
    build_text_encoder,
    build_vae,
)
from rescore.shapeworld.render import render
from rescore.shapeworld.scene import caption, fits, sample_scene
from rescore.shapeworld.tokenizer import load_tokenizer
from rescore.shapeworld.train import diffusion
from rescore.shapeworld.train.__main__ import make_parser, train
from rescore.shapeworld.train.captions import Captions, WordReader
from rescore.shapeworld.train.data import (
    Pool,
    Source,
    demanding_scene,
    draw_clips,
    draw_stills,
    encode_pools,
    first_lesson,
    load_pools,
    second_lesson,
)
from rescore.shapeworld.train.loop import Recipe, fit
from rescore.shapeworld.train.optimisers import Muon
from rescore.shapeworld.train.velocity import FAINT, velocity_loss
from torch import nn


def small_recipe(steps: int = 7) -> Recipe:
    torch.manual_seed(3)
    model = nn.Linear(5, 3)

    def loss(generator: torch.Generator) -> torch.Tensor:
        x = torch.randn(11, 5, generator=generator)
        return (model(x) - x[:, :3]).square().mean()

    return Recipe("small", model, loss, steps, learning_rate=0.05, warmup=2, averaging=0.9)


def test_a_stopped_and_resumed_training_equals_one_that_ran_through(tmp_path):
    whole = small_recipe()
    curve = fit(whole, tmp_path / "whole", checkpoint_every=2)

    class Stopped(Exception):
        pass

    stopped, calls = small_recipe(), 0

    def loss_until_stopped(generator):
        nonlocal calls
        calls += 1
        if calls == 6:
            raise Stopped
        return small.loss(generator)

    small = stopped
    with pytest.raises(Stopped):
        fit(
            Recipe("small", stopped.trained, loss_until_stopped, 7, 0.05, warmup=2, averaging=0.9),
            tmp_path / "parts",
            checkpoint_every=2,
        )
    resumed = small_recipe()
    assert fit(resumed, tmp_path / "parts", checkpoint_every=2) == curve
    assert torch.equal(resumed.trained.weight, whole.trained.weight)


def test_with_muon_it_resumes_as_exactly(tmp_path):
    def recipe(steps: int) -> Recipe:
        torch.manual_seed(5)
        network = nn.Sequential(nn.Conv2d(3, 5, 3), nn.GroupNorm(1, 5), nn.Conv2d(5, 2, 3))

        def loss(generator: torch.Generator) -> torch.Tensor:
            return network(torch.randn(7, 3, 11, 13, generator=generator)).square().mean()

        # `settles=False`: the rate must not depend on where the first run is to stop.
        return Recipe("muon", network, loss, steps, 0.05, 2, settles=False, optimiser=Muon)

    whole = recipe(7)
    curve = fit(whole, tmp_path / "whole", checkpoint_every=2)
    fit(recipe(4), tmp_path / "parts", checkpoint_every=2)
    resumed = recipe(7)
    assert fit(resumed, tmp_path / "parts", checkpoint_every=2) == curve
    for one, other in zip(resumed.trained.parameters(), whole.trained.parameters(), strict=True):
        assert torch.equal(one, other)


def test_muon_steps_along_all_directions_of_a_kernel_alike_and_leaves_the_rest_to_adamw():
    """The first step is orthogonal, of AdamW's usual size; norms, biases and ends are AdamW's."""
    torch.manual_seed(7)
    layers = {
        "conv_in": nn.Conv2d(3, 5, 3),
        "inner": nn.Conv2d(5, 7, 3),
        "norm": nn.GroupNorm(1, 7),
    }
    network = nn.ModuleDict(layers)
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    optimiser = Muon(network, 1e-3)
    for parameter in network.parameters():
        parameter.grad = torch.randn_like(parameter)
    network["inner"].weight.grad *= torch.logspace(-1, 1, 7).view(7, 1, 1, 1)
    optimiser.step()
    step = {name: p.detach() - before[name] for name, p in network.named_parameters()}
    singular = torch.linalg.svdvals(step["inner.weight"].flatten(1))
    # The five Newton-Schulz steps of the method bring singular values to about 0.7 to 1.2.
    assert (singular / (1e-3 * 0.2 * 45**0.5)).tolist() == pytest.approx([0.95] * 7, abs=0.3)
    for name in step.keys() - {"inner.weight"}:
        torch.testing.assert_close(
            step[name].abs(), torch.full_like(step[name], 1e-3), rtol=2e-2, atol=0
        )


def test_a_loss_that_is_not_finite_stops_the_training(tmp_path):
    model = nn.Linear(2, 2)
    recipe = Recipe("broken", model, lambda g: model.weight.sum() * float("nan"), 3, 0.1)
    with pytest.raises(FloatingPointError, match="broken: the loss is nan at step 0"):
        fit(recipe, tmp_path)
    assert not (tmp_path / "checkpoint.pt").exists()


def test_the_reading_loss_is_the_cross_entropy_of_the_words_after_the_end():
    """By hand: a text that points along its word's row with length 5, of n rows at right angles."""
    end, width = 7, 11
    reader = WordReader(width)
    for head in reader.heads.values():
        torch.nn.init.eye_(head.weight)
        head.weight.data *= 3  # the length of the rows does not count
    captions = ["a small red circle moving right on a plain background", "a red circle"]
    # red, circle, right and plain come first in their lists; the second caption lacks the others.
    tokens = torch.tensor([[1, 2, end, end, end], [3, end, end, end, end]])
    text = torch.full((2, 5, width), 100.0)  # before the end nothing is read
    text[tokens == end] = 5 * torch.eye(width)[0]

    def cross_entropy(at: int, rows: int) -> float:
        return math.log(math.exp(5) + rows - 1) - (5 if at == 0 else 0)

    expected = 0.0
    for words, first, second in zip(
        reader.attributes.values(), (0, 0, 0, 0, 0), (0, 0, 6, 4, 3), strict=True
    ):
        rows = len(words) + 1
        expected += (3 * cross_entropy(first, rows) + 4 * cross_entropy(second, rows)) / 7
    loss = reader(tokens, text, captions, end)
    torch.testing.assert_close(loss.item(), expected / 5, rtol=1e-5, atol=1e-6)


def diffusers_velocity(schedule: dict, z_t: torch.Tensor, latents: torch.Tensor, t: torch.Tensor):
    """What diffusers calls the velocity of `z_t`, of which `latents` are the part without noise."""
    scheduler = DDIMScheduler.from_config(schedule)
    a_t = scheduler.alphas_cumprod[t].view(-1, *[1] * (latents.ndim - 1))
    noise = (z_t - a_t.sqrt() * latents) / (1 - a_t).sqrt()
    return scheduler.get_velocity(latents, noise, t)


@pytest.mark.parametrize("schedule", [SCHEDULE, ANIMATEDIFF_SCHEDULE])
def test_the_velocity_is_that_of_diffusers(schedule):
    latents = torch.randn(97, 3, 2, generator=torch.Generator().manual_seed(1))

    def loss(error: float) -> float:
        return velocity_loss(
            lambda z_t, t: diffusers_velocity(schedule, z_t, latents, t) + error,
            latents, schedule, torch.Generator().manual_seed(2),
        ).item()  # fmt: skip

    assert loss(0.0) < 1e-9
    assert loss(0.5) == pytest.approx(0.25, rel=1e-4)


@pytest.mark.parametrize("faint", [FAINT, 2 / 5])
def test_much_noise_is_met_most_and_a_share_of_it_is_noise_alone(faint):
    latents = torch.full((4099, 97), 3.0)
    met = {}

    def predict(z_t, t):
        a_t = DDIMScheduler.from_config(SCHEDULE).alphas_cumprod[t]
        met.update(t=t, signal=z_t.mean(1) / (3 * a_t.sqrt()), a_t=a_t)
        return torch.zeros_like(z_t)

    velocity_loss(predict, latents, SCHEDULE, torch.Generator().manual_seed(3), faint)
    t, signal = met["t"], met["signal"]
    assert 0 <= t.min() < 100 and 990 < t.max() <= 999
    # Most with a density that grows with t, the faint among the last 150.
    expected = (1 - faint) * (1 - 0.85**2) + faint
    assert (t >= 850).float().mean().item() == pytest.approx(expected, abs=0.03)
    # The mean of 97 values tells whole from dimmed signal where much of it is left.
    assert signal[t < 600].min() > 0.5
    late = signal[t > 860]
    late_faint = faint * 139 / 150
    share_dimmed = 0.8 * late_faint / ((1 - faint) * (1 - 0.86**2) + late_faint)
    mean = 1 - share_dimmed + share_dimmed * 0.125  # half of the dimmed keep up to a half
    assert late.mean().item() == pytest.approx(mean, abs=0.06)


def test_training_scenes_have_more_of_what_is_hard_than_the_world():
    scenes = [demanding_scene(seed, frames=3) for seed in range(1_000_003, 1_001_003)]
    assert all(fits(scene) for scene in scenes)
    seconds = sum(scene.second is not None for scene in scenes)
    circling = sum(scene.motion == "circling" for scene in scenes)
    checkers = sum(scene.background.pattern == "checker" for scene in scenes)
    assert seconds == pytest.approx(400, abs=45)
    assert circling == pytest.approx(1000 * (1 / 5 + 4 / 5 / 6), abs=45)
    assert checkers == pytest.approx(1000 * (0.13 + 0.87 / 4), abs=45)


def test_a_batch_holds_clips_of_one_length_with_their_captions():
    marks = torch.arange(26.0).view(-1, 1, 1, 1, 1)
    pool = Pool(marks.expand(-1, 4, 3, 2, 2), [str(n) for n in range(26)], [""] * 26)
    long = Pool(marks.expand(-1, 4, 6, 2, 2) + 100, [str(n + 100) for n in range(26)], [""] * 26)
    dropped = lengths = 0
    for seed in range(300):
        latents, texts = draw_clips({3: pool, 6: long}, torch.Generator().manual_seed(seed))
        lengths += latents.shape[2] == 6
        assert len(latents) == len(texts) == (4 if latents.shape[2] == 6 else 8)
        for number, text in zip(latents[:, 0, 0, 0, 0].int().tolist(), texts, strict=True):
            assert text in ("", str(number))
            dropped += text == ""
    assert lengths == pytest.approx(75, abs=25)
    assert dropped == pytest.approx(0.1 * (225 * 8 + 75 * 4), abs=35)


def test_in_the_first_lesson_little_but_the_motion_varies_and_in_the_second_the_object_too():
    for seed in range(101, 118):
        usual = sample_scene(seed, frames=7, second=False)
        first, second = first_lesson(seed, frames=7), second_lesson(seed, frames=7)
        for scene in (first, second):
            assert (scene.motion, scene.travel) == (usual.motion, usual.travel)
            assert (scene.x, scene.y) == (32, 32) and scene.second is None
            ground = render(scene).clip[~render(scene).mask]
            assert (ground - 0.5).abs().median() == 0
        assert (first.shape, first.colour, first.size) == ("circle", "red", "large")
        assert (second.shape, second.colour, second.size) == (
            usual.shape, usual.colour, usual.size,
        )  # fmt: skip


def test_no_seed_serves_two_lengths_and_a_file_of_other_clips_is_refused(tmp_path):
    source = Source(demanding_scene, {3: 2, 5: 3}, first_seed=1_000_003)
    seeds = range(1_000_003, 1_000_008)
    frames = [3, 3, 5, 5, 5]
    scenes = [demanding_scene(s, frames=f) for s, f in zip(seeds, frames, strict=True)]
    assert source.scenes(3) + source.scenes(5) == scenes
    encode_pools(build_vae(), tmp_path / "pools.safetensors", source)
    pools = load_pools(tmp_path / "pools.safetensors", 2.0, source)
    assert pools[5].latents.shape == (3, 4, 5, 16, 16)
    assert pools[3].captions == [caption(scene) for scene in source.scenes(3)]
    with pytest.raises(
        ValueError, match=r"clips as \{3: 2, 5: 3\}.*\{3: 7, 5: 7\} are asked for: del"
    ):
        load_pools(tmp_path / "pools.safetensors", 2.0, source.of(7))


def test_a_still_whose_caption_names_the_motion_is_from_near_the_end():
    frames = torch.arange(8.0).view(1, 1, 8, 1, 1).expand(3, 4, 8, 2, 2)
    pools = {8: Pool(frames, ["moving"] * 3, ["still"] * 3)}
    latents, texts = draw_stills(pools, torch.Generator().manual_seed(1), 1009)
    shown = latents[:, 0, 0, 0]
    named = torch.tensor([text == "moving" for text in texts])
    assert set(shown[named].tolist()) == {6, 7}
    assert set(shown[~named].tolist()) == set(range(8))
    shares = [texts.count(text) / 1009 for text in ("", "moving", "still")]
    assert shares == pytest.approx([0.1, 0.45, 0.45], abs=0.05)


def test_a_motion_adapter_over_an_image_model_shares_its_parameters():
    image = build_image_unet()
    moving = diffusion.over(image, build_motion_adapter())
    z, text = torch.randn(1, 4, 3, 16, 16), torch.randn(3, 7, image.config.cross_attention_dim)
    with torch.no_grad():
        before = moving(z, 5, text).sample
        image.conv_out.bias += 1
        torch.testing.assert_close(moving(z, 5, text).sample, before + 1)
    assert {id(p) for p in image.parameters()} < {id(p) for p in moving.parameters()}


def test_stills_are_of_all_kinds_even_in_a_lesson():
    """In lessons without any clip of the usual pool, only stills can come from there."""
    image = build_image_unet()
    usual, lesson = (
        {8: Pool(torch.full((5, 4, 8, 16, 16), value), ["moving"] * 5, ["still"] * 5)}
        for value in (3.0, -3.0)
    )

    tokenizer = load_tokenizer(WEIGHTS / "shapeworld-sd" / "tokenizer")
    captions = Captions(tokenizer, build_text_encoder(len(tokenizer)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(diffusion, "LESSONS", ((1, 0.0),))
        first, _ = diffusion.moving_image_recipes(image, captions, usual, lesson, steps=1)
    seen = []

    def noted(predict, latents, *rest) -> torch.Tensor:
        seen.append((latents.ndim, latents.mean().item()))
        return torch.zeros(())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(diffusion, "velocity_loss", noted)
        first.loss(torch.Generator().manual_seed(1))
    assert seen == [(4, 3.0), (5, -3.0)]


@pytest.mark.slow
def test_two_steps_of_every_model_and_its_export(tmp_path):
    """The whole chain of commands; what comes out has the layout of the models it stands for."""
    for name in ("vae", "shapeworld-sd", "shapeworld-t2v", "shapeworld-animatediff"):
        options = ["--runs", str(tmp_path / "runs"), "--weights", str(tmp_path / "weights")]
        arguments = make_parser().parse_args([name, *options, "--steps", "2", "--clips", "5"])
        train(arguments)

    from diffusers import MotionAdapter, UNet2DConditionModel, UNet3DConditionModel

    weights = tmp_path / "weights"

    def steps(name: str) -> list[int]:
        curve = json.loads((weights / f"shapeworld-{name}" / "loss_curve.json").read_text())
        return [step for points in curve.values() for step, _ in points]

    every = {"sd": [2, 4, 6, 8], "t2v": [2, 4, 6], "animatediff": [2]}
    assert {name: steps(name) for name in every} == every
    for name, cls in (("sd", UNet2DConditionModel), ("t2v", UNet3DConditionModel)):
        folder = weights / f"shapeworld-{name}"
        index = json.loads((folder / "model_index.json").read_text())
        assert index["unet"] == ["diffusers", cls.__name__]
        assert type(cls.from_pretrained(folder / "unet")) is cls
    adapter = MotionAdapter.from_pretrained(weights / "shapeworld-animatediff")
    trained = torch.load(
        tmp_path / "runs" / "shapeworld-animatediff" / "checkpoint.pt", weights_only=True
    )
    name = "down_blocks.0.motion_modules.0.proj_in.weight"
    assert adapter.state_dict()[name].shape == trained["trained"][name].shape

    again = ["--runs", str(tmp_path / "again"), "--weights", str(weights), "--further", "1"]
    for name in every:
        train(make_parser().parse_args([f"shapeworld-{name}", *again, "--clips", "5"]))
        assert steps(name) == [*every[name], every[name][-1] + 1]


def test_only_the_tiny_wan_is_trained_elsewhere_than_on_the_cpu(tmp_path):
    given = ["shapeworld-sd", "--device", "cuda", "--runs", str(tmp_path / "runs")]
    with pytest.raises(SystemExit, match=r"shapeworld-sd is trained on the CPU alone, not on cuda"):
        train(make_parser().parse_args(given))
    assert not (tmp_path / "runs").exists()
