"""The sampler: plain DDIM without controls, and each control on a real video model."""

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from gaussian_world import gaussian_model, prompt
from rescore.attention.fusion import Fusion
from rescore.attention.mutual import SourceBackground, SourceLayout
from rescore.attention.prompt_to_prompt import PromptControl, refine_mapper, reweighted
from rescore.attention.unet.sites import attention_sites
from rescore.pipelines.inversion.attention_sampling import sample_edit
from rescore.pipelines.inversion.ddim_inversion import ddim_invert
from rescore.pipelines.inversion.decoupled_guidance import GuidanceSettings
from rescore.pipelines.inversion.drift import DriftGuidance
from rescore.pipelines.inversion.null_text import NullTextSettings, optimise_null_text
from rescore.pipelines.inversion.sampling import ddim_sample
from rescore.pipelines.models.denoiser import Prompts
from rescore.pipelines.models.process import VariancePreserving
from rescore.pipelines.windows import Windows, windowed
from tiny_animatediff import TEXT_WIDTH, denoiser, unet

SCHEDULE = VariancePreserving.from_config(
    {"beta_schedule": "linear", "beta_start": 0.00085, "beta_end": 0.012}
)
REAL = denoiser(SCHEDULE)
FRAMES, STEPS, WORDS, CFG = 2, 5, 7, 3.0


def counted():
    """The model, and the number of clips of each of its calls."""
    rows = []

    def output(z, t, cond):
        rows.append(len(z))
        return REAL.output(z, t, cond)

    return replace(REAL, output=output), rows


@pytest.fixture(scope="module")
def prompts():
    generator = torch.Generator().manual_seed(5)
    return Prompts(*torch.randn(3, 1, WORDS, TEXT_WIDTH, generator=generator))


@pytest.fixture(scope="module")
def path(prompts):
    z = torch.randn(1, 4, FRAMES, 4, 6, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        return ddim_invert(z, partial(REAL, cond=prompts.source), SCHEDULE.grid(STEPS))


TOKENS = refine_mapper(list("sabcdef"), list("sabXdef"), WORDS)
MASK = torch.zeros(1, 8, 12)
MASK[:, 2:5, 1:6] = 1


LAYOUT, BACKGROUND, WORDS_KEPT = SourceLayout(), SourceBackground(mask=MASK), PromptControl(TOKENS)
ALL = (LAYOUT, BACKGROUND, WORDS_KEPT)


def sample(path, prompts, controls=(), model=REAL, cfg=CFG, **options):
    return sample_edit(path, model, prompts, cfg, controls, **options)


def plain(path, model, prompts, cfg):
    guided = partial(model.guided, cond=prompts.target, uncond=prompts.negative, cfg=cfg)
    return ddim_sample(path.latents[-1], guided, path.levels)


@pytest.mark.parametrize("cfg", [0.0, 1.0, 7.5])
def test_without_control_it_is_plain_sampling_bit_for_bit(cfg):
    model = gaussian_model(SCHEDULE)
    given = Prompts(prompt(0.3), prompt(1.9), prompt(-0.7))
    z = torch.randn(1, 2, 3, 5, 7, dtype=torch.float64)
    path = ddim_invert(z, partial(model, cond=given.source), SCHEDULE.grid(20))
    assert torch.equal(sample_edit(path, model, given, cfg), plain(path, model, given, cfg))


@pytest.mark.parametrize("cfg", [0.0, 1.0, CFG])
def test_without_control_a_real_model_is_left_alone(path, prompts, cfg):
    """Also with controls that last for no step."""
    expected = plain(path, REAL, prompts, cfg)
    assert torch.equal(sample(path, prompts, cfg=cfg), expected)
    never = SourceLayout(end=0.0), SourceBackground(start=1.0), PromptControl(TOKENS, end=0.0)
    assert torch.equal(sample(path, prompts, never, cfg=cfg), expected)


@pytest.mark.parametrize(
    "control",
    [
        SourceLayout(end=0.5),
        SourceBackground(0.0, MASK),
        PromptControl(TOKENS, end=0.2),
        Fusion(2, 0.3, start=0.4),
    ],
    ids=["layout", "background", "prompt", "fusion"],
)
def test_every_control_makes_a_difference_and_none_stays(path, prompts, control):
    model = unet()
    before = [model.get_submodule(site.name).processor for site in attention_sites(model)]
    off = sample(path, prompts)
    assert float((sample(path, prompts, [control]) - off).abs().max()) > 1e-3
    after = [model.get_submodule(site.name).processor for site in attention_sites(model)]
    assert all(a is b for a, b in zip(before, after, strict=True))
    assert torch.equal(sample(path, prompts), off)


def test_one_call_a_step_with_the_clips_it_needs(path, prompts):
    """tau_s 0.4 of 5 steps: two with the layout; then the background; words in the first four."""
    model, rows = counted()
    sample(path, prompts, ALL, model)
    assert rows == [3, 3, 4, 4, 4]
    rows.clear()
    sample(path, prompts, [LAYOUT, WORDS_KEPT], model)
    assert rows == [3, 3, 3, 3, 2]
    rows.clear()
    sample(path, prompts, [Fusion(2, 0.5, start=0.2, end=0.6)], model)
    assert rows == [2, 4, 4, 2, 2]
    rows.clear()
    sample(path, prompts, ALL, model, cfg=1.0)
    assert rows == [2, 2, 2, 2, 2]
    rows.clear()
    # Without the prompt, nothing is left for the controls of the row with the prompt.
    sample(path, prompts, ALL, model, cfg=0.0)
    assert rows == [1, 1, 2, 2, 2]


@pytest.mark.parametrize("slices", [1, 2, 3])
def test_a_model_that_takes_the_batch_in_slices_gives_the_same(path, prompts, slices):
    controls = *ALL, Fusion(3, 0.6)
    whole = sample(path, prompts, controls)
    sliced = sample(path, prompts, controls, replace(REAL, rows_per_call=slices))
    torch.testing.assert_close(sliced, whole, rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def null_text(path, prompts):
    guidance = DriftGuidance(GuidanceSettings(strength=0.1), MASK)
    settings = NullTextSettings(CFG, inner_steps=2)
    return optimise_null_text(
        path, REAL, prompts.source, prompts.negative, settings, guidance=guidance
    )


def test_without_control_the_source_is_reconstructed(path, prompts, null_text):
    """Embeddings, guidance and all: where the optimisation has led."""
    same = prompts._replace(target=prompts.source)
    found = sample(path, same, null_text=null_text)
    torch.testing.assert_close(found, null_text.z, rtol=1e-3, atol=1e-3)


def test_an_edit_that_changes_nothing_reconstructs_as_well(path, prompts, null_text):
    same = prompts._replace(target=prompts.source)
    identity = refine_mapper(list("sabcdef"), list("sabcdef"), WORDS)
    controls = LAYOUT, SourceBackground(), PromptControl(identity)
    found = sample(path, same, controls, null_text=null_text)
    clip = path.latents[0]
    error, reached = ((z - clip).square().mean().sqrt() for z in (found, null_text.z))
    assert error <= 1.1 * reached


def test_the_mask_hides_the_source(path, prompts):
    """With all of it hidden nothing of the source is read; with nothing hidden, all is."""
    masks = {"none": None, "some": MASK, "all": torch.ones(FRAMES, 3, 3), "empty": 0 * MASK}
    found = {
        name: sample(path, prompts, [SourceBackground(0.0, mask)]) for name, mask in masks.items()
    }
    assert torch.equal(found["none"], found["empty"])
    assert not torch.allclose(found["some"], found["none"], atol=1e-3)
    torch.testing.assert_close(found["all"], sample(path, prompts), rtol=1e-3, atol=1e-3)


def test_a_weight_changes_the_edit(path, prompts):
    found = sample(path, prompts, [PromptControl(reweighted(TOKENS, {(3,): 4.0}))])
    assert not torch.allclose(found, sample(path, prompts, [WORDS_KEPT]), atol=1e-3)


def test_controls_of_the_same_layers_act_together(path, prompts):
    """Fusion keeps what other controls do of the edit's own share: all of it with weight 1."""
    held = sample(path, prompts, ALL)
    fused = sample(path, prompts, [*ALL, Fusion(3, 1.0)])
    torch.testing.assert_close(fused, held, rtol=1e-4, atol=3e-5)
    half = sample(path, prompts, [*ALL, Fusion(3, 0.5)])
    for other in (held, sample(path, prompts, [Fusion(3, 0.5)])):
        assert not torch.allclose(half, other, atol=1e-3)


def test_fusion_of_a_fusion_is_one_with_their_product(path, prompts):
    twice = sample(path, prompts, [Fusion(3, 0.75), Fusion(3, 0.4)])
    torch.testing.assert_close(twice, sample(path, prompts, [Fusion(3, 0.3)]), rtol=1e-4, atol=1e-4)


def test_progress_is_told_and_may_stop_it_without_a_trace(path, prompts):
    seen = []

    def stop(progress):
        seen.append((progress.step, progress.steps))
        raise KeyboardInterrupt

    model = unet()
    before = [model.get_submodule(site.name).processor for site in attention_sites(model)]
    with pytest.raises(KeyboardInterrupt):
        sample(path, prompts, ALL, on_step=stop)

    def broken(z, t, cond):
        REAL.output(z, t, cond)
        raise RuntimeError

    with pytest.raises(RuntimeError):
        sample(path, prompts, ALL, replace(REAL, output=broken))
    after = [model.get_submodule(site.name).processor for site in attention_sites(model)]
    assert seen == [(1, STEPS)]
    assert all(a is b for a, b in zip(before, after, strict=True))


def test_a_long_clip_goes_through_in_windows(prompts):
    """The model sees no more than a window; one window that holds the clip changes nothing."""
    z = torch.randn(1, 4, 5, 4, 6, generator=torch.Generator().manual_seed(4))
    windows = Windows(3, 1)
    seen = set()

    def output(z, t, cond):
        seen.add(z.shape[2])
        return REAL.output(z, t, cond)

    model = replace(REAL, output=output)
    ask = partial(windowed(model, windows), cond=prompts.source)
    long = ddim_invert(z, ask, SCHEDULE.grid(2))
    mask = torch.zeros(5, 4, 6)
    mask[3:, 1:3, 1:3] = 1
    layout, words = SourceLayout(0.5), PromptControl(TOKENS)
    controls = layout, SourceBackground(0.5, mask), words
    found = sample(long, prompts, controls, model, windows=windows)
    assert seen == {3}
    assert found.shape == z.shape
    moved = layout, SourceBackground(0.5, mask.flip(0)), words
    elsewhere = sample(long, prompts, moved, model, windows=windows)
    assert not torch.allclose(found, elsewhere, atol=1e-4)
    held = [sample(long, prompts, controls, windows=w) for w in (None, Windows(5, 2))]
    assert torch.equal(*held)


def test_what_does_not_belong_together_is_refused(path, prompts, null_text):
    with pytest.raises(ValueError, match="optimised for another trajectory"):
        sample(replace(path, prompt="another"), prompts, null_text=null_text)
    with pytest.raises(ValueError, match=r"for cfg 3, and this is 7\.5"):
        sample(path, prompts, cfg=7.5, null_text=null_text)
    with pytest.raises(ValueError, match=r"SA-I \(layout\) looks into the model"):
        sample(path, prompts, ALL, replace(REAL, layers=None))
    with pytest.raises(ValueError, match="mask has 3 frames and the clip has 2"):
        sample(path, prompts, [SourceBackground(mask=torch.ones(3, 8, 12))])
    with pytest.raises(ValueError, match="matches no"):
        sample(path, prompts, [SourceBackground(sites="nowhere.*")])


def test_a_step_that_is_not_finite_is_told(path, prompts):
    with pytest.raises(FloatingPointError, match="at step 1: lower cfg"):
        sample(path, prompts, model=replace(REAL, output=lambda z, t, cond: z * math.inf))


@pytest.mark.parametrize(
    ("control", "wrong", "sentence"),
    [
        (SourceLayout, {"end": -0.1}, r"SA-I \(layout\) acts from 0% to -10% of the steps"),
        (SourceLayout, {"end": math.nan}, "SA-I .* from 0% to nan%"),
        (SourceLayout, {"max_tokens": -1}, "SA-I acts in layers of at most -1 tokens"),
        (SourceBackground, {"start": 1.5}, r"SA-II \(background\) acts from 150% to 100%"),
        (partial(PromptControl, TOKENS), {"end": 1.5}, "Prompt control acts from 0% to 150%"),
        (Fusion, {"start": 0.7, "end": 0.3}, "Attention fusion acts from 70% to 30%"),
    ],
)
def test_controls_are_checked(control, wrong, sentence):
    with pytest.raises(ValueError, match=sentence):
        control(**wrong)
