"""One-shot tuning: what learns, what stays, and that a stopped run loses nothing."""

import copy
import logging
import math
import threading
from dataclasses import replace

import pytest
import torch
from rescore.attention.linear import SpectralLinear
from rescore.pipelines.models.process import VariancePreserving, noised
from rescore.pipelines.models.unet.inflation import VARIANTS, VideoUNet, inflate
from rescore.pipelines.tuning import one_shot_tuning
from rescore.pipelines.tuning.one_shot_tuning import (
    Diverged,
    Settings,
    State,
    trained_summary,
    tune,
)
from tiny_models import SCHEDULE as SCHEDULE_CONFIG
from tiny_models import TEXT_WIDTH, tiny_unet
from torch import Tensor, nn

F, H, W, L = 3, 5, 6, 3
SCHEDULE = VariancePreserving.from_config(SCHEDULE_CONFIG)
FAST = Settings(steps=5, learning_rate=1e-3, seed=5)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


CLIP = draw(1, 4, F, H, W)
COND = draw(1, L, TEXT_WIDTH, seed=1)


@pytest.fixture
def image() -> nn.Module:
    return tiny_unet("2D").requires_grad_(False)


@pytest.fixture
def model(image) -> VideoUNet:
    return inflate(image, "ei2")


def run(model: nn.Module, settings: Settings = FAST, **options) -> State:
    return tune(model, CLIP, COND, SCHEDULE, settings, **options)


def assert_equal(one: State, two: State) -> None:
    """Equal bit for bit, all that is in them."""
    assert one.losses == two.losses
    assert one.tuning == two.tuning
    assert torch.equal(one.random, two.random)
    assert one.weights.keys() == two.weights.keys()
    assert all(torch.equal(tensor, two.weights[name]) for name, tensor in one.weights.items())
    moments, others = one.optimiser["state"], two.optimiser["state"]
    assert moments.keys() == others.keys()
    for index, entry in moments.items():
        assert all(torch.equal(tensor, others[index][name]) for name, tensor in entry.items())


def test_a_clip_is_learned(model):
    state = run(model, replace(FAST, steps=40, learning_rate=1e-2))
    tuned = model.with_tuned(state.weights, state.tuning)

    def loss(model):
        with torch.no_grad():
            total = 0.0
            for t in range(50, 1000, 200):
                noise = draw(*CLIP.shape, seed=t)
                z_t = noised(CLIP, noise, SCHEDULE.level(t))
                total += float((model(z_t, t, COND) - noise).square().mean())
        return total

    assert loss(tuned) < 0.97 * loss(model)
    assert len(state.losses) == state.step == 40


def test_a_tuned_model_has_exact_spectral_norms(model):
    """Fast learning outruns the one power iteration of a step."""
    state = run(model, replace(FAST, steps=5, learning_rate=0.1))

    def norms(tuned: VideoUNet) -> list[float]:
        layers = [m for m in tuned.modules() if isinstance(m, SpectralLinear)]
        return [torch.linalg.matrix_norm(layer.map, 2).item() for layer in layers]

    followed, exact = norms(model.restored(state.weights)), norms(model.with_tuned(state.weights))
    assert max(followed) > 1.001
    assert exact == pytest.approx([1.0] * len(exact), abs=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_only_the_named_weights_receive_gradients_and_change(image, variant):
    model = inflate(image, variant)
    before = copy.deepcopy(model.state_dict())
    last = []
    state = run(model, replace(FAST, steps=3), on_step=lambda p: last.append(p.model))
    trained = last[-1]
    named = trained.trainable()
    for name, parameter in trained.named_parameters():
        assert parameter.requires_grad == (name in named)
        assert (parameter.grad is not None) == (name in named)
        assert torch.equal(parameter, before[name]) == (name not in named), name
    assert state.weights.keys() == trained.tuned_state().keys()


def test_the_model_passed_in_and_its_image_model_stay_as_they_are(image, model):
    before, image_before = copy.deepcopy(model.state_dict()), copy.deepcopy(image.state_dict())
    run(model)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(torch.equal(image_before[n], tensor) for n, tensor in image.state_dict().items())
    assert not any(p.requires_grad for p in model.parameters())
    assert not any(getattr(m, "gradient_checkpointing", False) for m in model.modules())


def test_tuning_twice_is_the_same(model):
    assert_equal(run(model), run(model))


def test_a_seed_is_a_run_and_leaves_the_global_state_alone(model):
    state = torch.get_rng_state()
    assert run(model).losses != run(model, replace(FAST, seed=6)).losses
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("variant", ["ei2", "tune-a-video"])
@pytest.mark.parametrize("stop", [0, 1, 3, 5])
def test_a_run_resumes_bit_for_bit(image, variant, stop):
    model = inflate(image, variant)
    part = run(model, replace(FAST, steps=stop))
    assert_equal(run(model, state=part), run(model))


def test_a_resumed_run_leaves_its_state_alone(model):
    part = run(model, replace(FAST, steps=3))
    before = copy.deepcopy(part)
    run(model, state=part)
    assert_equal(part, before)


def test_a_cancelled_run_keeps_what_was_learned(model):
    class Cancel(Exception):
        pass

    seen = []

    def on_step(progress):
        seen.append(progress)
        if progress.step == 2:
            raise Cancel

    with pytest.raises(Cancel):
        run(model, on_step=on_step)
    kept = seen[-1].state()
    assert kept.step == 2
    assert_equal(kept, run(model, replace(FAST, steps=2)))
    assert_equal(run(model, state=kept), run(model))


@pytest.mark.parametrize("at", ["forward", "backward", "move"])
def test_a_run_that_an_error_ends_goes_on_bit_for_bit(model, monkeypatch, at):
    """In the third step: when its level and noise are drawn, or some weights have moved."""
    places = {
        "forward": (one_shot_tuning._Run, "loss"),
        "backward": (nn.utils, "clip_grad_norm_"),
        "move": (torch.optim.AdamW, "step"),
    }
    seen, calls, (owner, name) = [], [], places[at]
    original = getattr(owner, name)

    def fail(*args, **options):
        result = original(*args, **options)
        calls.append(1)
        if len(calls) == 3:
            raise RuntimeError("out of memory")
        return result

    with monkeypatch.context() as patched, pytest.raises(RuntimeError, match="out of memory"):
        patched.setattr(owner, name, fail)
        run(model, on_step=seen.append)
    kept = seen[-1].state()
    assert kept.step == (0 if at == "move" else 2)  # of weights in motion the last copy is kept
    assert_equal(run(model, state=kept), run(model))


def test_progress_counts_the_steps(model):
    seen = []
    state = run(model, on_step=seen.append)
    assert [p.step for p in seen] == [1, 2, 3, 4, 5]
    assert {p.steps for p in seen} == {5}
    assert tuple(p.loss for p in seen) == state.losses


def test_no_steps_change_nothing(model):
    state = run(model, replace(FAST, steps=0))
    before = model.tuned_state()
    assert state.losses == ()
    assert all(torch.equal(before[name], tensor) for name, tensor in state.weights.items())


def test_checkpointing_learns_the_same(model):
    plain, lean = run(model), run(model, replace(FAST, checkpointing=True))
    assert lean.losses == pytest.approx(plain.losses, rel=1e-4)


def test_the_first_step_by_hand(image):
    """AdamW's first step moves each weight by the learning rate along its gradient's sign."""
    model = inflate(image, "tune-a-video")
    settings = Settings(steps=1, learning_rate=1e-3, weight_decay=0.0, clip_norm=1e9, seed=5)
    generator = torch.Generator().manual_seed(5)
    t = int(torch.randint(1000, (), generator=generator))
    noise = torch.randn(CLIP.shape, generator=generator)
    twin = model.fork()
    parameters = twin.trainable()
    for parameter in parameters.values():
        parameter.requires_grad_(True)
    loss = (twin(noised(CLIP, noise, SCHEDULE.level(t)), t, COND) - noise).square().mean()
    gradients = dict(
        zip(parameters, torch.autograd.grad(loss, list(parameters.values())), strict=True)
    )
    state = run(model, settings)
    assert state.losses == pytest.approx((loss.item(),), rel=1e-6)
    for name, gradient in gradients.items():
        step = gradient / (gradient.abs() + 1e-8)
        expected = parameters[name].detach() - 1e-3 * step
        torch.testing.assert_close(state.weights[name], expected, rtol=1e-5, atol=1e-7)


def test_a_model_that_predicts_v_learns_v(image):
    model = inflate(image, "tune-a-video")
    state = tune(model, CLIP, COND, SCHEDULE, replace(FAST, steps=1), predicts="v")
    generator = torch.Generator().manual_seed(5)
    t = int(torch.randint(1000, (), generator=generator))
    noise = torch.randn(CLIP.shape, generator=generator)
    a = SCHEDULE.alphas_bar[t].item()
    v = math.sqrt(a) * noise - math.sqrt(1 - a) * CLIP
    with torch.no_grad():
        expected = (model(noised(CLIP, noise, SCHEDULE.level(t)), t, COND) - v).square().mean()
    assert state.losses == pytest.approx((float(expected),), rel=1e-5)


def test_gradients_are_clipped(model, monkeypatch):
    seen = []
    clip = nn.utils.clip_grad_norm_

    def watched(parameters, limit):
        norm = clip(parameters, limit)
        total = math.sqrt(sum(float(p.grad.square().sum()) for p in parameters))
        seen.append((float(norm), total, limit))
        return norm

    monkeypatch.setattr(nn.utils, "clip_grad_norm_", watched)
    run(model, replace(FAST, clip_norm=1e-3))
    assert len(seen) == 5
    for before, after, limit in seen:
        assert before > limit
        assert after == pytest.approx(limit, rel=1e-3)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_autocast_trains_float32_weights(model, precision):
    state = run(model, replace(FAST, precision=precision))
    assert {tensor.dtype for tensor in state.weights.values()} == {torch.float32}
    assert state.losses == pytest.approx(run(model).losses, rel=0.05)
    assert bool(state.scaler) == (precision == "fp16")
    resumed = run(
        model,
        replace(FAST, precision=precision),
        state=run(model, replace(FAST, precision=precision, steps=2)),
    )
    assert_equal(resumed, state)


def test_a_model_of_half_precision_is_tuned(image):
    model = inflate(image.bfloat16(), "ei2")
    state = run(model)
    assert {tensor.dtype for tensor in state.weights.values()} == {torch.float32}
    assert all(math.isfinite(loss) for loss in state.losses)


def test_half_precisions_that_a_processor_cannot_mix_are_told(image):
    """The layers that are not cast keep their weights in float16, and get bfloat16."""
    loaded = inflate(copy.deepcopy(image).half())
    with pytest.raises(ValueError, match=r"loaded in float16 .* as loaded"):
        run(loaded, replace(FAST, precision="bf16"))


def test_a_clip_of_one_frame_is_learned_and_said_to_have_no_motion(model, caplog):
    with caplog.at_level(logging.WARNING):
        state = tune(model, CLIP[:, :, :1], COND, SCHEDULE, FAST)
    assert all(math.isfinite(loss) for loss in state.losses)
    assert all(torch.isfinite(tensor).all() for tensor in state.weights.values())
    assert "no motion to learn" in caplog.text


def test_what_is_trained_is_told_with_counts(model, caplog):
    with caplog.at_level(logging.INFO):
        run(model, replace(FAST, steps=0))
    trained = sum(p.numel() for p in model.trainable().values())
    everything = sum(p.numel() for p in model.parameters())
    assert f"Trained are {trained:,} of {everything:,} weights" in trained_summary(model)
    assert trained_summary(model) in caplog.text


@pytest.mark.parametrize("variant", ["ei2", "tune-a-video"])
def test_a_learning_rate_that_diverges_stops_with_step_and_advice(image, variant):
    model = inflate(image, variant)
    settings = Settings(steps=50, learning_rate=1e37, seed=5)
    with pytest.raises(Diverged, match=r"not finite at step \d+ of 50.*Lower the learning") as told:
        run(model, settings)
    kept = told.value.state
    assert f"up to step {kept.step} is kept" in str(told.value)
    assert all(torch.isfinite(tensor).all() for tensor in kept.weights.values())
    prediction = model.with_tuned(kept.weights)(CLIP, 500, COND)
    assert torch.isfinite(prediction).all()


def test_the_last_good_state_is_one_of_a_run_that_went_well(model, monkeypatch):
    """Weights that turn bad after step 9, seen at step 10: the copy of step 8 is what is kept."""
    monkeypatch.setattr(one_shot_tuning, "_STEPS_PER_COPY", 4)

    def poison(progress):
        if progress.step == 9:
            with torch.no_grad():
                next(iter(progress.model.trainable().values())).fill_(float("nan"))

    with pytest.raises(Diverged, match="loss is not finite at step 10 of 20") as told:
        run(model, replace(FAST, steps=20), on_step=poison)
    assert told.value.state.step == 8
    assert_equal(told.value.state, run(model, replace(FAST, steps=8)))


def test_a_gradient_that_is_not_finite_changes_nothing(model, monkeypatch):
    monkeypatch.setattr(nn.utils, "clip_grad_norm_", lambda *_: torch.tensor(float("inf")))
    with pytest.raises(Diverged, match="gradient is not finite at step 1") as told:
        run(model)
    assert_equal(told.value.state, run(model, replace(FAST, steps=0)))


@pytest.mark.parametrize("checkpointing", [False, True])
def test_out_of_memory_gives_advice(model, monkeypatch, checkpointing):
    def starve(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    def on_step(progress):
        if progress.step == 2:
            monkeypatch.setattr(VideoUNet, "forward", starve)

    message = r"Memory ran out at step 3 of tuning on 3 frames of 6 x 5 latents"
    with pytest.raises(MemoryError, match=message) as told:
        run(model, replace(FAST, checkpointing=checkpointing), on_step=on_step)
    assert "fewer frames or smaller ones" in str(told.value)
    assert ("checkpointing" in str(told.value)) != checkpointing


@pytest.mark.parametrize("what", ["image model", "nothing trainable"])
def test_nothing_to_train_is_told(image, model, monkeypatch, what):
    if what == "nothing trainable":
        monkeypatch.setattr(VideoUNet, "trainable", lambda _: {})
    with pytest.raises(ValueError, match=r"has nothing to train.*Inflate Image Model"):
        run(image if what == "image model" else model)


def test_a_clip_that_is_not_finite_is_told(model):
    with pytest.raises(ValueError, match="NaN or infinite"):
        tune(model, CLIP / 0, COND, SCHEDULE, FAST)


def test_a_state_of_another_model_clip_or_length_is_told(image, model):
    state = run(model, replace(FAST, steps=3))
    with pytest.raises(ValueError, match="another variant or base"):
        run(inflate(image, "tune-a-video"), state=state)
    with pytest.raises(ValueError, match="3 frames of 6 x 5 latents and the clip has 2 of 6 x 5"):
        tune(model, CLIP[:, :, :2], COND, SCHEDULE, FAST, state=state)
    with pytest.raises(ValueError, match=r"made 3 steps, which is more than steps \(2\)"):
        run(model, replace(FAST, steps=2), state=state)
    with pytest.raises(ValueError, match="another clip of the same size"):
        tune(model, CLIP + 1e-6, COND, SCHEDULE, FAST, state=state)
    with pytest.raises(ValueError, match='the prompt "" and the source prompt is now "a dog"'):
        run(model, state=state, prompt="a dog")
    with pytest.raises(ValueError, match="another model of the same layout"):
        run(inflate(tiny_unet("2D", seed=1), "ei2"), state=state)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": -1}, "steps is -1"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0"),
        ({"learning_rate": math.nan}, "learning_rate is nan"),
        ({"clip_norm": -1.0}, "clip_norm is -1.0"),
        ({"weight_decay": -1.0}, "weight_decay is -1.0"),
        ({"precision": "fp8"}, "precision is 'fp8'; choose as loaded"),
    ],
)
def test_settings_out_of_range_are_told(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(FAST, **changes)


def test_two_runs_at_once_from_one_loaded_model(image):
    variants = ("ei2", "tune-a-video")
    alone = [run(inflate(image, variant)) for variant in variants]
    together: dict[str, State] = {}

    def work(variant):
        together[variant] = run(inflate(image, variant))

    threads = [threading.Thread(target=work, args=(variant,)) for variant in variants]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for variant, expected in zip(variants, alone, strict=True):
        assert_equal(together[variant], expected)


def test_tuning_on_a_device(device, image):
    model = inflate(image, "ei2").to(device)
    for settings in (FAST, replace(FAST, precision="bf16", checkpointing=True)):
        state = tune(model, CLIP.to(device), COND.to(device), SCHEDULE, settings)
        assert all(tensor.device.type == "cpu" for tensor in state.weights.values())
        assert state.losses == pytest.approx(run(inflate(image, "ei2")).losses, rel=0.05)
