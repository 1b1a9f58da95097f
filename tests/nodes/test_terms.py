"""All terms through their nodes, alone and together, inside inference mode as in the host."""

import pytest
import torch

KEYS = ("ReScoreSpatialSelfSimilarity", "ReScoreTemporalSelfSimilarity", "ReScoreGlobalConsistency")


@pytest.fixture
def edit(run, given, clip):
    """`edit(terms, **inputs)`: the loop's outputs for a clip of five frames, and its source."""
    images = clip(5, 12, 14)
    common = given("text-to-video", images)

    def make(terms, node="ReScoreScoreDistillation", **inputs):
        if node == "ReScoreScoreDistillation":
            inputs = {"steps": 2, "step_size": 0.1, "cfg": 3.0} | inputs
        return run(node, **common, terms=terms, **inputs)

    make.model, make.images, make.latent = common["model"], images, common["latent"]
    return make


def processors(model) -> list[int]:
    return [id(processor) for processor in model.unet.attn_processors.values()]


@pytest.mark.parametrize("term", [*KEYS, "ReScoreAdaptiveSliding"])
def test_a_term_alone_moves_the_clip_and_leaves_no_patch(run, edit, term):
    before = processors(edit.model)
    # Terms of structure only hold a clip: denoising is what moves it.
    terms = run("ReScoreDeltaDenoising")[0] if term in KEYS else None
    joined = run(term, **({"terms": terms} if terms else {}))[0]
    latent, state, _ = edit(joined)
    assert not torch.equal(latent["samples"], edit.latent["samples"])
    assert processors(edit.model) == before
    if terms:
        plain, _, _ = edit(terms)
        assert not torch.equal(latent["samples"], plain["samples"])
        (name,) = state.values[0].keys() - {"delta denoising"}
        assert state.values[0][name] > 0


def test_all_terms_of_three_papers_in_one_loop(run, load, edit, texts):
    image = load("image")
    image_prompts, _ = run("ReScoreEncodePromptPair", model=image, **texts)
    flow = run("ReScoreOpticalFlow", images=edit.images)[0]
    terms = run("ReScoreAdaptiveSliding")[0]
    for term in KEYS:
        terms = run(term, terms=terms)[0]
    terms = run("ReScoreContentPreservation", terms=terms)[0]
    terms = run(
        "ReScoreImageDeltaDenoising", image_model=image, image_prompts=image_prompts, terms=terms
    )[0]
    terms = run("ReScoreFlowSmoothing", terms=terms, flow=flow)[0]
    fusion = run("ReScoreAttentionFusion", layers=2)[0]
    latent, state, losses = edit(terms, fusion=fusion)
    assert torch.isfinite(latent["samples"]).all()
    assert len(state.values[-1]) == 6
    assert len(losses["loss"]) == 2


def test_fusion_changes_the_edit_and_weight_1_does_not(run, edit):
    terms = run("ReScoreDeltaDenoising")[0]
    plain, _, _ = edit(terms)
    fused, _, _ = edit(terms, fusion=run("ReScoreAttentionFusion", layers=2)[0])
    off, _, _ = edit(terms, fusion=run("ReScoreAttentionFusion", layers=2, weight=1.0)[0])
    assert not torch.equal(plain["samples"], fused["samples"])
    torch.testing.assert_close(plain["samples"], off["samples"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("term", ["ReScoreDeltaDenoising", "ReScoreSpatialSelfSimilarity"])
def test_one_window_over_the_clip_is_no_window(run, edit, term):
    terms = run(term, terms=run("ReScoreAdaptiveSliding")[0])[0]
    whole, _, _ = edit(terms)
    one, _, _ = edit(terms, window=5, overlap=2)
    several, _, _ = edit(terms, window=3, overlap=1)
    assert torch.equal(whole["samples"], one["samples"])
    assert not torch.equal(whole["samples"], several["samples"])
    assert torch.isfinite(several["samples"]).all()


def test_a_chain_of_single_steps_is_the_loop(run, edit):
    terms = run("ReScoreAdaptiveSliding")[0]
    _, loop, _ = edit(terms, steps=3, cfg=9.0)
    state = None
    for _ in range(3):
        extra = {} if state is None else {"state": state}
        _, state, _ = edit(terms, node="ReScoreASSDStep", **extra)
    assert torch.equal(loop.z, state.z)


def test_preservation_by_mask_pulls_only_what_is_not_edited(run, edit):
    mask = torch.zeros(1, 12, 14)
    mask[:, :6] = 1
    dds = run("ReScoreDeltaDenoising")[0]
    terms = run("ReScoreContentPreservation", weight=1.0, edit_mask=mask, terms=dds)[0]
    held, _, _ = edit(terms, steps=3)
    free, _, _ = edit(dds, steps=3)
    source = edit.latent["samples"]
    rows = source.shape[-2] // 2
    moved_held = (held["samples"] - source)[..., rows:, :].abs().mean()
    moved_free = (free["samples"] - source)[..., rows:, :].abs().mean()
    assert moved_held < moved_free


def test_a_gradient_is_inspected_without_editing(run, edit):
    terms = run("ReScoreAdaptiveSliding", tau=0.0)[0]
    energy, mask, report = edit(terms, node="ReScoreInspectGradient", t=0.3)
    assert energy.shape == (5, 12, 14, 3)
    assert energy.min() >= 0 and energy.max() == 1
    assert mask.shape[0] == 5 and 0 < mask.mean() < 1
    assert report.startswith("adaptive sliding: ")
    _, black, _ = edit(run("ReScoreDeltaDenoising")[0], node="ReScoreInspectGradient")
    assert not black.any()


def test_what_is_inspected_of_a_padded_clip_has_the_size_of_the_clip(run, given, clip):
    """25 x 11 pixels are padded to 26 x 12; a mask of the last column stays at the last column."""
    inputs = given("text-to-video", clip(3, 11, 25))
    mask = torch.zeros(1, 11, 25)
    mask[..., -1] = 1
    terms = run("ReScoreAdaptiveSliding", tau=0.0)[0]
    masked = run("ReScoreGradientMask", terms=terms, mask=mask)[0]
    energy, smoothed, _ = run("ReScoreInspectGradient", **inputs, terms=masked)
    assert energy.shape == (3, 11, 25, 3) and smoothed.shape == (3, 11, 25)
    assert not energy[:, :, :-1].any() and energy[:, :, -1].any()


def test_a_long_clip_is_inspected_in_the_windows_of_the_loop(run, given, clip):
    """The motion module knows 7 frames. Shown is how far the first step moves each place."""
    inputs = given("animatediff", clip(11, 12, 14))
    terms = run("ReScoreDeltaDenoising")[0]
    energy, _, _ = run("ReScoreInspectGradient", **inputs, terms=terms, t=0.5)
    once = {"steps": 1, "step_size": 1.0, "t_min": 0.5, "t_max": 0.5}
    edited = run("ReScoreScoreDistillation", **inputs, terms=terms, **once)[0]["samples"]
    moved = (edited - inputs["latent"]["samples"]).square().mean(dim=1).sqrt()
    torch.testing.assert_close(energy[:, ::2, ::2, 0], moved / moved.max(), rtol=1e-3, atol=1e-3)


def test_flow_is_shown(run, clip, caplog):
    flow = run("ReScoreOpticalFlow", images=clip(3, 20, 22))[0]
    pictures = run("ReScoreShowFlow", flow=flow)[0]
    assert pictures.shape == (2, 20, 22, 3)
    still = run("ReScoreOpticalFlow", images=clip(1, 20, 22))[0]
    (white,) = run("ReScoreShowFlow", flow=still)
    assert torch.equal(white, torch.ones(1, 20, 22, 3))
    assert "one frame, so there is no flow" in caplog.text


def test_mistakes_are_told(run, load, edit, clip):
    flow = run("ReScoreOpticalFlow", images=clip(4, 12, 14))[0]
    terms = run("ReScoreDeltaDenoising")[0]
    with pytest.raises(ValueError, match="flow is another clip's"):
        edit(run("ReScoreFlowSmoothing", terms=terms, flow=flow)[0])
    with pytest.raises(ValueError, match="no list of numbers"):
        run("ReScoreAdaptiveSliding", window="a, b")
    with pytest.raises(ValueError, match="odd number"):
        run("ReScoreAdaptiveSliding", window="1 1")
    with pytest.raises(ValueError, match=r"up_blocks\.9"):
        edit(run("ReScoreSpatialSelfSimilarity", sites="up_blocks.9.*")[0])
    with pytest.raises(ValueError, match="layers"):
        edit(terms, fusion=run("ReScoreAttentionFusion", layers=60)[0])
    with pytest.raises(ValueError, match="overlap"):
        edit(terms, window=3, overlap=3)


def test_an_image_model_of_another_schedule_is_refused(run, load, edit, texts):
    animated = load("animatediff")
    prompts, _ = run("ReScoreEncodePromptPair", model=animated, **texts)
    terms = run("ReScoreImageDeltaDenoising", image_model=animated, image_prompts=prompts)[0]
    with pytest.raises(ValueError, match="different noise schedules"):
        edit(terms)


def test_a_clip_of_one_frame_leaves_terms_in_time_without_effect(run, given, clip, caplog):
    dds = run("ReScoreDeltaDenoising")[0]
    both = run("ReScoreTemporalSelfSimilarity", terms=dds)[0]
    common = {**given("text-to-video", clip(1, 12, 14)), "steps": 2}
    plain = run("ReScoreScoreDistillation", terms=dds, **common)[0]
    same = run("ReScoreScoreDistillation", terms=both, **common)[0]
    # The row whose keys are read is a call of its own, which rounds in its own way.
    torch.testing.assert_close(plain["samples"], same["samples"], rtol=0, atol=1e-3)
    assert "the clip has one frame" in caplog.text


def test_one_number_sets_guidance_level_and_step(run):
    assert run("ReScoreEditStrength", strength=0.0) == (2, 0.7, 0, 0)
    assert run("ReScoreEditStrength", strength=0.5) == (3, 0.8, 1, 0.25)
    assert run("ReScoreEditStrength", strength=1.0) == (6, 0.9, 1, 0.5)
