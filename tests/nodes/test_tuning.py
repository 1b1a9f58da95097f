"""Inflate, tune, save, load, measure: through the shells, inside inference mode as in the host."""

import copy
import math
from dataclasses import replace

import pytest
import rescore
import torch
from rescore.nodes import host, tuning
from rescore.nodes.inflation import InflateImageModel
from rescore.nodes.tuning import OneShotTune
from rescore.pipelines.models.unet.inflation import VARIANTS
from rescore.pipelines.tuning.one_shot_tuning import Diverged
from safetensors.torch import load_file
from tiny_models import eps_of


@pytest.fixture
def scene(run, given, clip):
    """An image model, the same inflated, prompts and a clip's latents."""
    inputs = given("image", clip(3, 11, 14))
    image = inputs.pop("model")
    return image, run("ReScoreInflateImageModel", model=image)[0], inputs


@pytest.fixture
def tune(run):
    """`tune(model, inputs, **settings)`: the outputs of One-Shot Tune, by name."""

    def make(model, inputs, **settings):
        settings = {"steps": 3, "learning_rate": 1e-3} | settings
        names = rescore.NODE_CLASS_MAPPINGS["ReScoreOneShotTune"].RETURN_NAMES
        values = run("ReScoreOneShotTune", model=model, **inputs, **settings)
        return dict(zip(names, values, strict=True))

    return make


def predict(model, seed: int = 1) -> torch.Tensor:
    z = torch.randn(1, 4, 3, 6, 7, generator=torch.Generator().manual_seed(seed))
    width = model.unet.config.cross_attention_dim
    cond = torch.randn(1, 5, width, generator=torch.Generator().manual_seed(2))
    return eps_of(model, z, 411, cond)


def test_every_variant_can_be_chosen():
    offered = InflateImageModel.INPUT_TYPES()["required"]["variant"][0]
    assert set(offered) == VARIANTS.keys() - {"ei2-r4"}  # that is ei2 with another ratio


def test_inflating_leaves_the_image_model_usable(run, load):
    image = load("image")
    before = predict(image)
    video, report = run("ReScoreInflateImageModel", model=image, variant="ei2", ratio=4)
    assert (video.kind, str(video.unet.variant)) == ("inflated", "fine-coarse/4 + stam")
    assert "Trained are" in report and "fine-coarse/4 + stam" in report
    assert torch.equal(predict(image), before)


def test_wrong_models_are_told(run, load, scene, tune):
    image, video, inputs = scene
    with pytest.raises(ValueError, match="inflated already"):
        run("ReScoreInflateImageModel", model=video)
    with pytest.raises(ValueError, match="knows time by itself"):
        run("ReScoreInflateImageModel", model=load("text-to-video"))
    with pytest.raises(ValueError, match="nothing to train"):
        tune(image, inputs)


def test_tuning_gives_a_model_that_has_learned(scene, tune):
    _, video, inputs = scene
    before = predict(video)
    out = tune(video, inputs)
    assert out["model"].kind == "inflated" and out["model"].unet is not video.unet
    assert not torch.equal(predict(out["model"]), before)
    assert torch.equal(predict(video), before)
    assert len(out["losses"]["loss"]) == 3 and all(map(math.isfinite, out["losses"]["loss"]))
    assert out["loss_curve"].shape == (1, 432, 768, 3)
    assert out["previews"].shape == (1, 11, 14, 3)
    assert "3 steps are made" in out["report"] and "Trained are" in out["report"]
    assert out["model"].fingerprint != video.fingerprint
    assert not any(p.requires_grad for p in out["model"].unet.parameters())


def test_a_run_can_be_split(scene, tune):
    _, video, inputs = scene
    whole = tune(video, inputs, steps=4)
    part = tune(video, inputs, steps=1)
    rest = tune(video, inputs, steps=4, state=part["state"])
    assert rest["losses"] == whole["losses"]
    assert torch.equal(predict(rest["model"]), predict(whole["model"]))
    assert "4 steps are made, 3 of them now" in rest["report"]


def test_preview_edits(scene, tune):
    _, video, inputs = scene
    out = tune(video, inputs, preview_every=1, preview_steps=2)
    assert out["previews"].shape == (4, 11, 14, 3)
    assert not torch.equal(out["previews"][0], out["previews"][3])
    assert out["losses"] == tune(video, inputs)["losses"]  # they cost no randomness
    described = tune(video, inputs, preview_every=1, preview_steps=2, preview_describe=True)
    assert not torch.equal(described["previews"][3], out["previews"][3])


def test_a_preview_is_of_the_model_that_is_handed_over(scene, tune, monkeypatch):
    """Its spectral norms are exact; those in training are not, and less so the faster it learns."""
    shown = []

    def noted(model, network, *rest):
        shown.append(network)
        return preview(model, network, *rest)

    preview = tuning._preview
    monkeypatch.setattr(tuning, "_preview", noted)
    _, video, inputs = scene
    out = tune(video, inputs, preview_every=3, preview_steps=2, learning_rate=0.1)
    (network,) = shown
    final = out["model"].network.tuned_state()
    for name, tensor in network.tuned_state().items():
        assert torch.equal(tensor, final[name]), name


class Cancelled(Exception):
    pass


def cancel_at(monkeypatch, step: int) -> None:
    """From now on the user presses Cancel at a step of each run."""

    def progress(total):
        def show(done, preview=None):
            if done == step:
                raise Cancelled

        return show

    monkeypatch.setattr(host, "progress", progress)


def run_node(node, video, inputs, **settings):
    settings = {
        "steps": 4, "learning_rate": 1e-3, "seed": 0, "precision": "as loaded",
        "checkpointing": True, "preview_every": 0, "preview_steps": 2, "preview_cfg": 7.5,
    } | settings  # fmt: skip
    with torch.inference_mode():
        return node.tune(video, **inputs, **settings)


def test_cancel_keeps_what_was_learned(scene, monkeypatch):
    _, video, inputs = scene
    whole = run_node(OneShotTune(), video, inputs)
    node = OneShotTune()
    with monkeypatch.context() as patched:
        cancel_at(patched, 2)
        with pytest.raises(Cancelled):
            run_node(node, video, inputs)
    as_it_is = run_node(copy.copy(node), video, inputs, steps=2)
    assert "2 steps are made, 0 of them now" in as_it_is[5]
    on = run_node(copy.copy(node), video, inputs)
    assert "4 steps are made, 2 of them now" in on[5]
    assert on[2] == whole[2]
    assert torch.equal(predict(on[0]), predict(whole[0]))


@pytest.mark.parametrize(
    "change",
    [{"learning_rate": 2e-3}, {"seed": 5}, {"steps": 1}, {"precision": "bf16"}, "clip", "words"],
)
def test_what_was_kept_is_not_used_for_another_run(scene, monkeypatch, change):
    _, video, inputs = scene
    node = OneShotTune()
    with monkeypatch.context() as patched:
        cancel_at(patched, 2)
        with pytest.raises(Cancelled):
            run_node(node, video, inputs)
    if change == "clip":
        latent = inputs["latent"]
        inputs = inputs | {"latent": latent | {"samples": latent["samples"] + 0.5}}
        change = {}
    if change == "words":
        # The same prompt as another text encoder reads it.
        prompts = inputs["prompts"]
        other = prompts.embeddings._replace(source=prompts.embeddings.source + 0.5)
        inputs, change = inputs | {"prompts": replace(prompts, embeddings=other)}, {}
    again, fresh = (run_node(n, video, inputs, **change) for n in (node, OneShotTune()))
    assert again[2] == fresh[2]
    assert "0 of them now" not in again[5]


def test_a_run_from_a_wired_state_goes_on_and_is_not_taken_for_one_without(
    scene, tune, monkeypatch
):
    _, video, inputs = scene
    begun, other = (tune(video, inputs, steps=1, seed=seed)["state"] for seed in (7, 8))
    node = OneShotTune()
    with monkeypatch.context() as patched:
        cancel_at(patched, 2)
        with pytest.raises(Cancelled):
            run_node(node, video, inputs, state=begun)
    for state, made_now in ((begun, 1), (other, 3), (None, 4)):
        on = run_node(copy.copy(node), video, inputs, state=state)
        assert f"4 steps are made, {made_now} of them now" in on[5]
        assert on[2] == run_node(OneShotTune(), video, inputs, state=state)[2]
        assert ("this node's run before" in on[5]) == (state is begun)


def test_a_run_that_diverges_says_what_to_do_and_keeps_what_was_good(scene):
    _, video, inputs = scene
    node = OneShotTune()
    with pytest.raises(Diverged, match="Lower the learning rate") as told:
        run_node(node, video, inputs, learning_rate=1e37, steps=40)
    kept = told.value.state.step
    good = run_node(node, video, inputs, learning_rate=1e37, steps=kept)
    assert torch.isfinite(predict(good[0])).all()


def test_a_clip_of_one_frame(scene, tune):
    _, video, inputs = scene
    one = inputs["latent"] | {"samples": inputs["latent"]["samples"][:1]}
    out = tune(video, inputs | {"latent": one})
    assert all(map(math.isfinite, out["losses"]["loss"]))


@pytest.fixture
def folder(tmp_path):
    """Nodes write their files here."""
    with host.writing_to(tmp_path):
        yield tmp_path


def test_saved_and_loaded_weights_predict_the_same_bits(run, scene, tune, folder):
    image, video, inputs = scene
    tuned = tune(video, inputs)["model"]
    same, file = run("ReScoreSaveTunedWeights", model=tuned, name="red to blue")
    assert same is tuned
    assert file == str(folder / "rescore_tuned" / "red to blue.safetensors")
    name = "red to blue.safetensors"
    assert name in host.own_files_in("rescore_tuned", ".safetensors")
    for model in (image, video, run("ReScoreInflateImageModel", model=image, seed=9)[0]):
        before = predict(model)
        loaded, report = run("ReScoreLoadTunedWeights", model=model, file=name)
        assert torch.equal(predict(loaded), predict(tuned))
        assert torch.equal(predict(model), before)
        assert loaded.unet.tuning == tuned.unet.tuning
        assert loaded.fingerprint == tuned.fingerprint
    assert "for 3 steps" in report and "3 frames of 14 x 12 pixels" in report
    assert inputs["prompts"].source in report


def edit(run, model, inputs) -> torch.Tensor:
    """Inverted without a prompt and sampled with the target's, all controls off."""
    inverted = run("ReScoreDDIMInversion", model=model, steps=3, cfg=0.0, **inputs)[0]
    return run(
        "ReScoreAttentionControlledSampling",
        model=model,
        prompts=inputs["prompts"],
        trajectory=inverted,
        cfg=7.5,
        prompt_control="off",
        layout_control=False,
        background_control=False,
    )[0]["samples"]


def test_a_loaded_model_samples_the_same_bits(run, scene, tune, folder):
    image, video, inputs = scene
    tuned = tune(video, inputs)["model"]
    run("ReScoreSaveTunedWeights", model=tuned, name="a")
    loaded, _ = run("ReScoreLoadTunedWeights", model=image, file="a.safetensors")
    assert torch.equal(edit(run, loaded, inputs), edit(run, tuned, inputs))
    assert not torch.equal(edit(run, loaded, inputs), edit(run, video, inputs))


def test_what_comes_with_the_pack_is_loaded_unless_the_user_has_one_of_the_name(
    run, scene, tune, folder
):
    image, _, _ = scene
    (shipped,) = (host.SHIPPED / "rescore_tuned").iterdir()
    shape_world = run("ReScoreLoadShapeWorldModel", model="shapeworld-sd")[0]
    loaded, report = run("ReScoreLoadTunedWeights", model=shape_world, file=shipped.name)
    assert loaded.unet.tuning.step > 0 and shipped.name in report
    with pytest.raises(ValueError, match="was tuned on shapeworld-sd"):
        run("ReScoreLoadTunedWeights", model=image, file=shipped.name)
    run("ReScoreSaveTunedWeights", model=tune(*scene[1:])["model"], name=shipped.stem)
    assert host.own_file("rescore_tuned", shipped.name, ".safetensors").parent.parent == folder
    assert "for 3 steps" in run("ReScoreLoadTunedWeights", model=image, file=shipped.name)[1]


def test_what_comes_with_the_pack_holds_its_spectral_norms():
    """As learned, not only as loaded: each stored vector is the first of its weight."""
    (shipped,) = (host.SHIPPED / "rescore_tuned").iterdir()
    weights = load_file(shipped)
    norms = [name.removesuffix(".u") for name in weights if name.endswith(".u")]
    for name in norms:
        weight = weights[f"{name}.weight"]
        reached = (weight.T @ weights[f"{name}.u"]).norm()
        torch.testing.assert_close(reached, torch.linalg.matrix_norm(weight, 2), rtol=1e-5, atol=0)
    assert norms


def test_loaded_weights_edit_another_number_of_frames(run, scene, tune, folder):
    image, video, inputs = scene
    run("ReScoreSaveTunedWeights", model=tune(video, inputs)["model"], name="a")
    loaded, _ = run("ReScoreLoadTunedWeights", model=image, file="a.safetensors")
    z = torch.randn(1, 4, 5, 8, 6)
    cond = inputs["prompts"].embeddings.source
    assert torch.isfinite(eps_of(loaded, z, 411, cond)).all()


def test_weights_of_another_base_or_variant_are_refused(run, scene, tune, folder):
    image, video, inputs = scene
    run("ReScoreSaveTunedWeights", model=tune(video, inputs)["model"], name="a")
    other, _ = run("ReScoreInflateImageModel", model=image, variant="tune-a-video")
    message = r"a\.safetensors was tuned with the variant fine-coarse/2 \+ stam, and the model is"
    with pytest.raises(ValueError, match=message):
        run("ReScoreLoadTunedWeights", model=other, file="a.safetensors")
    unet = copy.deepcopy(image.unet)
    unet.conv_in.weight.data *= 1.5
    with pytest.raises(ValueError, match=r"was tuned on sd \(fingerprint .* is another model"):
        run("ReScoreLoadTunedWeights", model=replace(image, unet=unet), file="a.safetensors")


def test_models_that_were_not_tuned_are_not_saved(run, scene, folder):
    image, video, _ = scene
    for model in (image, video):
        with pytest.raises(ValueError, match="has not been tuned"):
            run("ReScoreSaveTunedWeights", model=model, name="a")


@pytest.mark.parametrize("name", ["", "  ", "../up", "a/b", "a\\b", ".hidden", "c:d"])
def test_names_that_are_none_are_refused(run, scene, tune, folder, name):
    _, video, inputs = scene
    tuned = tune(video, inputs, steps=0)["model"]
    with pytest.raises(ValueError, match="is no name for a file"):
        run("ReScoreSaveTunedWeights", model=tuned, name=name)


@pytest.mark.parametrize("file", ["none.safetensors", "../a.safetensors", "(nothing found: x)"])
def test_files_that_are_not_there_are_told(run, scene, folder, file):
    with pytest.raises(ValueError, match="Save tuned weights first"):
        run("ReScoreLoadTunedWeights", model=scene[0], file=file)


def test_a_file_saved_again_is_loaded_again(run, scene, tune, folder):
    node = rescore.NODE_CLASS_MAPPINGS["ReScoreLoadTunedWeights"]
    stamps = [node.IS_CHANGED(file="a.safetensors", model=None)]
    for steps in (0, 1):
        tuned = tune(scene[1], scene[2], steps=steps)["model"]
        run("ReScoreSaveTunedWeights", model=tuned, name="a")
        stamps.append(node.IS_CHANGED(file="a.safetensors", model=None))
    assert stamps[0] == "" and len(set(stamps)) == 3
    assert node.IS_CHANGED(file="a.safetensors", model=None) == stamps[-1]


def test_covariate_shift_of_two_models(run, scene, tune):
    image, video, inputs = scene
    other, _ = run("ReScoreInflateImageModel", model=image, variant="tune-a-video")
    tuned = tune(other, inputs)["model"]
    charts, report = run(
        "ReScoreCovariateShift", model=video, other_model=tuned, timesteps=2, **inputs
    )
    assert charts.shape == (3, 432, 768, 3)
    assert "1: fine-coarse/2 + stam" in report
    assert "2: sparse-causal + tune-a-video + clip norms, 3 steps" in report
    assert report.count("mean ") == 2
    with pytest.raises(ValueError, match="no modules along time"):
        run("ReScoreCovariateShift", model=image, **inputs)


@pytest.mark.parametrize("control", ["none", "prompt", "layout", "background"])
@pytest.mark.parametrize("variant", ["ei2", "tune-a-video"])
def test_a_tuned_model_edits_with_and_without_attention_control(run, scene, tune, variant, control):
    image, _, inputs = scene
    video, _ = run("ReScoreInflateImageModel", model=image, variant=variant)
    model = tune(video, inputs, steps=1)["model"]
    inverted = run("ReScoreDDIMInversion", model=model, steps=3, cfg=0.0, **inputs)[0]
    mask = torch.zeros(1, 11, 14)
    mask[:, 3:7, 4:9] = 1
    edited = run(
        "ReScoreAttentionControlledSampling",
        model=model,
        prompts=inputs["prompts"],
        trajectory=inverted,
        cfg=7.5,
        prompt_control="refine" if control == "prompt" else "off",
        layout_control=control == "layout",
        background_control=control == "background",
        tau_s=0.5,
        mask=mask,
    )[0]["samples"]
    assert edited.shape == inputs["latent"]["samples"].shape
    assert torch.isfinite(edited).all()
    assert not torch.equal(edited, inputs["latent"]["samples"])
