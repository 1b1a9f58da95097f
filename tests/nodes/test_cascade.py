"""A cascade through the shells: keyframes are edited, frames made between them, and enlarged."""

import pytest
import rescore
import rescore.nodes.host as host
import torch
from live_memory import Watch
from rescore.benchmarks.memory import Storages
from rescore.pipelines.models.cascade.stage import ROLES
from rescore.pipelines.models.denoiser import Denoiser
from tiny_cascade import edit_json, write_stage
from tiny_models import write_tiny_t2v


@pytest.fixture(scope="module")
def stages(tmp_path_factory):
    """A models folder with every stage, tiny and untrained."""
    folder = tmp_path_factory.mktemp("models")
    for number, role in enumerate(ROLES):
        write_stage(folder / "diffusers" / role, role, seed=number)
    return folder


@pytest.fixture
def cascade(run, stages, monkeypatch):
    """`cascade(role)`: a stage from its loader node."""
    monkeypatch.setenv("RESCORE_MODELS", str(stages))

    def make(role: str):
        node = "ReScoreLoadVideoModel" if role == "keyframes" else "ReScoreLoadCascadeStage"
        return run(node, folder=role)[0]

    return make


@pytest.fixture
def scene(run, cascade, clip):
    """The keyframe model, its prompts, and keyframes of 16 x 10 pixels of a wider clip."""
    model = cascade("keyframes")
    keyframes = run("ReScorePickKeyframes", images=clip(11, 40, 70), frames=8, width=16, height=10)
    return {
        "model": model,
        "prompts": run("ReScoreEncodePromptPair", model=model)[0],
        "latent": run("ReScoreVideoVAEEncode", model=model, images=keyframes[0])[0],
    }


def edit(run, scene, *terms, **settings):
    inputs = {"steps": 2, "cfg": 3.0, "step_size": 0.5} | settings
    made = run("ReScoreDeltaDenoising")[0]
    for term in terms:
        made = run(term, terms=made)[0]
    return run("ReScoreScoreDistillation", **scene, terms=made, **inputs)


def test_pixels_are_the_latents_and_come_back_exactly(run, scene):
    samples = scene["latent"]["samples"]
    assert samples.shape == (8, 3, 12, 16)  # 10 lines are padded to 12
    back = run("ReScoreVideoVAEDecode", model=scene["model"], latent=scene["latent"])[0]
    assert back.shape == (8, 10, 16, 3)
    shown = samples[:, :, :10].permute(0, 2, 3, 1) / 2 + 0.5
    torch.testing.assert_close(back, shown, rtol=0, atol=1e-6)


@pytest.mark.parametrize("term", ["ReScoreSpatialSelfSimilarity", "ReScoreTemporalSelfSimilarity"])
def test_every_term_on_keys_changes_the_edit_of_keyframes(run, scene, term):
    plain = edit(run, scene)[0]["samples"]
    assert not torch.equal(edit(run, scene, term)[0]["samples"], plain)


@pytest.mark.parametrize(
    ("node", "wired"),
    [
        ("ReScoreAdaptiveSliding", False),
        ("ReScoreFlowSmoothing", True),
        ("ReScoreContentPreservation", True),
        ("ReScoreGlobalConsistency", True),
    ],
)
def test_terms_of_assd_and_of_flow_change_the_edit_of_keyframes_too(run, scene, node, wired):
    plain = edit(run, scene)[0]["samples"]
    inputs = {"terms": run("ReScoreDeltaDenoising")[0]} if wired else {}
    if node == "ReScoreFlowSmoothing":
        keyframes = run("ReScoreVideoVAEDecode", model=scene["model"], latent=scene["latent"])[0]
        inputs["flow"] = run("ReScoreOpticalFlow", images=keyframes)[0]
    terms = run(node, **inputs)[0]
    made = run(
        "ReScoreScoreDistillation", **scene, terms=terms, steps=2, cfg=3.0, step_size=0.5
    )[0]["samples"]  # fmt: skip
    assert made.isfinite().all() and not torch.equal(made, plain)


def test_fusion_acts_in_joint_attention(run, scene):
    fusion = run("ReScoreAttentionFusion", layers=1, weight=0.5)[0]
    plain = edit(run, scene)[0]["samples"]
    assert not torch.equal(edit(run, scene, fusion=fusion)[0]["samples"], plain)


def test_a_gradient_is_shown_at_the_size_of_the_keyframes(run, scene):
    terms = run("ReScoreDeltaDenoising")[0]
    energy, adaptive, _ = run("ReScoreInspectGradient", **scene, terms=terms)
    assert energy.shape == (8, 10, 16, 3) and adaptive.shape == (8, 10, 16)
    assert energy.amax() == 1


def test_where_the_mask_is_black_keyframes_stay_bit_for_bit(run, scene):
    mask = torch.zeros(8, 10, 16)
    mask[3, :4, :5] = 1
    edited = edit(run, scene, mask=mask)[0]["samples"]
    changed = (edited != scene["latent"]["samples"]).any(dim=1)
    assert changed.nonzero()[:, 0].unique().tolist() == [3]
    assert int(changed.sum()) == 20


@pytest.mark.parametrize(("width", "height"), [(64, 40), (128, 80)])
def test_keyframes_of_both_sizes_of_the_paper_are_edited(run, scene, clip, width, height):
    small = run("ReScorePickKeyframes", images=clip(5, 160, 256), frames=2, width=width,
        height=height)[0]  # fmt: skip
    latent = run("ReScoreVideoVAEEncode", model=scene["model"], images=small)[0]
    terms = ["ReScoreSpatialSelfSimilarity", "ReScoreTemporalSelfSimilarity"]
    made = edit(run, scene | {"latent": latent}, *terms, steps=1)[0]
    back = run("ReScoreVideoVAEDecode", model=scene["model"], latent=made)[0]
    assert back.shape == (2, height, width, 3) and not torch.equal(back, small)


def test_longer_clips_go_in_windows_of_eight(run, cascade, clip, scene):
    model = scene["model"]
    latent = run("ReScoreVideoVAEEncode", model=model, images=clip(13, 12, 16))[0]
    edited = edit(run, scene | {"latent": latent}, steps=1)[0]
    assert edited["samples"].shape == (13, 3, 12, 16)


def test_the_baseline_inverts_keyframes_and_samples_them_under_the_target(run, scene):
    trajectory, _ = run("ReScoreDDIMInversion", **scene, steps=3)
    assert trajectory.trajectory.latents.shape == (4, 1, 3, 8, 12, 16)


def test_keyframes_become_a_large_clip(run, cascade, scene):
    keyframes = run("ReScoreVideoVAEDecode", model=scene["model"], latent=scene["latent"])[0]
    small = run(
        "ReScoreInterpolateKeyframes", stage=cascade("interpolation"), prompts=scene["prompts"],
        keyframes=keyframes[:3, :8, :], steps=1,
    )[0]  # fmt: skip
    assert small.shape == (9, 8, 16, 3)
    large = run(
        "ReScoreEnlargeClip", image_stage=cascade("image-sr"), stage=cascade("video-sr"),
        prompts=scene["prompts"], images=small, factor=2, image_steps=1, steps=1,
    )[0]  # fmt: skip
    assert large.shape == (9, 16, 32, 3)
    assert 0 <= float(large.min()) <= float(large.max()) <= 1


@pytest.mark.parametrize("strength", [0, 0.5, 1])
def test_a_clip_is_resampled_as_far_as_its_strength_says(run, scene, strength):
    latent = run("ReScoreResampleClip", **scene, steps=4, strength=strength, cfg=2)[0]
    same = torch.equal(latent["samples"], scene["latent"]["samples"])
    assert same == (strength == 0)


def test_the_last_stage_of_show_1_goes_on_from_the_enlarged_clip(
    run, scene, clip, tmp_path, monkeypatch
):
    """As the note of the graph says: scaled, encoded, resampled and decoded by show-1-sr2.

    Its folder is that of any latent video model, under the name of its pipeline.
    """
    folder = write_tiny_t2v(tmp_path / "diffusers" / "show-1-sr2", seed=5)
    edit_json(folder / "model_index.json", _class_name="VideoToVideoSDPipeline")
    monkeypatch.setenv("RESCORE_MODELS", str(tmp_path))
    model = run("ReScoreLoadVideoModel", folder="show-1-sr2")[0]
    prompts = run("ReScoreEncodePromptPair", model=model)[0]
    large = clip(9, 16, 32).movedim(-1, 1)
    scaled = torch.nn.functional.interpolate(large, (40, 72), mode="bilinear").movedim(1, -1)
    latent = run("ReScoreVideoVAEEncode", model=model, images=scaled)[0]
    made = run("ReScoreResampleClip", model=model, prompts=prompts, latent=latent, steps=5)[0]
    images = run("ReScoreVideoVAEDecode", model=model, latent=made)[0]
    assert images.shape == (9, 40, 72, 3)
    assert not torch.equal(made["samples"], latent["samples"])
    with pytest.raises(ValueError, match=r"embeddings are .* wide, show-1-sr2 takes"):
        run("ReScoreResampleClip", model=model, prompts=scene["prompts"], latent=latent, steps=5)


def test_masks_of_keyframes_are_those_of_the_frames_that_were_picked(run, clip):
    masks = torch.arange(29.0)[:, None, None].expand(29, 40, 90) / 28
    _, picked = run(
        "ReScorePickKeyframes", images=clip(29, 40, 90), frames=8, width=16, height=8, mask=masks
    )
    assert picked.shape == (8, 40, 80)  # cut as the clip is
    torch.testing.assert_close(picked[:, 0, 0], torch.arange(0, 29, 4) / 28)
    _, everywhere = run("ReScorePickKeyframes", images=clip(29, 40, 64), width=16, height=10)
    assert everywhere.shape == (1, 40, 64) and everywhere.min() == 1


def loops(run, cascade, scene, clip):
    """Calls of the two loops after the keyframes, each of one step, and their stages."""
    between, image, large = (cascade(role) for role in ("interpolation", "image-sr", "video-sr"))

    def interpolated():
        run(
            "ReScoreInterpolateKeyframes", stage=between, prompts=scene["prompts"],
            keyframes=clip(3, 8, 16), steps=1,
        )  # fmt: skip

    def enlarged():
        run(
            "ReScoreEnlargeClip", image_stage=image, stage=large, prompts=scene["prompts"],
            images=clip(9, 8, 16), factor=2, image_steps=1, steps=1,
        )  # fmt: skip

    return (interpolated, 2, (between,)), (enlarged, 3, (image, large))


class Cancelled(Exception):
    pass


@pytest.mark.parametrize("which", [0, 1])
def test_cancel_stops_a_loop_at_any_step_and_nothing_grows(
    run, cascade, scene, clip, monkeypatch, which
):
    call, steps, _ = loops(run, cascade, scene, clip)[which]
    done = 0

    def check(at=None):
        nonlocal done
        done += 1
        if done == at:
            raise Cancelled

    monkeypatch.setattr(host, "check_cancelled", check)
    call()
    assert done == steps  # one for each step of each pair, frame or window
    left = []
    with Watch() as watch:
        for at in (None, 1, None, steps):
            done = 0
            monkeypatch.setattr(host, "check_cancelled", lambda at=at: check(at))
            if at is None:
                call()
            else:
                with pytest.raises(Cancelled):
                    call()
            left.append(watch.live())
    assert left == [left[0]] * 4


@pytest.mark.parametrize("which", [0, 1])
def test_every_step_shows_a_picture_of_the_middle_frame(
    run, cascade, scene, clip, monkeypatch, which
):
    call, steps, _ = loops(run, cascade, scene, clip)[which]
    shown = []

    def progress(total):
        return lambda done, preview: shown.append((done, total, host._picture(preview()).size))

    monkeypatch.setattr(host, "progress", progress)
    call()
    size = (16, 8) if which == 0 else (32, 16)
    assert shown == [(step, steps, size) for step in range(1, steps + 1)]


@pytest.mark.parametrize("which", [0, 1])
def test_room_is_made_for_what_a_call_takes_and_not_for_much_more(
    run, cascade, scene, clip, monkeypatch, which
):
    """What a stage's pass with guidance holds at most, in float32, against the room made for it."""
    call, _, _ = loops(run, cascade, scene, clip)[which]
    rooms, found = [], []
    load, guided = host.load, Denoiser.guided

    def noted(model, part, *, memory=0):
        load(model, part, memory=memory)
        rooms.append(memory)

    def counted(self, z, *inputs):
        with Storages() as storages:
            said = guided(self, z, *inputs)
        if z.shape[2] in (1, 5, 8):  # whole windows
            found.append((len(rooms), storages.peak))
        return said

    monkeypatch.setattr(host, "load", noted)
    monkeypatch.setattr(Denoiser, "guided", counted)
    call()
    assert len(found) == 2
    for at, peak in found:
        assert 0.5 * rooms[at - 1] < peak < rooms[at - 1]


def test_one_stages_weights_are_on_the_device_at_a_time(run, cascade, scene, clip, monkeypatch):
    _, (enlarged, _, stages) = loops(run, cascade, scene, clip)
    there, seen = set(host._loaded), []
    began = host.load

    def load(model, part, *, memory=0):
        assert not host._loaded
        began(model, part, memory=memory)
        seen.append(set(host._loaded))

    monkeypatch.setattr(host, "load", load)
    assert there  # the keyframe model, from the edit before
    enlarged()
    assert seen == [{stage.unet} for stage in stages] and not host._loaded


# --- bad input ------------------------------------------------------------------------------------


def test_a_stage_in_the_wrong_place_is_told(run, cascade, scene, clip):
    with pytest.raises(ValueError, match=r"video-sr enlarges a clip .* here goes a stage"):
        run(
            "ReScoreInterpolateKeyframes", stage=cascade("video-sr"), prompts=scene["prompts"],
            keyframes=clip(2, 8, 16),
        )  # fmt: skip
    with pytest.raises(ValueError, match="here goes a stage that enlarges one picture"):
        run(
            "ReScoreEnlargeClip", image_stage=cascade("video-sr"), stage=cascade("video-sr"),
            prompts=scene["prompts"], images=clip(2, 8, 16),
        )  # fmt: skip


def test_a_clip_of_another_aspect_is_cut_and_told(run, clip, caplog):
    picked = run("ReScorePickKeyframes", images=clip(9, 40, 90), frames=3, width=16, height=8)[0]
    assert picked.shape == (3, 8, 16, 3)
    assert "another aspect than the clip (90 x 40): 0 % of its height and 11 %" in caplog.text


def test_a_clip_of_which_keyframes_make_no_clip_of_its_length_is_told(run, clip, caplog):
    run("ReScorePickKeyframes", images=clip(30, 40, 64), frames=8, width=16, height=10)
    assert "makes 29 frames of 8 keyframes, and the clip has 30" in caplog.text


def test_masks_that_are_not_the_clips_are_told(run, clip):
    with pytest.raises(ValueError, match="The mask has 3 frames and the clip has 9"):
        run("ReScorePickKeyframes", images=clip(9, 8, 16), frames=3, mask=torch.ones(3, 8, 16))


def test_prompts_of_another_encoder_and_one_keyframe_are_told(run, cascade, scene, clip):
    tiny = run("ReScoreLoadShapeWorldModel", model="shapeworld-sd")[0]
    other = run("ReScoreEncodePromptPair", model=tiny)[0]
    for prompts, frames, said in ((other, 2, "are 64 wide"), (scene["prompts"], 1, "is 1 keyf")):
        with pytest.raises(ValueError, match=said):
            run(
                "ReScoreInterpolateKeyframes", stage=cascade("interpolation"), prompts=prompts,
                keyframes=clip(frames, 8, 16), steps=1,
            )  # fmt: skip


def test_a_factor_that_fits_no_stage_is_told_before_anything_runs(run, cascade, scene, clip):
    with pytest.raises(ValueError, match=r"3 times as large, frames are 30 x 27.*multiples of 4"):
        run(
            "ReScoreEnlargeClip", image_stage=cascade("image-sr"), stage=cascade("video-sr"),
            prompts=scene["prompts"], images=clip(2, 9, 10), factor=3,
        )  # fmt: skip


def test_the_tiny_stages_are_offered_and_both_sizes_of_keyframes_are_taken(run, clip):
    offered, _ = rescore.NODE_CLASS_MAPPINGS["ReScoreLoadCascadeStage"].INPUT_TYPES()["required"][
        "folder"
    ]
    for role in ("interpolation", "image-sr", "video-sr"):
        assert f"shapeworld-cascade/{role}" in offered
        stage = run("ReScoreLoadCascadeStage", folder=f"shapeworld-cascade/{role}")[0]
        assert stage.role == role
    model = run("ReScoreLoadShapeWorldModel", model="shapeworld-cascade")[0]
    for width, height in ((64, 40), (128, 80)):
        keyframes, _ = run(
            "ReScorePickKeyframes", images=clip(8, 160, 256), width=width, height=height
        )
        latent = run("ReScoreVideoVAEEncode", model=model, images=keyframes)[0]
        assert latent["samples"].shape == (8, 3, height, width)
        back = run("ReScoreVideoVAEDecode", model=model, latent=latent)[0]
        torch.testing.assert_close(back, keyframes)


def test_a_clip_that_was_not_made_small_is_told(run, scene, clip):
    with pytest.raises(ValueError, match="300 x 12 pixels, and this model works on pixels"):
        run("ReScoreVideoVAEEncode", model=scene["model"], images=clip(2, 12, 300))


def test_what_reads_attention_to_text_alone_is_told(run, scene):
    with pytest.raises(
        ValueError, match=r"share one attention.*prompt_control to off.*paint a mask"
    ):
        run("ReScoreMaskFromWords", **scene, words="circle")


def test_an_image_model_cannot_guide_pixels(run, scene):
    image = run("ReScoreLoadShapeWorldModel", model="shapeworld-sd")[0]
    prompts = run("ReScoreEncodePromptPair", model=image)[0]
    terms = run("ReScoreImageDeltaDenoising", image_model=image, image_prompts=prompts)[0]
    with pytest.raises(ValueError, match=r"different latent spaces .*3 channels, 1 pixels a lat"):
        run("ReScoreScoreDistillation", **scene, terms=terms, steps=1)


@pytest.mark.parametrize(
    ("node", "with_latent"),
    [
        ("ReScoreInflateImageModel", False),
        ("ReScoreSaveTunedWeights", False),
        ("ReScoreOneShotTune", True),
        ("ReScoreCovariateShift", True),
    ],
)
def test_what_needs_another_network_refuses_a_cascade(run, scene, node, with_latent):
    inputs = scene if with_latent else {"model": scene["model"]}
    with pytest.raises(
        ValueError, match=r"works on UNets of Stable Diffusion .*a cascade of pixels"
    ):
        run(node, **inputs)


def test_null_text_takes_one_embedding_for_the_clip(run, scene):
    """Per frame, a cascade's models read none; the sentence names the widget's other choice."""
    trajectory, _ = run("ReScoreDDIMInversion", **scene, steps=2)
    inputs = {name: scene[name] for name in ("model", "prompts")} | {"trajectory": trajectory}
    with pytest.raises(ValueError, match=r'one text embedding for a whole.*"one for the clip"'):
        run("ReScoreNullTextOptimisation", **inputs, embeddings="one per frame")
    null_text, *_ = run(
        "ReScoreNullTextOptimisation", **inputs, embeddings="one for the clip", inner_steps=1
    )
    plain = {"layout_control": True, "background_control": False, "prompt_control": "off"}
    run("ReScoreAttentionControlledSampling", **inputs, **plain, null_text=null_text)


@pytest.mark.parametrize(
    ("controls", "said"),
    [
        ({"background_control": True, "prompt_control": "off"}, "switch background_control off"),
        ({"background_control": False, "prompt_control": "refine"}, "set prompt_control to off"),
    ],
)
def test_controls_that_joint_attention_cannot_have_are_told_by_their_widgets(
    run, scene, controls, said
):
    trajectory, _ = run("ReScoreDDIMInversion", **scene, steps=2)
    with pytest.raises(ValueError, match=f"Attention-Controlled Sampling {said}"):
        run(
            "ReScoreAttentionControlledSampling", model=scene["model"], prompts=scene["prompts"],
            trajectory=trajectory, mask=torch.eye(16)[None], **controls,
        )  # fmt: skip


@pytest.mark.parametrize("kind", ["text-to-video", "image", "wan"])
def test_latents_of_pixels_and_of_others_do_not_mix(
    run, scene, load, clip, kind, monkeypatch, model_folders
):
    monkeypatch.setenv("RESCORE_MODELS", str(model_folders))
    other = load(kind)
    with pytest.raises(ValueError, match="The latents have"):
        run("ReScoreVideoVAEDecode", model=other, latent=scene["latent"])
    latent = run("ReScoreVideoVAEEncode", model=other, images=clip(5, 16, 16))[0]
    with pytest.raises(ValueError, match="The latents have"):
        run("ReScoreVideoVAEDecode", model=scene["model"], latent=latent)
    with pytest.raises(ValueError, match="The latents have"):
        edit(run, scene | {"latent": latent})


def test_frames_that_are_none_are_told_by_every_node_that_takes_them(run, cascade, scene, clip):
    texts = {"prompts": scene["prompts"]}
    between, image, large = (cascade(role) for role in ("interpolation", "image-sr", "video-sr"))
    for images, said in (
        (clip(3, 8, 16) * torch.nan, "NaN or infinite pixels in frames 0 to 2"),
        (clip(3, 8, 16)[:0], "has no frames"),
    ):
        with pytest.raises(ValueError, match=said):
            run("ReScorePickKeyframes", images=images, frames=2)
        with pytest.raises(ValueError, match=said):
            run("ReScoreInterpolateKeyframes", **texts, stage=between, keyframes=images)
        with pytest.raises(ValueError, match=said):
            run("ReScoreEnlargeClip", **texts, image_stage=image, stage=large, images=images)


def test_keyframes_whose_sides_fit_no_stage_are_told(run, cascade, scene, clip):
    with pytest.raises(ValueError, match=r"13 x 15, .*multiples of 4. Choose .*Pick Keyframes"):
        run(
            "ReScoreInterpolateKeyframes", prompts=scene["prompts"], keyframes=clip(2, 15, 13),
            stage=cascade("interpolation"), steps=1,
        )  # fmt: skip
