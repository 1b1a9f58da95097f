"""Training, two steps at a time: it resumes exactly, and its exports load as real models do."""

import json
import math
from collections import Counter

import pytest
import torch
from diffusers import DDIMScheduler
from rescore.shapeworld.models import (
    ANIMATEDIFF_SCHEDULE,
    SCHEDULE,
    WEIGHTS,
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
    draw_clips,
    draw_stills,
    encode_pools,
    first_lesson,
    load_pools,
    second_lesson,
    siblings,
)
from rescore.shapeworld.train.loop import Recipe, fit
from rescore.shapeworld.train.velocity import velocity_loss
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


def test_much_noise_is_met_most_and_a_sixth_of_it_is_noise_alone():
    latents = torch.full((4099, 97), 3.0)
    met = {}

    def predict(z_t, t):
        a_t = DDIMScheduler.from_config(SCHEDULE).alphas_cumprod[t]
        met.update(t=t, signal=z_t.mean(1) / (3 * a_t.sqrt()), a_t=a_t)
        return torch.zeros_like(z_t)

    velocity_loss(predict, latents, SCHEDULE, torch.Generator().manual_seed(3))
    t, signal = met["t"], met["signal"]
    assert 0 <= t.min() < 100 and 990 < t.max() <= 999
    # Three in five with a density that grows with t, two in five among the last 150.
    expected = 3 / 5 * (1 - 0.85**2) + 2 / 5
    assert (t >= 850).float().mean().item() == pytest.approx(expected, abs=0.03)
    # The mean of 97 values tells whole from dimmed signal where much of it is left.
    assert signal[t < 600].min() > 0.5
    late = signal[t > 860]
    share_dimmed = (2 / 5 * 0.8 * 139 / 150) / (3 / 5 * (1 - 0.86**2) + 2 / 5 * 139 / 150)
    mean = 1 - share_dimmed + share_dimmed * 0.125  # half of the dimmed keep up to a half
    assert late.mean().item() == pytest.approx(mean, abs=0.06)


def test_siblings_meet_the_same_noise_at_the_same_time():
    latents = torch.randn(23, 1, 5, generator=torch.Generator().manual_seed(1)).repeat(1, 2, 1)
    met = {}

    def predict(z_t, t):
        met.update(z_t=z_t, t=t)
        return torch.zeros_like(z_t)

    generator = torch.Generator().manual_seed(2)
    velocity_loss(predict, latents.flatten(0, 1), SCHEDULE, generator, paired=True)
    assert torch.equal(met["z_t"][::2], met["z_t"][1::2])
    assert torch.equal(met["t"][::2], met["t"][1::2])
    assert met["t"][::2].unique().numel() > 13


@pytest.mark.parametrize(("sibling", "weight"), [(1.0, 0.25), (-1.0, 4.0)])
def test_of_noise_alone_what_tells_siblings_apart_counts_more_than_what_they_share(sibling, weight):
    latents = torch.randn(200, 7, generator=torch.Generator().manual_seed(1))
    signs = torch.tensor([1.0, sibling]).repeat(100)[:, None]

    def loss(faint: float) -> float:
        return velocity_loss(
            lambda z_t, t: diffusers_velocity(SCHEDULE, z_t, latents, t) + 0.5 * signs,
            latents, SCHEDULE, torch.Generator().manual_seed(2), faint, paired=True,
        ).item()  # fmt: skip

    # Two in five of the faint pairs, of a hundred 16 and 36, are seen from noise alone.
    assert loss(0.4) == pytest.approx(0.25 * (0.84 + 0.16 * weight), rel=1e-3)
    assert loss(0.9) == pytest.approx(0.25 * (0.64 + 0.36 * weight), rel=1e-3)


def test_one_attribute_tells_siblings_apart():
    told_apart = Counter()
    seconds = circling = 0
    for seed in range(1_000_003, 1_001_003):
        one, other = siblings(seed, frames=3)
        assert fits(one) and fits(other)
        told = {
            "motion": one.motion != other.motion,
            "background": one.background != other.background,
            "objects": one.second is not None
            and (one.shape, one.colour) == (other.second.shape, other.second.colour)
            and (other.shape, other.colour) == (one.second.shape, one.second.colour),
        }
        assert list(told.values()).count(True) == 1
        told_apart[next(name for name, differs in told.items() if differs)] += 1
        assert caption(one) != caption(other)
        assert one.background.palette == other.background.palette
        assert one.size == other.size
        if not told["objects"]:
            assert (one.shape, one.colour) == (other.shape, other.colour)
        if not told["motion"]:
            assert (one.x, one.y, one.travel, one.phase) == (
                other.x, other.y, other.travel, other.phase,
            )  # fmt: skip
        seconds += one.second is not None
        circling += one.motion == "circling"
    assert seconds == pytest.approx(400, abs=45)
    assert circling == pytest.approx(1000 * (1 / 5 + 4 / 5 / 6), abs=45)
    expected = {"objects": 120, "background": 250, "motion": 630}
    assert dict(told_apart) == {name: pytest.approx(n, abs=45) for name, n in expected.items()}


def test_a_batch_of_clips_holds_siblings_side_by_side_with_their_captions():
    marks = torch.arange(26.0).view(-1, 1, 1, 1, 1)
    pool = Pool(marks.expand(-1, 4, 3, 2, 2), [str(n) for n in range(26)], [""] * 26)
    long = Pool(marks.expand(-1, 4, 6, 2, 2) + 100, [str(n + 100) for n in range(26)], [""] * 26)
    dropped = lengths = 0
    for seed in range(300):
        latents, texts = draw_clips({3: pool, 6: long}, torch.Generator().manual_seed(seed))
        lengths += latents.shape[2] == 6
        assert len(latents) == len(texts) == (4 if latents.shape[2] == 6 else 8)
        numbers = latents[:, 0, 0, 0, 0].int().tolist()
        for one, other in zip(range(0, len(texts), 2), range(1, len(texts), 2), strict=True):
            assert numbers[one] % 2 == 0 and numbers[other] == numbers[one] + 1
            if texts[one] == "":
                assert texts[other] == ""
                dropped += 1
            else:
                assert texts[one:other + 1] == [str(numbers[one]), str(numbers[other])]  # fmt: skip
    assert lengths == pytest.approx(75, abs=25)
    assert dropped == pytest.approx(0.1 * (225 * 4 + 75 * 2), abs=35)


def test_in_the_first_lesson_little_but_the_motion_varies_and_in_the_second_the_object_too():
    for seed in range(101, 118):
        usual = sample_scene(seed, frames=7, second=False)
        first, second = first_lesson(seed, frames=7), second_lesson(seed, frames=7)
        for one, other in (first, second):
            assert (one.motion, one.travel) == (usual.motion, usual.travel)
            assert one.motion != other.motion
            for scene in (one, other):
                assert (scene.x, scene.y) == (32, 32) and scene.second is None
                ground = render(scene).clip[~render(scene).mask]
                assert (ground - 0.5).abs().median() == 0
        for scene in first:
            assert (scene.shape, scene.colour, scene.size) == ("circle", "red", "large")
        for scene in second:
            assert (scene.shape, scene.colour, scene.size) == (
                usual.shape, usual.colour, usual.size,
            )  # fmt: skip


def test_no_seed_serves_two_lengths_and_a_file_of_other_clips_is_refused(tmp_path):
    source = Source(siblings, {3: 2, 5: 3}, first_seed=1_000_003)
    seeds = range(1_000_003, 1_000_008)
    frames = [3, 3, 5, 5, 5]
    pairs = [siblings(s, frames=f) for s, f in zip(seeds, frames, strict=True)]
    assert source.scenes(3) + source.scenes(5) == [scene for pair in pairs for scene in pair]
    encode_pools(build_vae(), tmp_path / "pools.safetensors", source)
    pools = load_pools(tmp_path / "pools.safetensors", 2.0, source)
    assert pools[5].latents.shape == (6, 4, 5, 16, 16)
    assert pools[3].captions == [caption(scene) for scene in source.scenes(3)]
    with pytest.raises(
        ValueError, match=r"pairs as \{3: 2, 5: 3\}.*\{3: 7, 5: 7\} are asked for: del"
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

    def noted(predict, latents, *rest, **options) -> torch.Tensor:
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
        arguments = make_parser().parse_args([name, *options, "--steps", "2", "--pairs", "5"])
        train(**vars(arguments))

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
        train(**vars(make_parser().parse_args([f"shapeworld-{name}", *again, "--pairs", "5"])))
        assert steps(name) == [*every[name], every[name][-1] + 1]
