"""The sampler: plain DDIM without controls, and each control on a real video model."""

import math
from dataclasses import replace

import pytest
import torch
from gaussian_world import GaussianModel, prompt
from rescore.attention.prompt_to_prompt import refine_mapper, reweighted
from rescore.attention.sites import attention_sites
from rescore.pipelines.inversion.attention_sampling import (
    NO_CONTROL,
    AttentionControl,
    Source,
    sample_edit,
)
from rescore.pipelines.inversion.ddim_inversion import ddim_invert
from rescore.pipelines.inversion.decoupled_guidance import GuidanceSettings
from rescore.pipelines.inversion.drift import DriftGuidance
from rescore.pipelines.inversion.null_text import NullTextSettings, optimise_null_text
from rescore.pipelines.inversion.sampling import ddim_sample
from rescore.pipelines.models.denoiser import Prompts
from rescore.pipelines.models.guidance import guide
from rescore.pipelines.models.schedule import NoiseSchedule
from rescore.pipelines.windows import Windows, windowed
from tiny_animatediff import TEXT_WIDTH, unet
from tiny_animatediff import eps_theta as real

SCHEDULE = NoiseSchedule.from_config(
    {"beta_schedule": "linear", "beta_start": 0.00085, "beta_end": 0.012}
)
A = SCHEDULE.alphas_bar
FRAMES, STEPS, WORDS, CFG = 2, 5, 7, 3.0


class Counted:
    """The model, with the number of clips of each call; it may take them in slices."""

    def __init__(self, slices=None):
        self.rows, self.slices = [], slices

    def __call__(self, z, t, cond):
        self.rows.append(len(z))
        size = self.slices or len(z)
        parts = zip(z.split(size), cond.split(size), strict=True)
        return torch.cat([real(a, t, b) for a, b in parts])


@pytest.fixture(scope="module")
def prompts():
    generator = torch.Generator().manual_seed(5)
    return Prompts(*torch.randn(3, 1, WORDS, TEXT_WIDTH, generator=generator))


@pytest.fixture(scope="module")
def path(prompts):
    z = torch.randn(1, 4, FRAMES, 4, 6, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        return ddim_invert(z, lambda z, t: real(z, t, prompts.source), A, SCHEDULE.timesteps(STEPS))


TOKENS = refine_mapper(list("sabcdef"), list("sabXdef"), WORDS)
MASK = torch.zeros(1, 8, 12)
MASK[:, 2:5, 1:6] = 1


def source(**options):
    return Source(unet(), **{"tokens": TOKENS, "mask": MASK, **options})


def sample(path, prompts, control=NO_CONTROL, model=real, cfg=CFG, **options):
    return sample_edit(path, model, prompts, A, cfg, control, source=source(), **options)


def alone(**settings):
    return replace(NO_CONTROL, **settings)


def plain(path, model, prompts, cfg):
    def eps_theta(z, t):
        if cfg == 1:
            return model(z, t, prompts.target)
        both = model(torch.cat([z, z]), t, torch.cat([prompts.negative, prompts.target]))
        return guide(*both.split(1), cfg)

    return ddim_sample(path.latents[-1], eps_theta, A, path.timesteps)


@pytest.mark.parametrize("cfg", [0.0, 1.0, 7.5])
def test_without_control_it_is_plain_sampling_bit_for_bit(cfg):
    model = GaussianModel(A)
    given = Prompts(prompt(0.3), prompt(1.9), prompt(-0.7))
    z = torch.randn(1, 2, 3, 5, 7, dtype=torch.float64)
    path = ddim_invert(z, lambda z, t: model(z, t, given.source), A, SCHEDULE.timesteps(20))
    assert torch.equal(sample_edit(path, model, given, A, cfg), plain(path, model, given, cfg))


@pytest.mark.parametrize("cfg", [1.0, CFG])
def test_without_control_a_real_model_is_left_alone(path, prompts, cfg):
    """Also with a source given, and with controls that last for no step."""
    expected = plain(path, real, prompts, cfg)
    assert torch.equal(sample(path, prompts, cfg=cfg), expected)
    never = AttentionControl(background=False, tau_s=0.0, tau_c=0.0)
    assert torch.equal(sample(path, prompts, never, cfg=cfg), expected)


@pytest.mark.parametrize(
    "control",
    [
        alone(layout=True, tau_s=0.5),
        alone(background=True, tau_s=0.0),
        alone(prompt=True, tau_c=0.2),
    ],
    ids=["layout", "background", "prompt"],
)
def test_every_control_makes_a_difference_and_none_stays(path, prompts, control):
    model = unet()
    before = [model.get_submodule(site.name).processor for site in attention_sites(model)]
    off = sample(path, prompts)
    assert float((sample(path, prompts, control) - off).abs().max()) > 1e-3
    after = [model.get_submodule(site.name).processor for site in attention_sites(model)]
    assert all(a is b for a, b in zip(before, after, strict=True))
    assert torch.equal(sample(path, prompts), off)


def test_one_call_a_step_with_the_clips_it_needs(path, prompts):
    """tau_s 0.4 of 5 steps: two with the layout; then the background; words in the first four."""
    model = Counted()
    sample(path, prompts, AttentionControl(), model)
    assert model.rows == [3, 3, 4, 4, 4]
    model.rows.clear()
    sample(path, prompts, AttentionControl(background=False), model)
    assert model.rows == [3, 3, 3, 3, 2]
    model.rows.clear()
    sample(path, prompts, AttentionControl(), model, cfg=1.0)
    assert model.rows == [2, 2, 2, 2, 2]


@pytest.mark.parametrize("slices", [1, 2, 3])
def test_a_model_that_takes_the_batch_in_slices_gives_the_same(path, prompts, slices):
    whole = sample(path, prompts, AttentionControl())
    sliced = sample(path, prompts, AttentionControl(), Counted(slices))
    torch.testing.assert_close(sliced, whole, rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def null_text(path, prompts):
    guidance = DriftGuidance(unet(), GuidanceSettings(strength=0.1), MASK)
    settings = NullTextSettings(CFG, inner_steps=2)
    return optimise_null_text(
        path, real, prompts.source, prompts.negative, A, settings, guidance=guidance
    )


def test_without_control_the_source_is_reconstructed(path, prompts, null_text):
    """Embeddings, guidance and all: where the optimisation has led."""
    same = prompts._replace(target=prompts.source)
    found = sample(path, same, null_text=null_text)
    torch.testing.assert_close(found, null_text.z, rtol=1e-3, atol=1e-3)


def test_an_edit_that_changes_nothing_reconstructs_as_well(path, prompts, null_text):
    same = prompts._replace(target=prompts.source)
    identity = refine_mapper(list("sabcdef"), list("sabcdef"), WORDS)
    found = sample_edit(
        path, real, same, A, CFG, AttentionControl(), source=source(tokens=identity),
        null_text=null_text,
    )  # fmt: skip
    clip = path.latents[0]
    error, reached = ((z - clip).square().mean().sqrt() for z in (found, null_text.z))
    assert error <= 1.1 * reached


def test_the_mask_hides_the_source(path, prompts):
    """With all of it hidden nothing of the source is read; with nothing hidden, all is."""
    control = alone(background=True, tau_s=0.0)
    masks = {"none": None, "some": MASK, "all": torch.ones(FRAMES, 3, 3), "empty": 0 * MASK}
    found = {
        name: sample_edit(path, real, prompts, A, CFG, control, source=source(mask=mask))
        for name, mask in masks.items()
    }
    assert torch.equal(found["none"], found["empty"])
    assert not torch.allclose(found["some"], found["none"], atol=1e-3)
    torch.testing.assert_close(found["all"], sample(path, prompts), rtol=1e-3, atol=1e-3)


def test_a_weight_changes_the_edit(path, prompts):
    control = alone(prompt=True)
    louder = source(tokens=reweighted(TOKENS, {(3,): 4.0}))
    found = sample_edit(path, real, prompts, A, CFG, control, source=louder)
    assert not torch.allclose(found, sample(path, prompts, control), atol=1e-3)


def test_progress_is_told_and_may_stop_it_without_a_trace(path, prompts):
    seen = []

    def stop(progress):
        seen.append((progress.step, progress.steps))
        raise KeyboardInterrupt

    model = unet()
    before = [model.get_submodule(site.name).processor for site in attention_sites(model)]
    with pytest.raises(KeyboardInterrupt):
        sample(path, prompts, AttentionControl(), on_step=stop)

    def broken(z, t, cond):
        real(z, t, cond)
        raise RuntimeError

    with pytest.raises(RuntimeError):
        sample(path, prompts, AttentionControl(), broken)
    after = [model.get_submodule(site.name).processor for site in attention_sites(model)]
    assert seen == [(1, STEPS)]
    assert all(a is b for a, b in zip(before, after, strict=True))


def test_a_long_clip_goes_through_in_windows(prompts):
    """The model sees no more than a window; one window that holds the clip changes nothing."""
    z = torch.randn(1, 4, 5, 4, 6, generator=torch.Generator().manual_seed(4))
    windows = Windows(3, 1)
    seen = set()

    def model(z, t, cond):
        seen.add(z.shape[2])
        return real(z, t, cond)

    eps_theta = windowed(model, windows)
    long = ddim_invert(z, lambda z, t: eps_theta(z, t, prompts.source), A, SCHEDULE.timesteps(2))
    mask = torch.zeros(5, 4, 6)
    mask[3:, 1:3, 1:3] = 1
    control = AttentionControl(tau_s=0.5)
    found = sample_edit(
        long, model, prompts, A, CFG, control, source=source(mask=mask), windows=windows
    )
    assert seen == {3}
    assert found.shape == z.shape
    elsewhere = sample_edit(
        long, model, prompts, A, CFG, control, source=source(mask=mask.flip(0)), windows=windows
    )
    assert not torch.allclose(found, elsewhere, atol=1e-4)
    held = [
        sample_edit(long, real, prompts, A, CFG, control, source=source(mask=mask), windows=w)
        for w in (None, Windows(5, 2))
    ]
    assert torch.equal(*held)


def test_what_does_not_belong_together_is_refused(path, prompts, null_text):
    with pytest.raises(ValueError, match="optimised for another trajectory"):
        sample(replace(path, prompt="another"), prompts, null_text=null_text)
    with pytest.raises(ValueError, match=r"for cfg 3, and this is 7\.5"):
        sample(path, prompts, cfg=7.5, null_text=null_text)
    with pytest.raises(ValueError, match="the model to do it in is missing"):
        sample_edit(path, real, prompts, A, CFG, AttentionControl())
    with pytest.raises(ValueError, match="mask has 3 frames and the clip has 2"):
        sample_edit(
            path, real, prompts, A, CFG, AttentionControl(),
            source=source(mask=torch.ones(3, 8, 12)),
        )  # fmt: skip
    with pytest.raises(ValueError, match="matches no"):
        sample(path, prompts, AttentionControl(background_sites="nowhere.*"))


def test_a_step_that_is_not_finite_is_told(path, prompts):
    with pytest.raises(FloatingPointError, match="at step 1: lower cfg"):
        sample(path, prompts, model=lambda z, t, cond: z * math.inf)


@pytest.mark.parametrize(
    "wrong", [{"tau_s": -0.1}, {"tau_c": 1.5}, {"tau_s": math.nan}, {"layout_tokens": -1}]
)
def test_controls_are_checked(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        AttentionControl(**wrong)
