"""Wan through the shells: from a user's folder, and the tiny trained one that ships."""

import pytest
import torch
from rescore.shapeworld.edits import edited, suite
from rescore.shapeworld.score import psnr
from rescore.shapeworld.showcase import SHOWCASE


@pytest.fixture
def scene(given, clip):
    """`scene(frames)`: the tiny untrained Wan, its prompts and latents."""
    return lambda frames=6, height=21, width=37: given("wan", clip(frames, height, width))


def edit(run, scene, **settings):
    inputs = {"steps": 3, "cfg": 3.0, "step_size": 0.5} | settings
    inputs.setdefault("terms", run("ReScoreDeltaDenoising")[0])
    return run("ReScoreScoreDistillation", **scene, **inputs)


def decoded(run, scene, latent):
    return run("ReScoreVideoVAEDecode", model=scene["model"], latent=latent)[0]


@pytest.mark.parametrize("frames", [1, 5, 6])
def test_the_edited_clip_has_the_size_and_length_of_the_source(run, scene, frames):
    given = scene(frames)
    edited, state, losses = edit(run, given)
    assert edited["samples"].shape == (1, 5, 1 + -(-(frames - 1) // 4), 4, 6)
    assert not torch.equal(edited["samples"], given["latent"]["samples"])
    assert state.step == len(losses["loss"]) == 3
    assert decoded(run, given, edited).shape == (frames, 21, 37, 3)


def test_frames_that_the_autoencoder_does_not_take_are_told(scene, caplog):
    with caplog.at_level("INFO", "rescore"):
        scene(5)
        assert not caplog.messages
        scene(6)
    assert "6 frames: this VAE takes 1 + 4 n of them, such as 5 or 9." in caplog.messages[0]


def test_a_latent_is_the_hosts_own(run, scene):
    """In the host, Wan's latents are `[1, c, f, h, w]`, as the autoencoder gives them."""
    given = scene(5, 16, 32)
    plain = {"samples": given["latent"]["samples"]}
    edited = edit(run, given | {"latent": plain})[0]
    assert torch.equal(edited["samples"], edit(run, given)[0]["samples"])
    assert decoded(run, given, edited).shape == (5, 16, 32, 3)


def test_where_the_mask_is_black_latents_stay_bit_for_bit(run, scene):
    """Of the pictures of a latent frame the widest counts; the sixth is in the third."""
    given, mask = scene(6), torch.zeros(6, 21, 37)
    mask[5, :8, 16:24] = 1
    edited, source = edit(run, given, mask=mask)[0]["samples"], given["latent"]["samples"]
    changed = (edited != source).any(dim=1)[0]
    expected = torch.zeros(3, 4, 6, dtype=torch.bool)
    expected[2, 0, 2] = True
    assert torch.equal(changed, expected)


def test_a_run_goes_on_and_windows_count_pictures(run, scene):
    given = scene(17)
    inputs = {"window": 9, "overlap": 4, "seed": 3}
    whole = edit(run, given, steps=3, **inputs)
    first = edit(run, given, steps=2, **inputs)
    then = edit(run, given, steps=1, state=first[1], **inputs)
    assert torch.equal(whole[0]["samples"], then[0]["samples"])
    at_once = edit(run, given, steps=3, seed=3, window=17)[0]
    assert torch.equal(at_once["samples"], edit(run, given, steps=3, seed=3)[0]["samples"])
    assert not torch.equal(at_once["samples"], whole[0]["samples"])


def test_the_shipped_model_edits_a_longer_clip_in_windows_that_it_knows(run):
    """It knows 17 frames: 5 latent ones. A window of 4 and the first frame are as many."""
    model = run("ReScoreLoadShapeWorldModel", model="shapeworld-wan")[0]
    (longer,) = suite("colour", 1, frames=29, split="tune")
    truth = edited(longer)
    words = {"source_prompt": truth.source_prompt, "target_prompt": truth.target_prompt}
    given = {
        "model": model,
        "prompts": run("ReScoreEncodePromptPair", model=model, **words)[0],
        "latent": run("ReScoreVideoVAEEncode", model=model, images=truth.source.clip)[0],
    }
    terms = run("ReScoreDeltaDenoising", weighting="velocity")[0]
    falling = {
        "terms": terms, "order": "descending", "step_size": 1.0, "t_min": 0.0, "t_max": 0.8
    }  # fmt: skip

    def made(**window):
        return edit(run, given, **falling, steps=10, **window)[0]

    known, whole = made(), made(window=29)
    assert torch.equal(known["samples"], made(window=13)["samples"])
    inside = [
        psnr(decoded(run, given, latent), truth.target.clip, truth.change)
        for latent in (known, whole)
    ]
    assert inside[0] > 20 and inside[0] > inside[1] + 2, inside
    short = given | {"latent": {"samples": given["latent"]["samples"][:, :, :5]}}
    at_once, asked = (edit(run, short, **falling, steps=1, window=n)[0] for n in (0, 17))
    assert torch.equal(at_once["samples"], asked["samples"])


def test_what_needs_no_layers_runs_on_it(run, scene, clip):
    """Inspection, masks from gradients, flow smoothing, inversion and the way back."""
    given, frames = scene(6), 6
    terms = run("ReScoreDeltaDenoising")[0]
    energy, _, _ = run("ReScoreInspectGradient", **given, terms=terms)
    assert energy.shape == (frames, 21, 37, 3)
    mask = run("ReScoreMaskFromGradient", **given, terms=terms, timesteps=1, draws=1)[0]
    assert mask.shape == (frames, 21, 37)
    flow = run("ReScoreOpticalFlow", images=clip(frames, 21, 37))[0]
    smoothed = run("ReScoreFlowSmoothing", terms=terms, flow=flow)[0]
    plain, smooth = edit(run, given, terms=terms), edit(run, given, terms=smoothed)
    assert not torch.equal(plain[0]["samples"], smooth[0]["samples"])
    trajectory, noise = run("ReScoreDDIMInversion", **given, steps=4, refinements=5)
    assert noise["samples"].shape == given["latent"]["samples"].shape
    along = {"model": given["model"], "prompts": given["prompts"], "trajectory": trajectory}
    _, images, decibels, _ = run(
        "ReScoreReconstruct", **along, cfg=1.0, images=clip(frames, 21, 37)
    )
    _, alone, _, report = run("ReScoreReconstruct", **along, cfg=1.0)
    assert images.shape == (frames, 21, 37, 3) and torch.equal(images, alone)
    assert "compared with what the VAE makes" in report and decibels > 0


def test_self_similarity_and_fusion_look_into_it(run, scene):
    given = scene(5)
    plain = edit(run, given)[0]["samples"]
    terms = run("ReScoreDeltaDenoising")[0]
    both = run("ReScoreSpatialSelfSimilarity", terms=terms)[0]
    fusion = run("ReScoreAttentionFusion", layers=1)[0]
    for changed in ({"terms": both}, {"fusion": fusion}):
        found = edit(run, given, **changed)[0]["samples"]
        assert found.shape == plain.shape and not torch.equal(found, plain)
    kept = edit(run, given, terms=both, checkpointing=False)[0]["samples"]
    again = edit(run, given, terms=both, checkpointing=True)[0]["samples"]
    torch.testing.assert_close(again, kept, rtol=0, atol=1e-4)


def test_words_of_its_prompt_are_found_in_the_picture(run, scene):
    mask, attention, _ = run("ReScoreMaskFromWords", **scene(5), words="red", timesteps=1)
    assert mask.shape == (5, 21, 37) and attention.shape == (5, 21, 37, 3)


def test_layers_of_one_size_are_read_at_any_resolution(run, scene):
    """At 832 x 480 a frame has more tokens than the limit, and no layer is coarser."""
    few = run("ReScoreMaskFromWords", **scene(5), words="red", timesteps=1, max_tokens=1)[1]
    assert torch.equal(few, run("ReScoreMaskFromWords", **scene(5), words="red", timesteps=1)[1])


LAYOUT, BACKGROUND = {"layout_control": True}, {"background_control": True}


@pytest.fixture
def sampled(run):
    """`sampled(target, ...)`: what a green triangle becomes, in two steps with these controls.

    The model is the trained one: without training, attention reads everywhere alike.
    """
    model = run("ReScoreLoadShapeWorldModel", model="shapeworld-wan")[0]
    scene = edited(SHOWCASE["green_triangle"]).source

    def prompts(target):
        words = {"source_prompt": scene.caption, "target_prompt": target}
        return run("ReScoreEncodePromptPair", model=model, **words)[0]

    given = {
        "model": model,
        "prompts": prompts(scene.caption),
        "latent": run("ReScoreVideoVAEEncode", model=model, images=scene.clip[:5])[0],
    }
    path = inverted(run, given, refinements=5)
    off = {"layout_control": False, "background_control": False, "prompt_control": "off"}

    def sampled(target=scene.caption, **controls):
        inputs = path | {"prompts": prompts(target)} | off | controls
        return run("ReScoreAttentionControlledSampling", **inputs)[0]["samples"]

    return sampled


@pytest.mark.parametrize("control", [LAYOUT, BACKGROUND])
def test_controls_of_attention_act_in_their_steps(sampled, control):
    """SA-I until tau_s, SA-II from it on: in none, in one or in both of two steps."""
    words = "a red circle moving right on a checker background"
    plain = sampled(words)
    early, middle, late = (sampled(words, **control, tau_s=share) for share in (0.0, 0.5, 1.0))
    none, both = (early, late) if control is LAYOUT else (late, early)
    torch.testing.assert_close(none, plain, rtol=0, atol=1e-5)
    moved = [(found - plain).abs().max() for found in (middle, both)]
    assert min(moved) > 1e-2 and (middle - both).abs().max() > 1e-2, moved


@pytest.mark.parametrize("control", [LAYOUT | {"tau_s": 1.0}, BACKGROUND | {"tau_s": 0.0}])
def test_an_edit_into_its_source_reads_itself(sampled, control):
    """With the source's prompt and no guidance, the maps of the source are the edit's own."""
    torch.testing.assert_close(sampled(cfg=1.0, **control), sampled(cfg=1.0), rtol=0, atol=1e-3)


def test_what_needs_temporal_attention_says_so(run, scene):
    with pytest.raises(ValueError, match="its self-attention reads all frames at once"):
        run(
            "ReScoreNullTextOptimisation",
            **inverted(run, scene(5)),
            embeddings="one for the clip",
            guidance=run("ReScoreDecoupledGuidance")[0],
        )


def inverted(run, given, **settings):
    trajectory = run("ReScoreDDIMInversion", **given, steps=2, **settings)[0]
    return {"model": given["model"], "prompts": given["prompts"], "trajectory": trajectory}


@pytest.mark.parametrize(
    ("node", "inputs", "sentence"),
    [
        ("ReScoreInflateImageModel", {}, "Inflate Image Model works on UNets"),
        ("ReScoreOneShotTune", {"steps": 1}, "One-Shot Tune works on UNets"),
        (
            "ReScoreCovariateShift",
            {},
            "Diffusion and their kin, and wan is a transformer",
        ),
        ("ReScoreSaveTunedWeights", {}, "Save Tuned Weights works on UNets"),
        ("ReScoreLoadAnimateDiffModel", {"motion_module": "motion"}, "works on UNets"),
    ],
)
def test_nodes_for_unets_say_so(run, scene, node, inputs, sentence):
    import rescore

    given = scene(1, 16, 16)
    required = rescore.NODE_CLASS_MAPPINGS[node].INPUT_TYPES()["required"]
    given["image_model"] = given["model"]
    inputs = inputs | {name: given[name] for name in required if name in given}
    with pytest.raises(ValueError, match=sentence):
        run(node, **inputs)


def test_latents_of_other_models_are_told(run, load, scene):
    given = scene(5, 16, 16)
    pictures = {"samples": torch.zeros(5, 4, 2, 2)}
    with pytest.raises(ValueError, match=r"\[1, channels, frames, height, width\], one clip"):
        edit(run, given | {"latent": pictures})
    with pytest.raises(ValueError, match="have 4 channels, this model takes 5"):
        edit(run, given | {"latent": {"samples": torch.zeros(1, 4, 2, 2, 2)}})
    with pytest.raises(ValueError, match=r"\[frames, channels, height, width\] is expected"):
        run("ReScoreVideoVAEDecode", model=load("text-to-video"), latent=given["latent"])
    longer = given["latent"] | {"samples": torch.zeros(1, 5, 3, 2, 2)}
    edited = edit(run, given | {"latent": longer})[0]
    assert decoded(run, given, edited).shape == (9, 16, 16, 3)  # and not the 5 it came with


def test_the_shipped_model_is_a_wan_with_the_text_encoder_of_the_others(run):
    model = run("ReScoreLoadShapeWorldModel", model="shapeworld-wan")[0]
    other = run("ReScoreLoadShapeWorldModel", model="shapeworld-sd")[0]
    assert (model.kind, model.process.shift) == ("wan", 5.0)
    prompt = model.encode_prompt("a red circle")
    assert prompt.embedding.shape == (1, 24, 64)
    assert torch.equal(prompt.embedding, other.encode_prompt("a red circle").embedding)
