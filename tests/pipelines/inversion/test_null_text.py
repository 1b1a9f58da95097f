"""Null-text optimisation in a world known in closed form, and guidance on a real video model."""

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from einops import rearrange
from gaussian_world import SPREAD, exact_eps, prompt
from rescore.attention.unet.sites import attention_sites
from rescore.benchmarks.memory import peak_memory
from rescore.pipelines.inversion.ddim_inversion import ddim_invert
from rescore.pipelines.inversion.decoupled_guidance import GuidanceSettings
from rescore.pipelines.inversion.drift import Drift, DriftGuidance
from rescore.pipelines.inversion.null_text import NullTextSettings, optimise_null_text
from rescore.pipelines.inversion.trajectory import Trajectory
from rescore.pipelines.models.denoiser import Denoiser, guided
from rescore.pipelines.models.process import VariancePreserving, move
from rescore.pipelines.windows import Windows, windowed
from tiny_animatediff import TEXT_WIDTH, denoiser, unet
from torch.nn import functional

SCHEDULE = VariancePreserving.from_config(
    {"beta_schedule": "linear", "beta_start": 0.00085, "beta_end": 0.012}
)
SOURCE, NEGATIVE, FRAMES = 0.4, 0.3, 3
# How strongly each frame takes up the unconditional embedding: only one per frame can fit all.
GAINS = torch.tensor([0.8, 1.0, 1.25], dtype=torch.float64)


class Frames:
    """Every frame is Gaussian; its mean is the prompt's, times the frame's gain if per frame."""

    def __init__(self):
        self.calls = []

    def __call__(self, z, t, cond):
        self.calls.append(torch.is_grad_enabled() and cond.requires_grad)
        if torch.equal(cond, prompt(SOURCE)):
            mean = torch.full((1, 1, FRAMES, 1, 1), SOURCE, dtype=torch.float64)
        else:
            mean = rearrange(cond.view(-1).expand(FRAMES) * GAINS, "f -> 1 1 f 1 1")
        return exact_eps(z, SCHEDULE.level(round(t)), mean)


def world(output=None):
    return Denoiser("frames", SCHEDULE, "epsilon", output or Frames())


def clip():
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(1, 2, FRAMES, 5, 7, generator=generator, dtype=torch.float64)
    return SOURCE + SPREAD * noise


@pytest.fixture(scope="module")
def trajectory():
    return ddim_invert(clip(), partial(world(), cond=prompt(SOURCE)), SCHEDULE.grid(20))


def optimise(trajectory, settings=None, output=None, **options):
    settings = settings or NullTextSettings(cfg=3.0)
    prompts = prompt(SOURCE), prompt(NEGATIVE)
    return optimise_null_text(trajectory, world(output), *prompts, settings, **options)


def error(found):
    return float((found.z - clip()).square().mean())


def test_the_paths_order(trajectory):
    """Nothing optimised, then one embedding for the clip, then one per frame: ever closer."""
    plain = optimise(trajectory, NullTextSettings(3.0, inner_steps=0))
    shared = optimise(trajectory, NullTextSettings(3.0, per_frame=False))
    each = optimise(trajectory)
    assert error(each) < error(shared) / 2 < error(plain) / 4


def test_embeddings_go_where_the_two_predictions_agree(trajectory):
    """Guided and unguided steps are equal where each frame's mean is the source prompt's."""
    settings = NullTextSettings(3.0, inner_steps=200, early_stop=1e-12, early_stop_growth=0.0)
    found = optimise(trajectory, settings, steps=1)
    expected = (SOURCE / GAINS)[:, None, None]
    # Near the noisy end pivots are those of an inexact inversion: so roughly.
    torch.testing.assert_close(found.embeddings[0], expected, atol=0.1, rtol=0)
    assert found.losses[0] < 1e-6


def test_shapes_and_bookkeeping(trajectory):
    found = optimise(trajectory)
    assert found.finished and found.done == found.steps == 20 == len(found.losses)
    assert {e.shape for e in found.embeddings} == {(FRAMES, 1, 1)}
    assert found.at(7)[0].shape == (1, FRAMES, 1, 1)
    assert found.at(7)[1] is None
    shared = optimise(trajectory, NullTextSettings(3.0, per_frame=False), steps=2)
    assert shared.at(1)[0].shape == (1, 1, 1)
    assert not shared.finished
    assert not any(e.requires_grad for e in found.embeddings)


def test_the_conditional_prediction_is_made_once_a_step(trajectory):
    frames = Frames()
    settings = NullTextSettings(3.0, inner_steps=4, early_stop=0.0, early_stop_growth=0.0)
    optimise(trajectory, settings, frames, steps=3)
    assert frames.calls == [False, *[True] * 4, False] * 3


def test_it_stops_early(trajectory):
    """A step that lands close enough at once costs two predictions and moves nothing."""
    frames = Frames()
    found = optimise(trajectory, NullTextSettings(3.0, early_stop=1e9), frames)
    assert len(frames.calls) == 2 * 20
    assert all(torch.equal(e, prompt(NEGATIVE).expand(FRAMES, 1, 1)) for e in found.embeddings)


def test_the_learning_rate_falls(trajectory):
    """Adam's first move is as long as its learning rate: 1e-2 (1 - i / (2 T))."""
    settings = NullTextSettings(3.0, inner_steps=1, early_stop=0.0, early_stop_growth=0.0)
    found = optimise(trajectory, settings)
    start = prompt(NEGATIVE).expand(FRAMES, 1, 1)
    for i, (now, then) in enumerate(
        zip(found.embeddings, (start, *found.embeddings[:-1]), strict=True)
    ):
        moved = (now - then).abs()
        torch.testing.assert_close(
            moved, torch.full_like(moved, 1e-2 * (1 - i / 40)), rtol=1e-3, atol=0
        )


def test_a_run_in_two_parts_is_the_same_bit_for_bit(trajectory):
    whole = optimise(trajectory)
    first = optimise(trajectory, steps=7)
    then = optimise(trajectory, state=first)
    assert first.done == 7
    assert torch.equal(whole.z, then.z)
    assert whole.losses == then.losses
    assert all(map(torch.equal, whole.embeddings, then.embeddings))


def test_a_finished_run_has_nothing_left_to_do(trajectory):
    frames = Frames()
    done = optimise(trajectory)
    assert optimise(trajectory, output=frames, state=done) is done
    assert frames.calls == []


def test_progress_can_be_resumed_from_where_it_was_stopped(trajectory):
    seen = []

    def stop(progress):
        seen.append(progress)
        if progress.step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        optimise(trajectory, on_step=stop)
    assert [(p.step, p.steps) for p in seen] == [(i, 20) for i in range(1, 6)]
    assert seen[-1].psnr == trajectory.psnr(15, seen[-1].loss)
    resumed = optimise(trajectory, state=seen[-1].state)
    assert torch.equal(resumed.z, optimise(trajectory).z)


def test_cfg_1_has_nothing_to_optimise(trajectory):
    found = optimise(trajectory, NullTextSettings(1.0))
    assert all(torch.equal(e, prompt(NEGATIVE).expand(FRAMES, 1, 1)) for e in found.embeddings)


def test_it_takes_what_was_made_in_inference_mode(trajectory):
    with torch.inference_mode():
        inside = replace(trajectory, latents=trajectory.latents.clone())
        prompts = prompt(SOURCE), prompt(NEGATIVE)
    found = optimise_null_text(inside, world(), *prompts, NullTextSettings(3.0), steps=2)
    assert torch.equal(found.z, optimise(trajectory, steps=2).z)


def test_it_runs_where_gradients_are_off(trajectory):
    with torch.no_grad():
        found = optimise(trajectory, steps=2)
    assert torch.equal(found.z, optimise(trajectory, steps=2).z)


def test_a_state_of_something_else_is_refused(trajectory):
    state = optimise(trajectory, steps=2)
    other = replace(trajectory, prompt="another")
    for given, sentence in (
        ({"trajectory": other}, "belong to another trajectory"),
        ({"settings": NullTextSettings(4.0)}, "made for cfg 3, and this is 4"),
        ({"settings": NullTextSettings(3.0, per_frame=False)}, "for a clip of 3 frames"),
    ):
        with pytest.raises(ValueError, match=sentence):
            optimise(**{"trajectory": trajectory, "state": state, **given})


def test_what_it_is_used_with_is_checked(trajectory):
    state = optimise(trajectory, NullTextSettings(3.0, inner_steps=0))
    state.require(trajectory, 3.0)
    with pytest.raises(ValueError, match="another trajectory"):
        state.require(replace(trajectory, model="another"))
    shorter = replace(trajectory, latents=trajectory.latents[:4], levels=trajectory.levels[:4])
    with pytest.raises(ValueError, match="another trajectory, of 20 steps where this one has 3"):
        state.require(shorter)
    for latents, size in (
        (trajectory.latents[:, :, :, :2], "2 frames of 7 x 5"),
        (trajectory.latents.mT, "3 frames of 5 x 7"),
    ):
        with pytest.raises(ValueError, match=f"of 3 frames of 7 x 5 .* where this one has {size}"):
            state.require(replace(trajectory, latents=latents))
    with pytest.raises(ValueError, match=r"for cfg 3, and this is 7\.5"):
        state.require(trajectory, 7.5)
    with pytest.raises(ValueError, match="done 2 of 20 steps"):
        optimise(trajectory, steps=2).require(trajectory)


@pytest.mark.parametrize(
    "wrong",
    [{"cfg": -1.0}, {"inner_steps": -1}, {"learning_rate": 0.0}, {"early_stop": -1.0},
     {"early_stop_growth": math.nan}],
)  # fmt: skip
def test_settings_are_checked(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        NullTextSettings(**wrong)


@pytest.mark.parametrize("kind", [torch.OutOfMemoryError, MemoryError])
def test_without_memory_it_says_what_helps(trajectory, kind):
    def full(z, t, cond):
        if cond.requires_grad:
            raise kind("none left")
        return z

    with pytest.raises(MemoryError, match=r"Switch checkpointing on, use fewer .*, or make"):
        optimise(trajectory, output=full)


def test_a_step_that_is_not_finite_is_told(trajectory):
    def broken(z, t, cond):
        return z / 0 if cond.requires_grad else z

    with pytest.raises(FloatingPointError, match="at step 1: lower cfg"):
        optimise(trajectory, output=broken)


# --- with guidance, on a real video model -------------------------------------------------------

STEPS, WORDS = 3, 7
REAL = denoiser(SCHEDULE)
ENDS = SCHEDULE.level(0), SCHEDULE.level(999)


@pytest.fixture(scope="module")
def real_world():
    generator = torch.Generator().manual_seed(4)
    z = torch.randn(1, 4, FRAMES, 4, 6, generator=generator)
    cond, uncond = torch.randn(2, 1, WORDS, TEXT_WIDTH, generator=generator)
    path = ddim_invert(z, partial(REAL, cond=cond), SCHEDULE.grid(STEPS))
    return path, REAL, cond, uncond


MASK = torch.zeros(1, 16, 24)
MASK[:, 4:9, 3:11] = 1
SETTINGS = NullTextSettings(3.0, inner_steps=0)


def held(mask=MASK, **options):
    return DriftGuidance(GuidanceSettings(**options), mask)


def test_guidance_is_the_gradient_of_its_four_parts(real_world):
    """One pass for all gives what four passes give together, and the first step has no drift."""
    parts = ("temporal_foreground", "temporal_background", "keys_foreground", "keys_background")
    weights = dict(zip(parts, (0.5, 0.4, 0.2, 0.3), strict=True))
    whole = optimise_null_text(*real_world, SETTINGS, guidance=held(**weights), steps=2)
    assert torch.equal(whole.guidance[0], torch.zeros_like(whole.z))
    total = torch.zeros_like(whole.z)
    for part in parts:
        alone = held(**{other: 0.0 for other in parts} | {part: weights[part]})
        found = optimise_null_text(*real_world, SETTINGS, guidance=alone, steps=2)
        assert float(found.guidance[1].abs().max()) > 0
        total += found.guidance[1]
    torch.testing.assert_close(whole.guidance[1], total, rtol=1e-3, atol=1e-6)


def test_guidance_is_that_of_the_authors_code(real_world):
    """Told again from what layers project, with its weights per block, through the whole graph."""
    path, model, cond, _ = real_world
    level = path.levels[-2]
    z = (path.latents[-2] + 0.1 * torch.randn_like(path.latents[-2])).requires_grad_()
    coefficients = {"foreground": (0.5, 0.2), "background": (0.4, 0.3)}

    def projected(z) -> dict[str, torch.Tensor]:
        seen, hooks = {}, []
        for site in attention_sites(unet()):
            if site.name.startswith(("up_blocks.1", "up_blocks.2")):
                for part in ("to_q", "to_k"):
                    hook = partial(lambda key, _, __, out: seen.__setitem__(key, out), (site, part))
                    layer = unet().get_submodule(f"{site.name}.{part}")
                    hooks.append(layer.register_forward_hook(hook))
        model.output(z, level.t, cond)
        for hook in hooks:
            hook.remove()
        return seen

    def maps(seen, site) -> torch.Tensor:
        heads = unet().get_submodule(site.name).heads
        q, k = (
            rearrange(seen[site, part], "p f (h d) -> p h f d", h=heads)
            for part in ("to_q", "to_k")
        )
        return (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1)

    with torch.no_grad():
        reference = projected(path.latents[-2])
    current = projected(z)
    total = 0.0
    for kind, place in (("temporal", 0), ("spatial", 1)):
        sites = {site for site, _ in current if site.kind == kind}
        for site in sites:
            weight = {"up_blocks.1": 20000, "up_blocks.2": 10000}[site.name[: len("up_blocks.1")]]
            tokens = len(current[site, "to_k"]) if place == 0 else current[site, "to_k"].shape[1]
            size = REAL.layers.map_size(tokens, *z.shape[3:])
            covered = functional.interpolate(MASK[None], size=size, mode="area").flatten(1)
            for side, mask in (("foreground", covered), ("background", 1 - covered)):
                mask = mask.expand(FRAMES, -1)
                if place == 0:
                    before, after = maps(reference, site), maps(current, site)
                    best = before.argmax(-1, keepdim=True)
                    squares = (after.gather(-1, best) - before.gather(-1, best)).square()
                    share = rearrange(mask, "f p -> p 1 f 1")
                    loss = (share * squares).sum() / (share.sum() * squares.shape[1])
                else:
                    moved = current[site, "to_k"] - reference[site, "to_k"]
                    mean = torch.einsum("fn,fnc->fc", mask, moved) / mask.sum(1, keepdim=True)
                    loss = mean.square().mean()
                scale = coefficients[side][place] * weight / len(sites)
                total = total + scale * loss * math.prod(z.shape[2:]) / (16 * 64 * 64)
    (expected,) = torch.autograd.grad(total, z)
    settings = GuidanceSettings(*(coefficients[side][i] for i in (0, 1) for side in coefficients))
    found = Drift(DriftGuidance(settings, MASK), cond, REAL)(z.detach(), path.latents[-2], level)[1]
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5 * expected.abs().max().item())


def test_guidance_moves_the_step_and_nothing_else(real_world):
    guidance = held(strength=2.0)
    found = optimise_null_text(*real_world, SETTINGS, guidance=guidance, steps=2)
    plain = optimise_null_text(*real_world, SETTINGS, steps=2)
    levels = real_world[0].levels
    push = 2.0 * levels[-2].noise * levels[-3].noise * found.guidance[1]
    torch.testing.assert_close(found.z, plain.z - push, rtol=1e-4, atol=1e-4)


def test_coefficients_of_zero_run_no_pass(real_world):
    path, model, *rest = real_world
    calls = []

    def watched(z, t, cond):
        calls.append(z.requires_grad)
        return model.output(z, t, cond)

    counted = replace(model, output=watched)

    none = held(
        temporal_foreground=0.0, temporal_background=0.0, keys_foreground=0.0, keys_background=0.0
    )
    found = optimise_null_text(path, counted, *rest, SETTINGS, guidance=none, steps=2)
    assert calls == [False] * 4
    assert found.guidance == ()
    calls.clear()
    optimise_null_text(path, counted, *rest, SETTINGS, guidance=held(), steps=2)
    # First step: no drift yet. Then the pivot, the run with a graph, the unconditional one.
    assert calls == [False, False, False, True, False]


@pytest.mark.parametrize("mask", [torch.zeros(1, 9, 9), torch.ones(FRAMES, 16, 24), None])
def test_masks_of_nothing_and_of_all(real_world, mask):
    found = optimise_null_text(*real_world, SETTINGS, guidance=held(mask), steps=2)
    assert bool(torch.isfinite(found.guidance[1]).all())
    nowhere = {"keys_background": 0.0, "temporal_background": 0.0}
    empty = mask is None or not bool(mask.any())
    found = optimise_null_text(*real_world, SETTINGS, guidance=held(mask, **nowhere), steps=2)
    assert bool((found.guidance[1] == 0).all()) == empty


def test_a_mask_of_other_frames_is_refused(real_world):
    with pytest.raises(ValueError, match="mask has 2 frames and the clip has 3"):
        optimise_null_text(*real_world, SETTINGS, guidance=held(torch.ones(2, 16, 24)), steps=2)


def test_a_long_clip_goes_through_in_windows(real_world):
    path, model, *rest = real_world
    seen = set()

    def watched(z, t, cond):
        seen.add((z.shape[2], cond.shape[1] if cond.ndim == 4 else None))
        return model.output(z, t, cond)

    settings = replace(SETTINGS, inner_steps=1)
    found = optimise_null_text(
        path,
        replace(model, output=watched),
        *rest,
        settings,
        guidance=held(),
        windows=Windows(2, 1),
        steps=2,
    )
    assert seen == {(2, None), (2, 2)}
    assert float(found.guidance[1].abs().min(dim=2).values.max()) > 0
    whole, same = (
        optimise_null_text(path, model, *rest, settings, guidance=held(), windows=w, steps=2)
        for w in (None, Windows(FRAMES, 1))
    )
    assert torch.equal(whole.z, same.z)
    assert not torch.equal(whole.z, found.z)


@pytest.mark.parametrize("blocks", [False, True], ids=["whole", "checkpointed"])
def test_memory_is_that_of_one_window(blocks):
    """Four windows take about what two take, and not twice as much.

    A window leaves a few activations behind, which count for more where checkpoints keep little.
    """
    windows, settings = Windows(3, 1), NullTextSettings(3.0, inner_steps=1)
    peaks = []
    for frames in (5, 9):
        z = torch.randn(1, 4, frames, 4, 6, generator=torch.Generator().manual_seed(4))
        cond, uncond = torch.randn(2, 1, WORDS, TEXT_WIDTH)
        path = Trajectory(torch.stack([z, -z]), ENDS)
        work = partial(optimise_null_text, path, REAL, cond, uncond, settings, windows=windows)
        with REAL.checkpointed(blocks):
            peaks.append(peak_memory(work))
    assert peaks[1] < (1.5 if blocks else 1.2) * peaks[0]


def test_a_move_along_the_gradient_of_all_windows():
    """Adam's first move is a step against the sign of the gradient."""
    generator = torch.Generator().manual_seed(4)
    z = torch.randn(1, 4, 5, 4, 6, generator=generator)
    cond, uncond = torch.randn(2, 1, WORDS, TEXT_WIDTH, generator=generator)
    path, windows = Trajectory(torch.stack([z, -z]), ENDS), Windows(3, 1)
    settings = NullTextSettings(3.0, inner_steps=1)
    found = optimise_null_text(path, REAL, cond, uncond, settings, windows=windows)

    model = windowed(REAL, windows)
    null = uncond.expand(5, -1, -1).clone().requires_grad_()
    said = guided(model(-z, ENDS[1], null[None]), model(-z, ENDS[1], cond), 3.0)
    loss = (move(said, ENDS[0]) - z).square().mean()
    (gradient,) = torch.autograd.grad(loss, null)
    sure = gradient.abs() > 1e-3 * gradient.abs().max()
    moved = found.embeddings[0] - uncond
    torch.testing.assert_close(moved[sure], -1e-2 * gradient.sign()[sure], rtol=1e-2, atol=0)


def test_what_is_kept_of_each_step_does_not_stay_on_the_device(device):
    model = unet()
    model.to(device)
    try:
        z = torch.randn(1, 4, FRAMES, 4, 6, device=device)
        cond, uncond = torch.randn(2, 1, WORDS, TEXT_WIDTH, device=device)
        levels = ENDS[0], SCHEDULE.level(300), ENDS[1]
        path = Trajectory(torch.stack([z, 0.5 * z, -z]), levels)
        first = optimise_null_text(path, REAL, cond, uncond, SETTINGS, guidance=held(), steps=1)
        # As from a file.
        first = replace(first, z=first.z.cpu())
        found = optimise_null_text(path, REAL, cond, uncond, SETTINGS, guidance=held(), state=first)
    finally:
        model.to("cpu")
    assert {e.device.type for e in (*found.embeddings, *found.guidance)} == {"cpu"}
    assert found.z.device == path.latents.device


def test_no_patch_stays(real_world):
    def stop(progress):
        raise KeyboardInterrupt

    model = unet()
    before = {s.name: model.get_submodule(s.name).processor for s in attention_sites(model)}
    with pytest.raises(KeyboardInterrupt):
        optimise_null_text(*real_world, SETTINGS, guidance=held(), on_step=stop)
    with pytest.raises(ValueError, match="matches no"):
        optimise_null_text(*real_world, SETTINGS, guidance=held(sites="nowhere.*"))
    after = {s.name: model.get_submodule(s.name).processor for s in attention_sites(model)}
    assert before == after


@pytest.mark.parametrize(
    "other",
    [
        {"guidance": held()},
        {"guidance": held(strength=2.0, mask=1 - MASK)},
        {"guidance": held(strength=2.0, keys_foreground=0.5)},
        {"windows": Windows(2, 1)},
        {"uncond": torch.ones(1, WORDS, TEXT_WIDTH)},
    ],
)
def test_a_state_that_was_made_with_others_cannot_go_on(real_world, other):
    path, model, cond, uncond = real_world
    same = {"guidance": held(strength=2.0), "windows": None, "uncond": uncond}
    made = partial(optimise_null_text, path, model, cond, settings=SETTINGS)
    first = made(**same, steps=1)
    assert made(**same, state=first).finished
    with pytest.raises(ValueError, match=r"another negative prompt.* windows or.* guidance"):
        made(**{**same, **other}, state=first)
